"""The routes of each provider together, with their totals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from html import escape

from arche_magic.llm_providers.types import Standing

from .quota_words import Limits, Soon, clock, label_of, left_of, share_left, state_of, tightest
from .styles import STATES


def by_provider(routes: Iterable[Limits]) -> dict[str, list[Limits]]:
    """The routes of each provider, in their order."""
    groups: dict[str, list[Limits]] = {}
    for limits in routes:
        groups.setdefault(limits[0].provider, []).append(limits)
    return groups


def summary(
    routes: Sequence[Limits],
    now: float,
    soon: Soon = "seconds",
    is_on: Callable[[Limits], bool] = lambda _: True,
) -> str:
    """`50 routes · ● 48 open · ◐ 2 waiting, the first opens 14:32 · requests/day 81 of 90 left`."""
    on = [limits for limits in routes if is_on(limits)]
    signs = [state_of(limits, now)[0] for limits in on]
    openings = (tightest(limits).opens_at for limits in on)
    first = min((moment for moment in openings if now < moment < math.inf), default=now)
    words = {"●": "open", "◐": f"waiting, the first opens {clock(first, now, soon)}", "○": "closed"}
    parts = [f"{len(routes)} route{'s' if len(routes) > 1 else ''}"]
    parts += [
        f'<span style="color:{STATES[sign]}">{sign}</span> {signs.count(sign)} {said}'
        for sign, said in words.items()
        if sign in signs
    ]
    parts += [f"○ {len(routes) - len(on)} off"] if len(on) < len(routes) else []
    if on:
        total = tightest_total(on)
        parts.append(escape(f"{label_of(total)} {left_of(total)}"))
    return " · ".join(parts)


def tightest_total(routes: Sequence[Limits]) -> Standing:
    """The sum of one limit over all routes: of the limit with the least left.

    Keys of one account share their limits, which count once.
    """
    each = {(row.account, row.model, row.limit): row for limits in routes for row in limits}
    totals: dict[str, Standing] = {}
    for row in each.values():
        if total := totals.get(row.limit):
            used, amount = total.used + row.used, total.amount + row.amount
            totals[row.limit] = replace(total, used=used, amount=amount)
        else:
            totals[row.limit] = row
    return min(totals.values(), key=share_left)
