"""The routes that a request can still try, and its error if none answers.

The error is one line that names the routes and when they open.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .config.keys import is_placeholder
from .errors import (
    ConfigurationError,
    ContentFiltered,
    IncompleteReply,
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
    SchemaMismatch,
)
from .provider_failure import NO_CONNECTION, ProviderFailure, Remedy
from .quota.opening import LIMIT, RouteState
from .reply import Attempt
from .schemas import with_correction
from .text.wording import did_you_mean, joined
from .types import Route, RouteId, in_seconds, utc

if TYPE_CHECKING:
    from .attempt import Result
    from .config import Configuration
    from .request import Request
    from .request_progress import RequestProgress

_CALLS_PER_ROUTE, _CALLS_PER_REQUEST = 6, 100
"""Maximum number of calls that one request sends, to one route and in all."""
# Routes that were not asked are named only while a message has fewer routes than this.
_ROUTES_IN_A_MESSAGE = 4
# If there would be more than this, it names only the few that open first.
_MOST_ROUTES_IN_A_MESSAGE = 10


class Remaining:
    """The remaining routes of one request.

    Args:
        routes: all that it may take.
        progress: the request's.
    """

    def __init__(self, routes: Sequence[Route], progress: RequestProgress) -> None:
        self._routes, self._progress = routes, progress
        self._calls: Counter[Route] = Counter()
        # Routes that can never answer this request. Some refused the request itself; others cannot
        # be reached with the settings of this machine.
        self._left: set[Route] = set()
        self._unfit: set[Route] = set()
        self._too_small: set[Route] = set()
        self._unreachable: set[Route] = set()
        self._setup: dict[str, None] = {}
        # The subject of the last refusal of the request itself.
        self._option = ""
        # The error to raise if no other route answers.
        self._filtered: ContentFiltered | None = None
        self._all_reasoning: IncompleteReply | None = None
        self._mismatch: SchemaMismatch | None = None

    @property
    def needs_tokens(self) -> bool:
        """Whether a model used all its tokens for reasoning.

        The user can then raise `max_tokens`, sooner than a closed route opens.
        """
        return self._all_reasoning is not None

    def routes(self) -> Sequence[Route]:
        """The routes that may be asked, in order; none once the request has sent all its calls."""
        # Most requests need one call, and may have many routes.
        if not self._calls:
            return self._routes
        if self._calls.total() >= _CALLS_PER_REQUEST:
            return []
        done = self._left | {r for r, calls in self._calls.items() if calls >= _CALLS_PER_ROUTE}
        return [route for route in self._routes if route not in done] if done else self._routes

    def note_call(self, route: Route) -> None:
        """Count a call, whatever its result."""
        self._calls[route] += 1

    def judge(self, result: Result) -> LLMProviderError:
        """Drop the routes that cannot answer, after an attempt without a reply.

        A reply that does not fit its schema changes the request, which then states the problem.
        Returns the error of the attempt.

        Raises:
            ContentFiltered: the provider filtered, and no other model may try.
            SchemaMismatch: the second reply does not fit, or the reply was cut at max_tokens.
        """
        failure, attempt = result.failure, result.attempt
        if failure is None:
            return self._misfit(result)
        if failure.remedy is Remedy.SHORTEN_PROMPT or not result.is_booked:
            self._left.add(result.answer.route)
        if failure.remedy is Remedy.SHORTEN_PROMPT:
            self._too_small.add(result.answer.route)
        elif failure.remedy is Remedy.FIX_REQUEST:
            self._unfit |= self._leave_model(attempt)
            self._option = failure.option or self._option
        elif failure.remedy is Remedy.CHECK_SETUP:
            self._setup[failure.summary] = None
            self._unreachable.update(r for r in self._routes if r.provider == attempt.provider)
            self._left |= self._unreachable
        return self._broken(result, failure)

    def error(self, states: Mapping[Route, RouteState], now: float, cause: str) -> LLMProviderError:
        """The error of a request that no route answered.

        Args:
            states: of all its routes, as the ledger sees them now.
            now: epoch seconds.
            cause: another reason why the request ends, or "".
        """
        attempts = self._progress.attempts
        error = self._last_error(states, now, cause)
        if self._mismatch:
            return self._mismatch.ended(
                f"not asked again: {error}",
                attempts=attempts,
                next_available_at=error.next_available_at,
            )
        if self._filtered:
            return ContentFiltered(
                f"{str(self._filtered).rstrip(' .')}. {error}",
                partial=self._filtered.partial,
                attempts=attempts,
                next_available_at=error.next_available_at,
            )
        if self._all_reasoning:
            return _out_of_tokens(self._all_reasoning, error, self._routes)
        return error

    def _last_error(
        self, states: Mapping[Route, RouteState], now: float, cause: str
    ) -> LLMProviderError:
        progress, attempts = self._progress, self._progress.attempts
        unfit = self._unfit | {r for r, state in states.items() if state.is_unsuitable}
        if unfit.issuperset(self._routes):
            option = self._option if self._unfit else _demanding_option(progress.request)
            # Only the last error of each model: earlier ones refused another form of the request.
            reasons = {
                (a.provider, a.model): f"{a.provider} ({a.model}) does not take the request: "
                f"{a.error}"
                for a in attempts
                if a.error and a.outcome in ("failed", "skipped")
            }
            named = list(reasons.values())[:_MOST_ROUTES_IN_A_MESSAGE]
            if omitted := len(reasons) - len(named):
                named.append(f"and {omitted} more models")
            return InvalidRequest(joined(named), option=option, attempts=attempts)
        if self._unreachable and self._left.issuperset(self._routes):
            # It names no provider, because no provider caused it.
            return ConfigurationError(
                f"No request can leave this machine: {'; '.join(self._setup)}", attempts=attempts
            )
        is_late = bool(cause) or progress.time_left() <= 0
        causes = [cause] if cause else []
        if self._calls.total() >= _CALLS_PER_REQUEST:
            causes.append(f"{_CALLS_PER_REQUEST} calls were sent")
        # A problem with this machine's settings is stated once, without naming a provider.
        others = {r: state for r, state in states.items() if r not in self._unreachable}
        causes += self._setup
        too_large = Remedy.SHORTEN_PROMPT.name
        too_small = self._too_small | {r for r, s in states.items() if s.remedy == too_large}
        fits_nowhere = too_small.issuperset(self._routes)
        return self._no_route(others, now, causes, is_late=is_late, too_large=fits_nowhere)

    def _no_route(
        self,
        states: Mapping[Route, RouteState],
        now: float,
        causes: Sequence[str],
        *,
        is_late: bool,
        too_large: bool,
    ) -> NoRouteAvailable:
        progress, request = self._progress, self._progress.request
        openings = {
            route: state.opens_at
            for route, state in states.items()
            if route not in self._left and now < state.opens_at < math.inf
        }
        shown = _shown(states, progress.attempts)
        lines = [*causes]
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

    def _leave_model(self, attempt: Attempt) -> set[Route]:
        """Drop the model of an attempt with all its keys, which would give the same answer."""
        same = (attempt.provider, attempt.model)
        left = {route for route in self._routes if (route.provider, route.model) == same}
        self._left |= left
        return left

    def _broken(self, result: Result, failure: ProviderFailure) -> LLMProviderError:
        attempts, attempt, text = self._progress.attempts, result.attempt, result.answer.text
        where = f"{attempt.provider} ({attempt.model})"
        if failure.remedy is Remedy.CHANGE_PROMPT:
            filtered = ContentFiltered(
                f"{where} refused to answer: {failure}",
                partial=text or failure.text,
                attempts=attempts,
            )
            if not self._progress.request.fallback_on_filter:
                raise filtered
            self._filtered = filtered
            self._leave_model(attempt)
            return filtered
        if failure.remedy is Remedy.RAISE_MAX_TOKENS:
            error = IncompleteReply(
                f"{where} gave no answer: {failure}", partial=text, attempts=attempts
            )
            self._all_reasoning = error
            self._leave_model(attempt)
            return error
        return IncompleteReply(f"the reply broke off: {attempt}", partial=text, attempts=attempts)

    def _misfit(self, result: Result) -> SchemaMismatch:
        progress, attempt, answer = self._progress, result.attempt, result.answer
        name = progress.request.schema.name if progress.request.schema else ""
        mismatch = SchemaMismatch(
            f"the reply of {attempt.provider} ({attempt.model}) does not fit {name}: "
            f"{result.misfit}",
            text=answer.text,
            attempts=progress.attempts,
        )
        if answer.finish_reason == "length":
            # It would be cut again.
            raise mismatch.ended("it was cut at max_tokens", attempts=progress.attempts)
        if self._mismatch:
            raise mismatch.ended("the model was asked twice", attempts=progress.attempts)
        self._mismatch = mismatch
        progress.request = with_correction(progress.request, answer.text, result.misfit)
        return mismatch


def _demanding_option(request: Request) -> str:
    """The option that no route supports, if no route was asked."""
    if request.inputs:
        return "model"
    return "tools" if request.uses_tools else "messages"


def _shown(states: Mapping[Route, RouteState], attempts: Sequence[Attempt]) -> dict[Route, str]:
    """Why each route in a message did not answer: those that were asked, and a few others."""
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
    if len(shown) > _MOST_ROUTES_IN_A_MESSAGE:
        first = sorted(shown, key=lambda route: states[route].opens_at)
        return {route: shown[route] for route in first[:_ROUTES_IN_A_MESSAGE]}
    return shown


def _next_steps(states: Mapping[Route, RouteState], configuration: Configuration) -> list[str]:
    """Return what the user can do about routes that do not open by themselves."""
    keys: dict[str, None] = {}
    steps: dict[str, None] = {}
    for route, state in states.items():
        if state.remedy == Remedy.REPLACE_KEY.name and is_placeholder(route.key):
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
        steps[f"replace {', '.join(keys)}, or run %llm_keys check if it works again"] = None
    return list(steps)


def _out_of_tokens(
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
