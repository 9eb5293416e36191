"""Quota and costs in words: states of routes, times, figures and prices."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Literal

from arche_magic.llm_providers.types import NEVER, RouteId, Standing, in_seconds

State = Literal["open", "waiting", "closed"]
SIGNS: Mapping[State, str] = {"open": "●", "waiting": "◐", "closed": "○"}


def state_at(opens_at: float, now: float) -> State:
    """The state at `now` of a route or key that opens at a time (epoch seconds), in one word.

    All displays use it. `open`: it takes a request now. `waiting`: it opens by itself, later.
    `closed`: it does not open by waiting.
    """
    if opens_at <= now:
        return "open"
    return "waiting" if opens_at < NEVER else "closed"


@dataclass(frozen=True)
class RouteQuota:
    """The limits of one route at one moment.

    Attributes:
        limits: its limits; there is at least one.
        now: the moment, in epoch seconds.
        paid: what the route has cost in this session, in words; "" if it is free.
        is_on: whether it is switched on.
        live: whether its display is redrawn, so that near times can count down.
    """

    limits: Sequence[Standing]
    now: float
    paid: str = ""
    is_on: bool = True
    live: bool = False

    @property
    def id(self) -> RouteId:
        """The route."""
        return self.limits[0].route

    @cached_property
    def tightest(self) -> Standing:
        """The limit that opens last; if all are open, the one with the smallest share left."""
        return max(self.limits, key=lambda row: (row.opens_at, -share_left(row)))

    @property
    def state(self) -> State:
        """Its state, in one word."""
        return state_at(self.tightest.opens_at, self.now)

    @property
    def opens(self) -> str:
        """When it opens if it is waiting: `14:32`, or "" if it is not."""
        if self.state != "waiting":
            return ""
        return clock_time(self.tightest.opens_at, self.now, self.live)

    @property
    def why(self) -> str:
        """Why it is not open: `0 of 30 requests per minute left`; "" if it is open."""
        last = self.tightest
        if self.state == "open":
            return ""
        why = last.closed_by or last.reason
        if last.amount <= 0:
            why = f"the plan has no {in_words(last.limit)}"
        elif not last.closed_by and last.used_units >= last.allowed_units:
            why = f"0 of {count_text(last.amount)} {in_words(last.limit)} left"
        return textwrap.shorten(why, 160, placeholder=" …")


def by_route(
    standings: Iterable[Standing],
    now: float,
    paid: Mapping[RouteId, str] = {},
    is_on: Callable[[RouteId], bool] | None = None,
) -> list[RouteQuota]:
    """The limits grouped by route, in their order.

    `paid` has the routes that cost money, with their cost in words. `is_on` says whether a route
    is switched on, and is given for displays that are redrawn.
    """
    groups = itertools.groupby(standings, key=lambda row: row.route)
    live = is_on is not None
    return [
        RouteQuota(tuple(limits), now, paid.get(route, ""), is_on is None or is_on(route), live)
        for route, limits in groups
    ]


def bar_length(row: Standing, longest: int) -> int:
    """The length of a limit's bar: 0 only if nothing is left, `longest` only if nothing is used."""
    left, allowed = row.remaining_units, row.allowed_units
    if left in (0, allowed):
        return longest if left else 0
    return min(longest - 1, max(1, round(longest * left / allowed)))


def clock_time(moment: float, now: float, live: bool = False) -> str:
    """The local time: `14:32`, `Tue 20:08` or `1 Dec`; `14:32:42` if it is less than 100 s ahead.

    In a `live` table, near times are a countdown, `in 42 s`; a saved table needs absolute times.
    """
    near = moment < now + 100
    if live and near:
        return in_seconds(max(0.0, moment - now))
    step = 1 if near else 60
    # Rounded up, so that it is not too early, but not because of rounding errors of a refilling
    # window.
    steps = math.ceil((moment - 1e-3) / step) if moment > now else moment // step
    local = datetime.fromtimestamp(steps * step).astimezone()
    days = (local.date() - datetime.fromtimestamp(now).astimezone().date()).days
    if abs(days) >= 7:
        return f"{local.day} {local:%b}"
    time = f"{local:%H:%M:%S}" if step == 1 else f"{local:%H:%M}"
    return f"{local:%a} {time}" if days else time


