"""Parts of messages: suggestions for misspelt names, counts, percentages, and shortened texts."""

from __future__ import annotations

from collections.abc import Iterable

_MOST_DECIMALS = 2


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'groq'?` for a near miss, else nothing.

    The dashes before an option do not make it like another one.
    """
    import difflib

    names = {name.lstrip("-"): name for name in known}
    near = difflib.get_close_matches(word.lower().lstrip("-"), list(names), n=1, cutoff=0.6)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def plural(number: int, noun: str) -> str:
    """`1 row`, `2 rows`, `1,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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


def shortened(text: str, longest: int) -> str:
    """Return the text, cut to at most `longest` characters; "" if none fit."""
    return text if len(text) <= longest else text[: max(0, longest - 1)] + "…" * (longest > 1)
