"""The one loop: offer a request to the routes in order until one answers.

Rotation between keys and fallback between providers are both this: the next open route.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn, TypeVar

from .attempts import SESSION, AttemptLog, Tally, notebook
from .bounded import TookTooLong, within
from .calls import Call, adapter_of
from .endings import also_tried, out_of_tokens
from .errors import (
    AttemptFailed,
    ContentFiltered,
    IncompleteReply,
    LLMProviderError,
    ProviderFailure,
    Remedy,
    SchemaMismatch,
)
from .prices import cost_usd, load_soon
from .quota.opening import RouteState
from .quota_tracker import Hold, QuotaTracker
from .remaining import Remaining
from .reply import Attempt, Discarded, Event, Outcome, Piece, Reply, Waiting, total_cost
from .routing import Choice, Decision, choose
from .schemas import with_correction
from .stopping import raise_if_stopped
from .storage import StorageTimeout, lock_deadline
from .together import Together
from .types import Request, Route, Timeouts, Usage
from .waiting import WaitingLine, waiting_line

logger = logging.getLogger("arche_magic.attempts")

T = TypeVar("T")

# A wait is slept in naps, after each of which the ledger is asked again: another kernel may have
# given something back.
_LONGEST_NAP_SECONDS = 0.5
_SHORTEST_NAP_SECONDS = 0.001
# A route that was open when looked at and shut when a hold was asked for is left alone so long.
_CONTENDED_SECONDS = 0.05
# A ledger that hangs keeps nobody longer than this: beyond the request's time, and from its reply.
_LATE_BOOKING_SECONDS, _BOOKING_SECONDS = 0.1, 2.0
_ANSWERED_IN_PART = (Remedy.RETRY_LATER, Remedy.CHANGE_PROMPT, Remedy.RAISE_MAX_TOKENS)
_REFUSALS = (Remedy.WAIT_FOR_LIMIT, Remedy.TOP_UP_ACCOUNT, Remedy.CHANGE_PLAN)


@dataclass
class RequestRun:
    """One request on its way through the routes."""

    request: Request
    routes: Sequence[Route]
    stream: bool
    preferred_provider: str | None
    quota_tracker: QuotaTracker | Together
    log: AttemptLog | Together
    tally: Tally
    # Of a thread that nobody waits for: the ledger may take as long as it takes.
    may_hang: bool = False
    attempts: list[Attempt] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._id = f"r{os.urandom(6).hex()}"
        self._clock = self.quota_tracker.configuration.clock
        self._started = self._clock.time()
        self._ends = math.inf
        self._process = 0
        self._recorded = False
        self._waited = 0.0
        # Seconds that the reader of the stream took for itself.
        self._paused = 0.0
        self._remaining = Remaining(self.routes)
        self._refused: dict[Route, RouteState] = {}
        self._seen: dict[Route, RouteState] = {}
        self._filtered: ContentFiltered | None = None
        self._all_reasoning: IncompleteReply | None = None
        self._mismatch: SchemaMismatch | None = None
        # What the last choice was for: a wait is looked at often, and kept once.
        self._aim: tuple[Route | None, bool] | None = None

    def events(self) -> Generator[Event, None, Reply]:
        """What happens, as it happens; returns the reply.

        Raises:
            NoRouteAvailable: every route is shut or failed, or the time is up.
            InvalidRequest: every route refused the request itself.
            ContentFiltered: a provider filtered the prompt or its reply.
            IncompleteReply: the models that are open used all their tokens for reasoning.
            ConfigurationError: proxy or certificate settings of this machine keep all routes shut.
            SchemaMismatch: two replies did not fit the schema.
        """
        self._started = self._clock.time()
        # The clock may run at another speed than what hangs.
        self._ends = time.monotonic() + self.request.timeout
        self._process = os.getpid()
        with waiting_line(self._line_name(), self) as line:
            try:
                while True:
                    raise_if_stopped()
                    self._check_process()
                    try:
                        choice, hold = self._beside(partial(self._offer, line), self._give_back)
                    except (TookTooLong, StorageTimeout):
                        self._give_up("the ledger does not answer")
                    if hold is not None:
                        line.leave(self)
                        self._note_skipped(choice)
                        reply = yield from self._ask(hold, choice)
                        if reply is not None:
                            return reply
                    elif choice.route is None or self._time_left() <= 0 or self._all_reasoning:
                        # With reasoning alone so far: the user can help sooner than a shut route.
                        self._note_skipped(choice)
                        self._give_up()
                    else:
                        line.join(self)
                        yield from self._wait(choice.route, choice.opens_at, line)
            finally:
                if self._is_ours():
                    self.tally.add(self.attempts)
                    if not self._recorded:
                        append = partial(self.log.append, self.attempts, self.decisions)
                        self._book(append, None, longest=math.inf)

    def _line_name(self) -> Hashable:
        names = frozenset((r.provider, r.key.fingerprint, r.model) for r in self.routes)
        # Whoever waits for room in the bounds of a job keeps nobody else waiting.
        return self.quota_tracker.configuration.store, names, self.quota_tracker.job

    def _is_ours(self) -> bool:
        """Whether this is the process that asked; a fork of it has a copy of the request."""
        return os.getpid() == self._process

    def _check_process(self) -> None:
        """Raise LLMProviderError in a fork of the process that asked.

        The connection is the parent's: what the child reads from it, the parent would miss.
        """
        if not self._is_ours():
            raise LLMProviderError(
                "this request belongs to the process that this one was forked from; "
                "ask again in this process"
            )

    def _beside(
        self,
        work: Callable[[], T],
        unclaimed: Callable[[T], object] | None = None,
        longest: float = math.inf,
    ) -> T:
        """Work on the ledger or the record, which may lie on a slow disk or behind a network.

        Raises:
            TookTooLong: the request's time is up, or `longest`; the work goes on to its end.
        """
        if self.may_hang:
            return work()
        left = max(self._ends - time.monotonic(), _LATE_BOOKING_SECONDS)
        return within(min(left, longest), work, unclaimed)

    def _book(self, work: Callable[[], T], otherwise: T, longest: float = _BOOKING_SECONDS) -> T:
        """What book-keeping returns; `otherwise` if it fails or takes long: it ends no request."""
        try:
            return self._beside(work, longest=longest)
        except TookTooLong:
            return otherwise
        except Exception as error:  # noqa: BLE001  # whatever it is, the reply is worth more
            logger.warning("the ledger or the record refused a call (%s)", type(error).__name__)
            return otherwise

    def _offer(self, line: WaitingLine) -> tuple[Choice[Route], Hold | None]:
        """Choose a route, and hold it if it is open and nobody waits before us."""
        while True:
            choice, now = self._choose(), self._clock.time()
            if choice.route is None or choice.opens_at > now or self._time_left() <= 0:
                return choice, None
            if self._patience_left() > 0 and not line.may_go(self):
                return choice, None
            left = math.inf if self.may_hang else self._ends - time.monotonic()
            with lock_deadline(left):
                hold = self.quota_tracker.hold(choice.route, self.request)
            if isinstance(hold, Hold):
                return choice, hold
            # Another thread or kernel was faster. The request looks on elsewhere meanwhile.
            later = max(hold.opens_at, now + _CONTENDED_SECONDS)
            self._refused[choice.route] = replace(hold, opens_at=later)

    def _give_back(self, offered: tuple[Choice[Route], Hold | None]) -> None:
        """A hold that came when the request had ended: nothing was sent."""
        if offered[1] is not None:
            gone = ProviderFailure("the request had ended", Remedy.FIX_REQUEST, sent=False)
            self.quota_tracker.fail(offered[1], gone)

    def _choose(self) -> Choice[Route]:
        now, patience = self._clock.time(), self._patience_left()

        def state_of(route: Route) -> RouteState:
            state = self.quota_tracker.state(route, self.request, now)
            refused = self._refused.get(route)
            if refused and state.opens_at <= now < refused.opens_at:
                state = refused
            self._seen[route] = state
            return state

        routes = self._remaining.routes()
        choice = choose(routes, state_of, now, patience, self.preferred_provider)
        aim = choice.route, choice.opens_at > now
        if aim == self._aim and not aim[1]:
            self.decisions.pop()
        if aim != self._aim or not aim[1]:
            self.decisions.append(
                Decision.of(choice, now, patience, self.preferred_provider, self.request)
            )
        self._aim = aim
        return choice

    def _patience_left(self) -> float:
        return max(0.0, min(self.request.patience - self._waited, self._time_left()))

    def _time_left(self) -> float:
        return self._started + self.request.timeout + self._paused - self._clock.time()

    def _timeouts(self) -> Timeouts:
        timeouts, left = self.quota_tracker.configuration.timeouts, max(0.0, self._time_left())
        # A host that is not there leaves time for another route.
        return replace(timeouts, connect=min(timeouts.connect, left / 2), total=left)

    def _wait(
        self, route: Route, opens_at: float, line: WaitingLine
    ) -> Generator[Event, None, None]:
        before = self._clock.time()
        seconds = max(0.0, opens_at - before)
        yield Waiting(route, seconds)
        if line.may_go(self):
            nap = min(seconds, self._time_left(), _LONGEST_NAP_SECONDS)
            self._clock.sleep(max(nap, _SHORTEST_NAP_SECONDS))
        else:
            longest = max(self._patience_left(), seconds)
            line.await_turn(self, min(longest, _LONGEST_NAP_SECONDS))
        self._waited += self._clock.time() - before

    def _ask(self, hold: Hold, choice: Choice[Route]) -> Generator[Event, None, Reply | None]:
        """One attempt on one route: a reply, or None if the next route is to be asked."""
        route, self._aim = hold.route, None
        self._remaining.note_call(route)
        load_soon(route)
        provider = self.quota_tracker.configuration.providers[route.provider]
        call = Call(hold, self.request, provider.context_windows.get(route.model, math.inf))
        try:
            adapter = adapter_of(route, self.quota_tracker.configuration)
        except BaseException:  # an interrupt while the SDK is loaded
            self._book(partial(self._give_back, (choice, hold)), None)
            raise
        try:
            answer = adapter.complete(
                self.request, route.model, stream=self.stream, timeouts=self._timeouts()
            )
            # Left early, for whatever reason, the connection is dropped at once.
            with closing(answer):  # type: ignore[type-var]  # adapters give generators
                for part in answer:
                    call.take(part)
                    if part.text:
                        yield from self._hand_over(Piece(part.text, route))
        except AttemptFailed as failed:
            failure = _with_usage(failed.failure, call)
            attempt = self._note_failed(hold, failure, call, adapter.account)
            error = self._judge(failure, attempt, call.text)
            if call.text:
                yield Discarded(attempt, error)
            return None
        except (KeyboardInterrupt, GeneratorExit):
            if self._is_ours():
                # A reply that comes in one piece may have been written, and paid for, unseen.
                spent = call.spent() if self.stream else call.spent_at_most(None)
                self._note(route, "interrupted", call, spent, error="interrupted")
                usage = spent if self.stream else None
                self._settle(hold, usage, call, adapter.account, is_whole=False)
            raise
        usage = call.spent()
        parsed = None
        if self.request.schema:
            try:
                parsed = self.request.schema.read(call.text)
            except ValueError as misfit:
                self._settle(hold, usage, call, adapter.account, last=False)
                yield from self._ask_once_more(route, call, usage, misfit)
                return None
        self._note(route, "served", call, usage)
        standing = self._settle(hold, usage, call, adapter.account)
        return Reply(
            call.text,
            provider=route.provider,
            key=route.key.label,
            model=route.model,
            usage=usage,
            attempts=tuple(self.attempts),
            seconds=self._clock.time() - self._started,
            finish_reason=call.finish_reason,
            cost=total_cost(self.attempts),
            standing=standing,
            decisions=tuple(self.decisions),
            parsed=parsed,
            request=self._id,
        )

    def _hand_over(self, piece: Piece) -> Generator[Event, None, None]:
        """Give a piece to the reader, whose own time does not count against the request."""
        paused_at, paused_on = time.monotonic(), self._clock.time()
        yield piece
        self._ends += time.monotonic() - paused_at
        self._paused += self._clock.time() - paused_on
        self._check_process()

    def _ask_once_more(
        self, route: Route, call: Call, usage: Usage, misfit: ValueError
    ) -> Generator[Event, None, None]:
        """Turn the request into one that says what did not fit the schema; the second time, fail.

        Raises:
            SchemaMismatch: it was said before, or the reply was cut and would be again.
        """
        name = self.request.schema.name if self.request.schema else ""
        attempt = self._note(route, "failed", call, usage, f"the reply does not fit {name}")
        mismatch = SchemaMismatch(
            f"the reply of {route.provider} ({route.model}) does not fit {name}: {misfit}",
            attempts=self.attempts,
        )
        mismatch.text = call.text
        if call.finish_reason == "length":
            raise mismatch.ended("it was cut at max_tokens", self.attempts) from None
        if self._mismatch:
            raise mismatch.ended("asked twice", self.attempts) from None
        self._mismatch = mismatch
        self.request = with_correction(self.request, call.text, str(misfit))
        yield Discarded(attempt, mismatch)

    def _settle(
        self,
        hold: Hold,
        usage: Usage | None,
        call: Call,
        account: str | None,
        *,
        last: bool = True,
        is_whole: bool = True,
    ) -> str:
        """Book a call; what is left then, in words, or "" if the ledger takes its time.

        With the `last` call of the request the attempts are recorded too.
        """
        self._recorded = last

        def book() -> str:
            try:
                # A call that was given up before anything came proves nothing.
                return self.quota_tracker.settle(
                    hold,
                    usage,
                    call.observations,
                    account,
                    answered=call.answered,
                    is_whole=is_whole,
                )
            finally:
                if last:
                    self.log.append(self.attempts, self.decisions)

        return self._book(book, "")

    def _note_failed(
        self, hold: Hold, failure: ProviderFailure, call: Call, account: str | None
    ) -> Attempt:
        route = hold.route
        state = self._book(partial(self.quota_tracker.fail, hold, failure, account), None)
        if state is None:
            # What it closes is not known yet.
            self._remaining.leave(route)
            state = RouteState(self._clock.time())
        if failure.remedy is Remedy.SHORTEN_PROMPT:
            self._remaining.leave(route)
        outcome: Outcome = "refused" if failure.remedy in _REFUSALS else "failed"
        usage = failure.usage or Usage()
        return self._note(
            route, outcome, call, usage, str(failure), state.opens_at, said=failure.said
        )

    def _note_skipped(self, choice: Choice[Route]) -> None:
        """Record once per request each shut route that would have come first."""
        for route, state in choice.passed_over:
            if not any(attempt.is_on(route) for attempt in self.attempts):
                self._note(route, "skipped", None, Usage(), state.reason, state.opens_at)

    def _note(
        self,
        route: Route,
        outcome: Outcome,
        call: Call | None,
        usage: Usage,
        error: str | None = None,
        opens_at: float | None = None,
        said: str = "",
    ) -> Attempt:
        first_token = call.first_token_s if call and self.stream else None
        now = self._clock.time()
        is_shut = opens_at is not None and now < opens_at < math.inf
        attempt = Attempt(
            provider=route.provider,
            key=route.key.label,
            model=route.model,
            outcome=outcome,
            error=error,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            seconds=round(call.seconds(), 4) if call else 0.0,
            first_token_s=round(first_token, 4) if first_token is not None else None,
            waited_s=round(self._waited, 3),
            # An interrupt returns at once.
            cost_usd=cost_usd(route, usage, load=outcome != "interrupted"),
            at=round(now, 3),
            request=self._id,
            session=SESSION,
            notebook=notebook(),
            tag=self.request.tag,
            opens_at=opens_at if is_shut else None,
            said=said,
        )
        self.attempts.append(attempt)
        logger.info("%s", attempt)
        return attempt

    def _judge(self, failure: ProviderFailure, attempt: Attempt, text: str) -> LLMProviderError:
        """What the failure would end the request with, were there no other route.

        Raises:
            ContentFiltered: the failure ends the request.
        """
        where = f"{attempt.provider} ({attempt.model})"
        self._remaining.note_failure(failure, attempt)
        if failure.remedy is Remedy.RAISE_MAX_TOKENS:
            self._all_reasoning = IncompleteReply(
                f"{where} gave no answer: {failure}", attempts=self.attempts
            )
            self._all_reasoning.partial = text
            self._remaining.leave_model(attempt)
            return self._all_reasoning
        if failure.remedy is not Remedy.CHANGE_PROMPT:
            broken = IncompleteReply(f"the reply broke off: {attempt}", attempts=self.attempts)
            broken.partial = text
            return broken
        error = ContentFiltered(f"{where} refused to answer: {failure}", attempts=self.attempts)
        error.partial = text or failure.text
        if not self.request.fallback_on_filter:
            raise error from None
        self._filtered = error
        self._remaining.leave_model(attempt)
        return error

    def _states(self, now: float) -> dict[Route, RouteState]:
        def look() -> dict[Route, RouteState]:
            return {r: self.quota_tracker.state(r, self.request, now) for r in self.routes}

        unknown = RouteState(now)
        return self._book(look, {r: self._seen.get(r, unknown) for r in self.routes})

    def _give_up(self, cause: str = "") -> NoReturn:
        now = self._clock.time()
        states = self._states(now)
        within_s = self.request.timeout if cause or self._time_left() <= 0 else None
        error = self._remaining.error(states, self.attempts, now, within_s, cause, self.request)
        if self._mismatch:
            why, opens_at = f"not asked once more: {error}", error.next_available_at
            raise self._mismatch.ended(why, self.attempts, opens_at) from None
        if self._filtered:
            raise also_tried(self._filtered, error) from None
        if self._all_reasoning:
            raise out_of_tokens(self._all_reasoning, error, self.routes) from None
        raise error from None


def _with_usage(failure: ProviderFailure, call: Call) -> ProviderFailure:
    """The failure with what the attempt spent, estimated where the provider did not count."""
    if failure.usage is not None:
        return replace(failure, usage=call.believed(failure.usage))
    if failure.sent and failure.remedy in _ANSWERED_IN_PART:
        spent = call.spent_at_most(failure.at_least)
        return replace(failure, usage=spent, usage_is_known=False)
    return failure
