"""One attempt on one route, from its hold to its settlement."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .calls import Answer, adapter_of
from .prices import load_soon
from .provider_failure import AttemptFailed, ProviderFailure, Remedy
from .reply import Attempt, Event, Outcome, Piece, Started

if TYPE_CHECKING:
    from .quota_tracker import Hold
    from .request_progress import RequestProgress
    from .timed_ledger import TimedLedger
    from .types import Usage

# With these the provider may have generated tokens that it did not report.
_ANSWERED_IN_PART = (Remedy.RETRY_LATER, Remedy.CHANGE_PROMPT, Remedy.RAISE_MAX_TOKENS)
_REFUSALS = (Remedy.WAIT_FOR_LIMIT, Remedy.TOP_UP_ACCOUNT, Remedy.CHANGE_PLAN)
# How services refuse to make embeddings with a model for chat, and the reverse.
_OTHER_USE = (Remedy.CHANGE_MODEL, Remedy.CHANGE_PLAN, Remedy.CHECK_ADDRESS)


@dataclass(frozen=True)
class Result:
    """How an attempt ended.

    Attributes:
        attempt: its record.
        answer: what arrived.
        failure: why there is no reply, or None.
        is_booked: False if the ledger took too long to record the failure.
        misfit: how the reply does not fit the schema, or "".
        parsed: the value of a reply that fits its schema, or None without a schema.
        left: what is left of the route's tightest limit, in words.
    """

    attempt: Attempt
    answer: Answer
    failure: ProviderFailure | None = None
    is_booked: bool = True
    misfit: str = ""
    parsed: Any = None
    left: str = ""


class RouteAttempt:
    """One attempt on one route.

    Args:
        hold: what was reserved for it, and on which route.
        progress: the request's; the attempt is added to it.
        ledger: the ledger that counts it.
    """

    def __init__(self, hold: Hold, progress: RequestProgress, ledger: TimedLedger) -> None:
        self._hold, self._progress, self._ledger = hold, progress, ledger
        route, providers = hold.route, progress.configuration.providers
        window = providers[route.provider].context_windows.get(route.model, math.inf)
        self._answer = Answer(hold, progress.request, window)

    def events(self) -> Generator[Event, None, Result]:
        """Make the call and count it; yields its start, and the pieces of a streamed text."""
        progress, answer, route = self._progress, self._answer, self._hold.route
        load_soon(route)
        try:
            yield Started(route)
            adapter = adapter_of(route, progress.configuration)
        except BaseException:  # an interrupt, or a reader that leaves
            self._ledger.give_back(self._hold)
            raise
        try:
            parts = adapter.complete(
                progress.request,
                route.model,
                stream=progress.stream,
                timeouts=progress.timeouts(),
            )
            # If the reader leaves early, for whatever reason, the connection is dropped at once.
            with closing(parts):  # type: ignore[type-var]  # adapters give generators
                for part in parts:
                    answer.take(part)
                    if part.text:
                        yield from progress.hand_over(Piece(part.text, route))
        except AttemptFailed as error:
            return self._failed(error.failure, adapter.account)
        except (KeyboardInterrupt, GeneratorExit):
            if progress.is_ours():
                self._interrupted(adapter.account)
            raise
        return self._answered(adapter.account)

    def _answered(self, account: str | None) -> Result:
        answer, route, usage = self._answer, self._hold.route, self._answer.spent()
        schema, parsed = self._progress.request.schema, None
        # A call of a tool comes before the reply that must fit.
        if schema and not answer.tool_calls:
            try:
                parsed = schema.read(answer.text)
            except ValueError as misfit:
                self._settle(usage, account)
                error = f"the reply does not fit {schema.name}"
                attempt = self._progress.note(route, "failed", answer, usage, error)
                return Result(attempt, answer, misfit=str(misfit))
        attempt = self._progress.note(route, "served", answer, usage)
        left = self._settle(usage, account)
        return Result(attempt, answer, parsed=parsed, left=left)

    def _failed(self, failure: ProviderFailure, account: str | None) -> Result:
        answer, route = self._answer, self._hold.route
        if failure.remedy in _OTHER_USE:
            failure = self._for_other_use(failure)
        if failure.usage is not None:
            failure = replace(failure, usage=answer.believed(failure.usage))
        elif failure.sent and failure.remedy in _ANSWERED_IN_PART:
            spent = answer.spent_at_most(failure.at_least)
            failure = replace(failure, usage=spent, usage_is_known=False)
        state = self._ledger.fail(self._hold, failure, account)
        outcome: Outcome = "refused" if failure.remedy in _REFUSALS else "failed"
        opens_at = state.opens_at if state else None
        attempt = self._progress.note(
            route, outcome, answer, failure.usage, str(failure), opens_at, failure.said
        )
        return Result(attempt, answer, failure, is_booked=state is not None)

    def _for_other_use(self, failure: ProviderFailure) -> ProviderFailure:
        """Return a failure that closes nothing if the model is known only for other requests.

        Its route can still answer those.
        """
        route, is_embedding = self._hold.route, bool(self._progress.request.inputs)
        provider = self._progress.configuration.providers[route.provider]
        makes_embeddings = route.model in provider.embedding_models
        if makes_embeddings == is_embedding or (
            makes_embeddings and route.model in provider.known_models
        ):
            return failure
        _, bracket, answer = failure.summary.partition(" (")
        what = "makes no embeddings" if is_embedding else "takes no prompts"
        return replace(
            failure,
            summary=f"{what}{bracket}{answer}",
            remedy=Remedy.FIX_REQUEST,
            lacks="embeddings" if is_embedding else "",
        )

    def _interrupted(self, account: str | None) -> None:
        answer, streamed = self._answer, self._progress.stream
        # A reply in one piece may have been generated and charged before it arrived.
        spent = answer.spent() if streamed else answer.spent_at_most(None)
        self._progress.note(self._hold.route, "interrupted", answer, spent, "interrupted")
        self._settle(spent if streamed else None, account, is_whole=False)

    def _settle(self, usage: Usage | None, account: str | None, *, is_whole: bool = True) -> str:
        """Settle the call and return what is left, in words."""
        seen = self._answer.observations
        # A call that ended before anything arrived proves nothing about the route.
        answered = self._answer.answered
        return self._ledger.settle(
            self._hold, usage, seen, account, answered=answered, is_whole=is_whole
        )
