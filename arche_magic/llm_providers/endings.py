"""How a request without a reply ends: one line that names every route, and what opens when."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from .errors import ContentFiltered, IncompleteReply, NoRouteAvailable
from .quota.opening import RouteState
from .reply import Attempt
from .types import Request, Route, in_seconds, utc

# Routes that were not asked are named up to this many in all.
_ROUTES_IN_A_MESSAGE = 4


def no_route(
    states: Mapping[Route, RouteState], out: Collection[Route], attempts: Sequence[Attempt],
    now: float, timeout: float | None, cause: str, request: Request,
) -> NoRouteAvailable:  # fmt: skip
    """The error of a request that no route answered.

    Args:
        states: of all its routes, as the ledger sees them now.
        out: routes that cannot answer it whenever they open.
        attempts: what was tried.
        now: epoch seconds.
        timeout: the seconds that were not enough, if that is why it ends.
        cause: what else kept it, or "".
        request: what was asked; it may leave out routes.
    """
    openings = {
        route: state.opens_at
        for route, state in states.items()
        if route not in out and now < state.opens_at < math.inf
    }
    lines, untold = [cause] if cause else [], 0
    asked = {
        route
        for route in states
        if any(a.is_on(route) and a.outcome != "skipped" for a in attempts)
    }
    for route, state in states.items():
        if route not in asked and len(lines) >= _ROUTES_IN_A_MESSAGE:
            untold += 1
            continue
        errors = [a.error for a in attempts if a.is_on(route) and a.error]
        why = state.reason or (errors[-1] if errors else "not asked")
        if route in openings:
            lines.append(f"{route} opens {in_seconds(state.opens_at - now)} ({why})")
        else:
            lines.append(f"{route}: {why}")
    if timeout is not None:
        head = f"No reply within {timeout:g} s"
    elif len(openings) == len(states) and {route.provider for route in states} == {"groq"}:
        head = "All Groq API keys have hit rate limits"
    else:
        head = "No available LLM providers"
    if untold:
        lines.append(f"and {untold} more")
    if request.private:
        lines.append("routes that are not marked private were not asked")
    if request.same_model:
        lines.append("other models were not asked")
    shown = "; ".join(lines)
    return NoRouteAvailable(
        f"{head}: {shown}",
        attempts=attempts,
        next_available_at=utc(min(openings.values())) if openings else None,
    )


def also_tried(filtered: ContentFiltered, others: NoRouteAvailable) -> ContentFiltered:
    """The error of a filtered reply after which the other routes were tried in vain."""
    error = ContentFiltered(
        f"{filtered}. {others}",
        attempts=others.attempts,
        next_available_at=others.next_available_at,
    )
    error.partial = filtered.partial
    return error


def out_of_tokens(
    cut: IncompleteReply, others: NoRouteAvailable, routes: Sequence[Route]
) -> IncompleteReply:
    """The error of a request whose tokens all went into reasoning, and that no other model took.

    It names no time: to ask again later would not help.
    """
    last = [attempt for attempt in others.attempts if attempt.outcome != "skipped"][-1]
    models = {(route.provider, route.model) for route in routes}
    error = IncompleteReply(
        str(cut) if models == {(last.provider, last.model)} else f"{cut}. {others}",
        attempts=others.attempts,
    )
    error.partial = cut.partial
    return error
