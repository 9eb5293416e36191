"""One request in progress: its time, its attempts, and its calls to the ledger."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from .attempt_log import SESSION, AttemptLog, notebook
from .bounded import TookTooLong, shielded, within
from .errors import LLMProviderError
from .events import Event, Piece
from .prices import cost_usd
from .provider_failure import NOT_SENT, ProviderFailure
from .quota.booking import Settlement
from .reply import Attempt, Outcome
from .storage import StorageTimeout, lock_deadline
from .types import Timeouts, Usage

if TYPE_CHECKING:
    from .attempt import Answer
    from .batch_ledger import BatchLedger
    from .quota.opening import RouteState
    from .quota_tracker import Hold, QuotaTracker
    from .request import Request
    from .routing import Decision
    from .types import Route

logger = logging.getLogger("arche_magic.attempts")

T = TypeVar("T")

# Limits for a call that records usage: it may take the first time even if the request's time is up,
# and never more than the second, because the reply is more important.
_LATE_SECONDS, _BOOKING_SECONDS = 0.1, 2.0
# If no disk can hang, a call waits this long for a lock before it moves to a helper thread.
_MOMENT_SECONDS = 0.02


class RequestProgress:
    """One request in progress.

    The ledger and the attempt log may be behind a network that hangs, or locked by a kernel that
    was stopped. A call to them that takes too long is left to finish in a helper thread, and the
    request goes on without its result.

    Args:
        request: what is asked.
        stream: whether replies are to come in pieces.
        tracker: the ledger.
        log: where the attempts are recorded.
        batch: replaces both for the requests of a job, in background threads. Its calls take as
            long as they need.

    Attributes:
        ledger: the tracker or the batch.
        configuration: its clock and timeouts are used.
        id: names the request in the record.
        attempts: its attempts so far.
        decisions: how its routes were chosen.
        waited: seconds that it has waited for routes.
        call_has_begun: whether the call of the last hold has begun, so that the hold counts.
    """

    def __init__(
        self,
        request: Request,
        stream: bool,
        tracker: QuotaTracker,
        log: AttemptLog,
        batch: BatchLedger | None = None,
    ) -> None:
        self.request, self.stream = request, stream
        self.ledger: QuotaTracker | BatchLedger = batch or tracker
        self._log: AttemptLog | BatchLedger = batch or log
        self.configuration = tracker.configuration
        self._clock = self.configuration.clock
        self._has_deadline, self._storage = batch is None, tracker.storage
        self.id = f"r{os.urandom(6).hex()}"
        self.attempts: list[Attempt] = []
        self.decisions: list[Decision] = []
        self.waited = 0.0
        # Seconds that the reader of the stream spent between pieces.
        self._paused = 0.0
        self._hold: Hold | None = None
        self.call_has_begun = False

    def start(self) -> None:
        """Start to measure the time, in the process that sends the request.

        Raises:
            LLMProviderError: Python is shutting down, so threads and imports no longer work.
        """
        if sys.is_finalizing():
            raise LLMProviderError("Python is shutting down; no request can be sent")
        self._process = os.getpid()
        self._started = self._clock.time()
        # Not measured by the configuration's clock, which may run faster than real time.
        self._ends = time.monotonic() + self.request.timeout

    def seconds(self) -> float:
        """Since the start."""
        return self._clock.time() - self._started

    def time_left(self) -> float:
        """Seconds until the request's timeout."""
        return self._started + self.request.timeout + self._paused - self._clock.time()

    def patience_left(self) -> float:
        """Seconds that the request may still wait for a route."""
        return max(0.0, min(self.request.patience - self.waited, self.time_left()))

    def timeouts(self) -> Timeouts:
        """The timeouts of the next call."""
        timeouts, left = self.configuration.timeouts, max(0.0, self.time_left())
        # A host that cannot be reached must leave time for another route.
        return replace(timeouts, connect=min(timeouts.connect, left / 2), total=left)

    def is_ours(self) -> bool:
        """Whether this process asked; a fork of it only has a copy of the request."""
        return os.getpid() == self._process

    def check_process(self) -> None:
        """Check that this is the process that asked.

        A fork shares the connection, so the parent would miss what the fork reads.

        Raises:
            LLMProviderError: it is a fork of that process.
        """
        if not self.is_ours():
            raise LLMProviderError(
                "this request belongs to the parent process; send a new one in this process"
            )

    def hand_over(self, piece: Piece) -> Generator[Event, None, None]:
        """Yield a piece to the reader, whose own time does not count against the request."""
        paused_at, paused_on = time.monotonic(), self._clock.time()
        yield piece
        self._ends += time.monotonic() - paused_at
        self._paused += self._clock.time() - paused_on
        self.check_process()

    def note(
        self,
        route: Route,
        outcome: Outcome,
        answer: Answer | None = None,
        usage: Usage | None = None,
        error: ProviderFailure | str | None = None,
        opens_at: float | None = None,
    ) -> Attempt:
        """Add an attempt; `answer` is None if nothing was sent, and `error` if it was answered."""
        usage = usage or Usage()
        first_token = answer.first_token_s if answer and self.stream else None
        now = self._clock.time()
        opens_later = opens_at is not None and now < opens_at < math.inf
        attempt = Attempt(
            provider=route.provider,
            key=route.key.label,
            model=route.model,
            outcome=outcome,
            error=None if error is None else str(error),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            seconds=round(answer.seconds(), 4) if answer else 0.0,
            first_token_s=round(first_token, 4) if first_token is not None else None,
            waited_s=round(self.waited, 3),
            # After an interrupt nothing is loaded, because the request must end immediately.
            cost_usd=cost_usd(route, usage, load=outcome != "interrupted"),
            at=round(now, 3),
            request=self.id,
            session=SESSION,
            notebook=notebook(),
            tag=self.request.tag,
            opens_at=opens_at if opens_later else None,
            said=error.said if isinstance(error, ProviderFailure) else "",
        )
        self.attempts.append(attempt)
        logger.info("%s", attempt.without_said())
        return attempt

    def offer(self, offer: Callable[[], tuple[T, Hold | None]]) -> tuple[T, Hold | None]:
        """Return the result of `offer`; a hold that is granted after the deadline is released.

        Raises:
            TookTooLong, StorageTimeout: the deadline has passed, or the ledger was locked until
                then.
        """
        left = self._ends - time.monotonic() if self._has_deadline else math.inf

        def offer_in_time() -> tuple[T, Hold | None]:
            with lock_deadline(left):
                offered = offer()
            # Set here, because an interrupt may come before the caller has the result.
            self._hold, self.call_has_begun = offered[1], False
            return offered

        return self._timed(offer_in_time, math.inf, lambda _: self._release())

    def settle(self, call: Settlement) -> str:
        """Like `QuotaTracker.settle`; "" if the ledger takes too long."""

        def settle() -> str:
            self._hold = None
            return self.ledger.settle(call)

        return self._or_else(settle, "")

    def fail(self, hold: Hold, failure: ProviderFailure, account: str | None) -> RouteState | None:
        """As `QuotaTracker.fail`; None if the ledger takes too long."""

        def fail() -> RouteState:
            self._hold = None
            return self.ledger.fail(hold, failure, account)

        return self._or_else(fail, None)

    def states(self, routes: Iterable[Route], now: float) -> Mapping[Route, RouteState]:
        """The state of each route; empty if the ledger takes too long."""

        def look() -> Mapping[Route, RouteState]:
            state_of = self.ledger.states_for(self.request, now)
            return {route: state_of(route) for route in routes}

        return self._or_else(look, {})

    def release(self) -> None:
        """Release the hold of a call that was interrupted before it was settled."""
        if self._hold is not None:
            self._or_else(self._release, None)

    def record(self) -> None:
        """Record the attempts."""
        self._or_else(partial(self._log.append, self.attempts, self.decisions), None)

    def _release(self) -> None:
        """End a hold that was not settled; once its call has begun, it counts as used."""
        hold, self._hold = self._hold, None
        if hold is not None and self.call_has_begun:
            self.ledger.settle(Settlement(hold, None, answered=False, is_whole=False))
        elif hold is not None:
            self.ledger.fail(hold, NOT_SENT)

    def _or_else(self, work: Callable[[], T], otherwise: T) -> T:
        """Return the result of `work`, or `otherwise` if it fails or takes too long."""
        try:
            return self._timed(work, _BOOKING_SECONDS)
        except TookTooLong:
            return otherwise
        # Broad, because a reply that was paid for must not be lost to any error of the storage.
        except Exception as error:  # noqa: BLE001
            logger.warning("the ledger or the record refused a call (%s)", type(error).__name__)
            return otherwise

    def _timed(
        self,
        work: Callable[[], T],
        longest: float,
        unclaimed: Callable[[T], object] | None = None,
    ) -> T:
        if not self._has_deadline:
            return work()
        if not self._storage.may_hang:
            try:
                with lock_deadline(_MOMENT_SECONDS):
                    return shielded(work, unclaimed)
            except StorageTimeout:
                pass
        left = max(self._ends - time.monotonic(), _LATE_SECONDS)
        return within(min(left, longest), work, unclaimed)
