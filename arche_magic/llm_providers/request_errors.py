"""The errors of requests without a reply: one line that names the routes and when they open."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .config.keys import is_stand_in
from .errors import (
    ConfigurationError,
    ContentFiltered,
    IncompleteReply,
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
)
from .provider_failure import NO_CONNECTION, Remedy
from .quota.opening import LIMIT, RouteState
from .reply import Attempt
from .text.wording import did_you_mean, joined
from .types import Route, RouteId, in_seconds, utc

if TYPE_CHECKING:
    from .config import Configuration
    from .request_progress import RequestProgress

# Routes that were not asked are named only while a message has fewer routes than this.
_ROUTES_IN_A_MESSAGE = 4


def no_route(
    progress: RequestProgress,
    states: Mapping[Route, RouteState],
    out: Collection[Route],
    now: float,
    cause: str,
    *,
    is_late: bool,
    too_large: bool,
) -> NoRouteAvailable:
    """Return the error of a request that no route answered.

    Args:
        progress: its attempts so far; the options of its request may exclude routes.
        states: of all its routes, as the ledger sees them now.
        out: routes that cannot answer it even when they open.
        now: epoch seconds.
        cause: another reason why the request ends, or "".
        is_late: whether its timeout has passed.
        too_large: whether it is larger than every route can take.
    """
    request = progress.request
    openings = {
        route: state.opens_at
        for route, state in states.items()
        if route not in out and now < state.opens_at < math.inf
    }
    shown = _shown(states, progress.attempts)
    lines = [cause] if cause else []
    for route, why in shown.items():
        if route in openings:
            lines.append(f"{route} opens {in_seconds(openings[route] - now)} ({why})")
        else:
            lines.append(f"{route}: {why}")
    limited = all(state.remedy == LIMIT for state in states.values())
    if is_late:
        head = f"No reply within {request.timeout:g} s"
    elif limited and len(openings) == len(states) and {r.provider for r in states} == {"groq"}:
        head = "All Groq API keys have hit rate limits"
    else:
        head = "No available LLM providers"
    if omitted := len(states) - len(shown):
        lines.append(f"and {omitted} more")
    if request.private:
        lines.append("routes that are not marked private were not asked")
    if request.same_model:
        lines.append("other models were not asked")
    lines += _next_steps({route: states[route] for route in shown}, progress.configuration)
    if shown and all(why.startswith(NO_CONNECTION) for why in shown.values()):
        lines.append("is this machine offline? %llm_doctor checks every address")
    return NoRouteAvailable(
        f"{head}: {joined(lines)}",
        too_large=too_large,
        timed_out=is_late,
        attempts=progress.attempts,
        next_available_at=utc(min(openings.values())) if openings else None,
    )


def _shown(states: Mapping[Route, RouteState], attempts: Sequence[Attempt]) -> dict[Route, str]:
    """Why each route that a message names did not answer: all that were asked, and a few others."""
    shown: dict[Route, str] = {}
    by_route: dict[RouteId, list[Attempt]] = {}
    for attempt in attempts:
        by_route.setdefault(attempt.route, []).append(attempt)
    for route, state in states.items():
        own = by_route.get(route.id, [])
        asked = any(attempt.outcome != "skipped" for attempt in own)
        if asked or len(shown) < _ROUTES_IN_A_MESSAGE:
            # The latest error includes the server's own words, which the ledger does not store.
            errors = [attempt.error for attempt in own if attempt.error]
            shown[route] = (errors[-1] if errors and asked else state.reason) or "not asked"
    return shown


def _next_steps(states: Mapping[Route, RouteState], configuration: Configuration) -> list[str]:
    """Return what the user can do about routes that do not open by themselves."""
    keys: dict[str, None] = {}
    steps: dict[str, None] = {}
    for route, state in states.items():
        if state.remedy == Remedy.REPLACE_KEY.name and is_stand_in(route.key):
            steps[f"{route.provider} asks for a key: %llm_doctor names its variable"] = None
        elif state.remedy == Remedy.REPLACE_KEY.name:
            source = f" ({route.key.source})" if route.key.source else ""
            keys[f"{route.key.label}{source}"] = None
        elif state.remedy == Remedy.CHANGE_MODEL.name:
            known = configuration.providers[route.provider].known_models
            near = "" if route.model in known else did_you_mean(route.model, sorted(known))
            hint = near.removeprefix("; ")
            step = f"choose a model other than {route.model}, or see %llm_doctor"
            steps[f"{hint} If not, {step}" if hint else step] = None
        elif state.remedy == Remedy.CHECK_ADDRESS.name and route.address:
            steps[f"{route.provider}'s base URL is {route.address}"] = None
    if keys:
        steps[f"replace {', '.join(keys)}, or ask again with %llm_keys check"] = None
    return list(steps)


def refused_by_all(attempts: Sequence[Attempt], option: str) -> InvalidRequest:
    """Return the error of a request that every route refused because of its content."""
    # Only the last error of each model: earlier ones refused another form of the request.
    reasons = {
        (a.provider, a.model): f"{a.provider} ({a.model}) does not take the request: {a.error}"
        for a in attempts
        if a.error and a.outcome in ("failed", "skipped")
    }
    return InvalidRequest(joined(reasons.values()), option=option, attempts=attempts)


def wrong_setup(problems: Iterable[str], attempts: Sequence[Attempt]) -> ConfigurationError:
    """Return the error of a request that proxy or certificate settings of this machine prevent.

    It names no provider, because no provider caused it.
    """
    shown = "; ".join(dict.fromkeys(problems))
    return ConfigurationError(f"No request can leave this machine: {shown}", attempts=attempts)


def also_tried(filtered: ContentFiltered, others: LLMProviderError) -> ContentFiltered:
    """Return the error of a filtered reply if the other routes gave no reply either."""
    return ContentFiltered(
        f"{str(filtered).rstrip(' .')}. {others}",
        partial=filtered.partial,
        attempts=others.attempts,
        next_available_at=others.next_available_at,
    )


def out_of_tokens(
    cut: IncompleteReply, others: LLMProviderError, routes: Sequence[Route]
) -> IncompleteReply:
    """Return the error if reasoning used all tokens of a request and no other model answered.

    It names no time, because asking again later would not help.
    """
    last = [attempt for attempt in others.attempts if attempt.outcome != "skipped"][-1]
    is_only_model = {(route.provider, route.model) for route in routes} == {
        (last.provider, last.model)
    }
    reasons = str(others).partition(": ")[2]
    return IncompleteReply(
        str(cut) if is_only_model else f"No answer: {reasons}",
        partial=cut.partial,
        attempts=others.attempts,
    )
