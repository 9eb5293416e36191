"""Which route answers: a pure function of the routes, their states and the clock."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .quota.opening import RouteState
from .types import Route

_MOMENT_SECONDS = 0.05


@dataclass(frozen=True)
class Choice:
    """What to do with a request now.

    Attributes:
        route: the route to ask, or to wait for; None if waiting does not help.
        opens_at: epoch seconds; in the future means wait. With no route: when the first opens,
            or inf.
        passed_over: shut routes that would have come before the chosen one.
        considered: every route looked at, in order, with what it had left at that moment.
    """

    route: Route | None
    opens_at: float
    passed_over: tuple[tuple[Route, RouteState], ...] = ()
    considered: tuple[tuple[Route, RouteState], ...] = ()


def choose(
    routes: Sequence[Route],
    state_of: Callable[[Route], RouteState],
    now: float,
    patience: float,
    preferred: str | None = None,
) -> Choice:
    """Offer a request to the routes in order, the first open one first.

    Order: the preferred provider, then free before paid, then the order of `routes`; within one
    provider and model the route with the most headroom. If only a paid route that nobody asked for
    is open, and a free or preferred one opens within `patience` seconds, wait for that; if none
    is open, wait likewise, and for a paid one only where no free one opens in time. A route that
    only awaits the outcome of a call under way is awaited whatever the patience is, if no other is
    open.
    """
    # Endless patience does not wait for what never opens.
    latest = min(now + patience, sys.float_info.max)
    shut: list[tuple[Route, RouteState]] = []
    considered: list[tuple[Route, RouteState]] = []

    def choice(route: Route | None, opens_at: float) -> Choice:
        return Choice(route, opens_at, tuple(shut), tuple(considered))

    for group in _groups(routes, preferred):
        states = [(route, state_of(route)) for route in group]
        considered.extend(states)
        is_open = [(route, state) for route, state in states if state.opens_at <= now]
        if is_open:
            if _costs_extra(group[0], preferred):
                soonest = _soonest(shut, preferred)
                if soonest and soonest[1].opens_at <= latest:
                    return choice(soonest[0], soonest[1].opens_at)
            route, _ = max(is_open, key=lambda pair: pair[1].headroom)
            shut.extend(pair for pair in states[: group.index(route)] if pair not in is_open)
            return choice(route, now)
        shut.extend(states)
    first = min(shut, key=lambda pair: pair[1].opens_at, default=None)
    for soonest in (_soonest(shut, preferred), first):
        if soonest and soonest[1].opens_at <= latest:
            return choice(soonest[0], soonest[1].opens_at)
    # To await what becomes of a call under way is no waiting for quota.
    tried = next((route for route, state in shut if state.on_trial), None)
    if tried is not None:
        return choice(tried, now + _MOMENT_SECONDS)
    return choice(None, first[1].opens_at if first else math.inf)


def _costs_extra(route: Route, preferred: str | None) -> bool:
    """Whether the route costs money that nobody asked to spend."""
    return route.paid and route.provider != preferred


def _groups(routes: Sequence[Route], preferred: str | None) -> list[list[Route]]:
    """Routes of one provider and model together, in the order they are asked."""
    groups: dict[tuple[str, str], list[Route]] = {}
    for route in routes:
        groups.setdefault((route.provider, route.model), []).append(route)
    return sorted(
        groups.values(), key=lambda group: (group[0].provider != preferred, group[0].paid)
    )


def _soonest(
    shut: Sequence[tuple[Route, RouteState]], preferred: str | None
) -> tuple[Route, RouteState] | None:
    """The shut route that opens first, of those that cost nothing extra."""
    cheap = [pair for pair in shut if not _costs_extra(pair[0], preferred)]
    return min(cheap, key=lambda pair: pair[1].opens_at, default=None)
