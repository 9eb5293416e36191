"""The ledger and the attempt log as one request uses them: no call outlasts its deadline."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from .bounded import TookTooLong, shielded, within
from .provider_failure import NOT_SENT, ProviderFailure
from .quota.booking import Settlement
from .storage import StorageTimeout, lock_deadline

if TYPE_CHECKING:
    from .attempt_log import AttemptLog
    from .batch_ledger import BatchLedger
    from .quota.opening import RouteState
    from .quota_tracker import Hold, QuotaTracker
    from .reply import Attempt
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


class LedgerTimeout(Exception):
    """The ledger did not answer before the request's deadline."""


class TimedLedger:
    """The ledger and the attempt log of one request.

    They may be behind a network that hangs, or locked by a kernel that was stopped. A call that
    takes too long is left to finish in a helper thread, and the request goes on without its result.

    Args:
        tracker: the ledger, or the `BatchLedger` of a job.
        log: where the attempts are recorded.
        has_deadline: False for background threads: their calls take as long as they need.
    """

    def __init__(
        self,
        tracker: QuotaTracker | BatchLedger,
        log: AttemptLog | BatchLedger,
        *,
        has_deadline: bool = True,
    ) -> None:
        self.tracker, self._log, self._has_deadline = tracker, log, has_deadline
        self._ends = math.inf
        # The hold of the current call, and whether the call has begun.
        self._hold: Hold | None = None
        self._has_begun = False

    def start(self, seconds: float) -> None:
        """Set the deadline to `seconds` from now."""
        # Not measured by the configuration's clock, which may run faster than real time.
        self._ends = time.monotonic() + seconds

    def add_time(self, seconds: float) -> None:
        """Move the deadline."""
        self._ends += seconds

    def offer(self, offer: Callable[[], tuple[T, Hold | None]]) -> tuple[T, Hold | None]:
        """Return the result of `offer`; a hold that is granted after the deadline is released.

        Raises:
            LedgerTimeout: the deadline has passed, or the ledger was locked until then.
        """
        left = self._ends - time.monotonic() if self._has_deadline else math.inf

        def offer_in_time() -> tuple[T, Hold | None]:
            with lock_deadline(left):
                offered = offer()
            # Set here, because an interrupt may come before the caller has the result.
            self._hold, self._has_begun = offered[1], False
            return offered

        try:
            return self._timed(offer_in_time, math.inf, lambda _: self._release())
        except (TookTooLong, StorageTimeout):
            raise LedgerTimeout from None

    def begin(self) -> None:
        """Note that the call begins: from now on, its hold counts."""
        self._has_begun = True

    def release(self) -> None:
        """End the hold of a call that was interrupted before it was settled.

        If the call has begun, its estimated usage counts as used.
        """
        if self._hold is not None:
            self._or_else(self._release, None)

    def settle(self, call: Settlement) -> str:
        """Like `QuotaTracker.settle`; "" if the ledger takes too long."""

        def settle() -> str:
            self._hold = None
            return self.tracker.settle(call)

        return self._or_else(settle, "")

    def fail(self, hold: Hold, failure: ProviderFailure, account: str | None) -> RouteState | None:
        """As `QuotaTracker.fail`; None if the ledger takes too long."""

        def fail() -> RouteState:
            self._hold = None
            return self.tracker.fail(hold, failure, account)

        return self._or_else(fail, None)

    def states(
        self, routes: Iterable[Route], request: Request, now: float
    ) -> Mapping[Route, RouteState]:
        """The state of each route; empty if the ledger takes too long."""

        def look() -> Mapping[Route, RouteState]:
            state_of = self.tracker.states_for(request, now)
            return {route: state_of(route) for route in routes}

        return self._or_else(look, {})

    def append(self, attempts: Sequence[Attempt], decisions: Sequence[Decision]) -> None:
        """As `AttemptLog.append`."""
        self._or_else(partial(self._log.append, attempts, decisions), None)

    def _release(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None and self._has_begun:
            self.tracker.settle(Settlement(hold, None, answered=False, is_whole=False))
        elif hold is not None:
            self.tracker.fail(hold, NOT_SENT)

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
        if not self.tracker.may_hang:
            try:
                with lock_deadline(_MOMENT_SECONDS):
                    return shielded(work, unclaimed)
            except StorageTimeout:
                pass
        left = max(self._ends - time.monotonic(), _LATE_SECONDS)
        return within(min(left, longest), work, unclaimed)
