"""Percentages in words."""

from __future__ import annotations

_MOST_DECIMALS = 2


def percent(share: float, decimals: int = 0) -> str:
    """A share from 0 to 1 as `42 %`.

    Only a share of 1 is `100 %`, and only 0 is `0 %`. Near them, more decimals are shown than
    `decimals`: `99.9 %`, `0.04 %`, or in the end `over 99.99 %` and `under 0.01 %`.
    """
    text = f"{100 * share:.{decimals}f}"
    if share in (0, 1) or float(text) not in (0, 100):
        return f"{text} %"
    if decimals < _MOST_DECIMALS:
        return percent(share, decimals + 1)
    return "under 0.01 %" if share < 0.5 else "over 99.99 %"
