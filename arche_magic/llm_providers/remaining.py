"""The routes that a request can still try, and its error if none answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .errors import ContentFiltered, IncompleteReply, LLMProviderError, SchemaMismatch
from .provider_failure import ProviderFailure, Remedy
from .quota.opening import RouteState
from .reply import Attempt
from .request_errors import also_tried, no_route, out_of_tokens, refused_by_all, wrong_setup
from .schemas import with_correction
from .types import Route

if TYPE_CHECKING:
    from .attempt import Result
    from .request import Request
    from .request_progress import RequestProgress

_CALLS_PER_ROUTE, _CALLS_PER_REQUEST = 6, 100
"""Maximum number of calls that one request sends, to one route and in all."""


class Remaining:
    """The remaining routes of one request.

    Args:
        routes: all that it may take.
        progress: the request's.
    """

    def __init__(self, routes: Sequence[Route], progress: RequestProgress) -> None:
        self._routes, self._progress = routes, progress
        self._calls: Counter[Route] = Counter()
        # Routes that cannot answer this request, whenever they open. Some of them refused the
        # request itself; others cannot be reached with the settings of this machine.
        self._left: set[Route] = set()
        self._unfit: set[Route] = set()
        self._too_small: set[Route] = set()
        self._unreachable: set[Route] = set()
        self._setup: dict[str, None] = {}
        # What the last refusal of the request itself was about.
        self._option = ""
        # The error of the request if no other route answers.
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
        if self._calls.total() >= _CALLS_PER_REQUEST:
            return []
        done = self._left | {r for r, calls in self._calls.items() if calls >= _CALLS_PER_ROUTE}
        # Most requests have all their routes, which may be many.
        return [route for route in self._routes if route not in done] if done else self._routes

    def note_call(self, route: Route) -> None:
        """Count a call, whatever its result."""
        self._calls[route] += 1

    def judge(self, result: Result) -> LLMProviderError:
        """Leave the routes that cannot answer after this attempt, which gave no reply.

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
            return also_tried(self._filtered, error)
        if self._all_reasoning:
            return out_of_tokens(self._all_reasoning, error, self._routes)
        return error

    def _last_error(
        self, states: Mapping[Route, RouteState], now: float, cause: str
    ) -> LLMProviderError:
        progress, attempts = self._progress, self._progress.attempts
        unfit = self._unfit | {r for r, state in states.items() if state.is_unsuitable}
        if unfit.issuperset(self._routes):
            option = self._option if self._unfit else _demanding_option(progress.request)
            return refused_by_all(attempts, option)
        if self._unreachable and self._left.issuperset(self._routes):
            return wrong_setup(self._setup, attempts)
        is_late = bool(cause) or progress.time_left() <= 0
        causes = [cause] if cause else []
        if self._calls.total() >= _CALLS_PER_REQUEST:
            causes.append(f"{_CALLS_PER_REQUEST} calls were sent")
        # A problem of this machine's settings is stated once, without naming a provider.
        others = {r: state for r, state in states.items() if r not in self._unreachable}
        causes += self._setup
        too_large = Remedy.SHORTEN_PROMPT.name
        too_small = self._too_small | {r for r, s in states.items() if s.remedy == too_large}
        return no_route(
            progress,
            others,
            self._left,
            now,
            "; ".join(causes),
            is_late=is_late,
            too_large=too_small.issuperset(self._routes),
        )

    def _leave_model(self, attempt: Attempt) -> set[Route]:
        """Leave the model of an attempt with all its keys, which would answer in the same way."""
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
            raise mismatch.ended("asked twice", attempts=progress.attempts)
        self._mismatch = mismatch
        progress.request = with_correction(progress.request, answer.text, result.misfit)
        return mismatch


def _demanding_option(request: Request) -> str:
    """The option that makes every route unsuitable, if no route was asked."""
    if request.inputs:
        return "model"
    return "tools" if request.uses_tools else "messages"
