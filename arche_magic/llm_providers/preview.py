"""Preview a request: which route would answer now, and what it would cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .prices import cost_usd
from .quota_tracker import QuotaTracker
from .request import Request
from .routing import choose
from .types import Route, Usage


@dataclass(frozen=True)
class Preview:
    """The expected outcome of a request; nothing was sent or reserved.

    Attributes:
        request: what would be sent, word for word.
        route: the one that would answer, after `wait`; None if none opens within the request's
            patience.
        wait: seconds until a route opens (0 if one is open); inf if waiting does not help.
        usage: the tokens it would probably use on that route.
        cost: USD for them; 0 on a free route, None if the price is not known.
        closed: the closed routes that come before `route`: when each opens (epoch seconds), and
            why.
        room: the largest input that one of its routes accepts, in tokens; inf if unknown.
    """

    request: Request
    route: Route | None
    wait: float
    usage: Usage
    cost: float | None
    closed: tuple[tuple[Route, float, str], ...]
    room: float


def preview(
    request: Request, routes: Sequence[Route], tracker: QuotaTracker, preferred: str | None
) -> Preview:
    """Preview a request to these routes; pass no routes if only kept replies may answer."""
    now = tracker.configuration.clock.time()
    states = tracker.states_for(request, now)
    choice = choose(routes, states, now, request.patience, preferred)
    likely = choice.route or next(iter(routes), None)
    usage = tracker.estimate(likely, request) if likely else Usage()
    return Preview(
        request=request,
        route=choice.route,
        wait=max(0.0, choice.opens_at - now),
        usage=usage,
        cost=cost_usd(likely, usage) if likely else 0.0,
        closed=tuple((route, state.opens_at, state.reason) for route, state in choice.skipped),
        room=max((tracker.room(route) for route in routes), default=math.inf),
    )