def as_of(now: float) -> str:
    """The moment of a table: `As of 24 Nov 2026, 14:32:05`."""
    return f"As of {datetime.fromtimestamp(now).astimezone():%d %b %Y, %H:%M:%S}"


def count_text(amount: float) -> str:
    """A count, rounded up; ten million or more in whole millions, so that columns stay narrow.

    Millions are rounded down: 999,999,000 of 1,000 M is not all of them.
    """
    whole = math.ceil(amount - 1e-6)
    if whole < 10_000_000:
        return f"{whole:,}"
    return f"{whole // 10**6:,} M" if whole < 10_000_000_000 else f"{whole // 10**9:,} G"


def sign_of(row: Standing, now: float) -> str:
    """A short sign for where the figure comes from; none for the published table."""
    if row.evidence == "published":
        return ""
    return "yours" if row.evidence == "configured" else f"✓ {_when_said(row, now)}"


def in_full(row: Standing, now: float) -> str:
    """The content of a meter in words."""
    left = f"{in_words(row.limit)}: {left_of(row)}"
    full = f", full again {when}" if (when := full_again(row, now)) else ""
    where = row.source.partition(";")[0]
    source = f" ({where})" if row.evidence == "published" and where else ""
    return f"{left}{full}; evidence: {evidence_of(row, now)}{source}"


def full_again(row: Standing, now: float) -> str:
    """When the whole limit is available again: `14:32`; "" if nothing is used."""
    return clock_time(row.resets_at, now) if row.used > 1e-6 else ""


def evidence_of(row: Standing, now: float) -> str:
    """The evidence for a figure, and when a provider stated it: `header 14:31:18`."""
    if row.evidence in ("published", "configured"):
        return row.evidence
    return f"{row.evidence} {_when_said(row, now)}"


def _when_said(row: Standing, now: float) -> str:
    return clock_time(min(row.evidence_at, now), now)


def in_words(limit: str) -> str:
    """The name of a limit in words: `requests per minute`."""
    return limit.replace("_", " ")


def in_short(limit: str) -> str:
    """The name of a limit in short: `requests/min`."""
    short = limit.replace("_per_", "/").replace("/minute", "/min").replace("/second", "/s")
    return in_words(short)


def amounts_of(row: Standing) -> str:
    """What is left of a limit, and the whole amount: `27 of 30`."""
    left, whole = row.remaining_units, row.allowed_units
    if left != whole and count_text(left) == count_text(whole):
        # Such as 10,400,000 of 10,500,000, which would both be 10 M.
        return f"{left:,} of {whole:,}"
    return f"{count_text(left)} of {count_text(whole)}"


def left_of(row: Standing) -> str:
    """What is left of a limit: `27 of 30 left`."""
    return f"{amounts_of(row)} left"


def share_left(row: Standing) -> float:
    """The share of a limit that is left, 0 to 1."""
    return row.remaining / row.amount if row.amount else 0.0


def price_text(cost: float | None) -> str:
    """`free`, `$0.0012`, below that `$0.000042`, or that the price is not known."""
    if cost is None:
        return "paid, price unknown"
    if 0 < cost < 1e-6:
        return "less than $0.000001"
    return f"${cost:.{4 if round(cost, 6) >= 0.0001 else 6}f}" if cost else "free"


def paid_text(cost: float | None) -> str:
    """`free`, `paid · $0.0012`, or that the price is not known."""
    return f"paid · {price_text(cost)}" if cost else price_text(cost)


def sum_text(cost: float, unpriced: int) -> str:
    """The cost of several attempts; `$0.0012 and more` if the price of some is unknown."""
    if not unpriced:
        return price_text(cost)
    return f"{price_text(cost)} and more" if cost else price_text(None)
