"""The ledger of a job: one change holds the next requests and settles those that have ended.

If replies arrive immediately, reading and writing the ledger twice per request takes longer than
the call itself. Each request still has its own hold and is charged for what it spent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from .attempt_log import AttemptLog, Ended
from .provider_failure import ProviderFailure
from .quota.opening import RouteState
from .quota_tracker import Hold, QuotaTracker, Settlement, SpendingBounds
from .reply import Attempt
from .request import Request
from .types import Route

if TYPE_CHECKING:
    from .config import Configuration
    from .routing import Decision

logger = logging.getLogger("arche_magic.attempts")

T = TypeVar("T")

# An unused hold is released after this time, because others may need it.
_FRESH_SECONDS = 1.0


@dataclass(frozen=True)
class _Held:
    """A hold that was made before its request was asked.

    Attributes:
        at: when it was made, in seconds of the monotonic clock.
        states: the states of the routes when this one was chosen.
    """

    # Keeps the request alive, so that no other one gets its identity.
    request: Request
    hold: Hold
    at: float
    states: dict[Route, RouteState]

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() < self.at + _FRESH_SECONDS


class BatchLedger:
    """Replaces the ledger and the attempt log for many requests of several threads.

    A request without a hold gets one. The same change holds for the requests of other threads that
    wait for the same route, and for those that come next, and settles the calls that have ended. A
    failure releases the unused holds of its route.

    Args:
        tracker: the ledger.
        log: the attempt log.
        coming: returns the next requests to ask, in order.
        on_ended: called with the attempts of each request that has ended, however it ended.
    """

    def __init__(
        self,
        tracker: QuotaTracker,
        log: AttemptLog,
        coming: Callable[[], Iterable[Request]],
        on_ended: Callable[[Sequence[Attempt]], object],
    ) -> None:
        self._tracker, self._log, self._coming = tracker, log, coming
        self._on_ended = on_ended
        self.configuration: Configuration = tracker.configuration
        # Held while the ledger is changed.
        self._lock = threading.Lock()
        # The keys of both are from `_identity`. Single operations on a dict or deque need no lock.
        self._waiting: dict[int, tuple[Route, Request]] = {}
        self._held: dict[int, _Held] = {}
        # Calls that the next change settles.
        self._calls: deque[Settlement] = deque()
        self._ended: deque[Ended] = deque()
        self._is_closed = False
        # The states of the routes as this thread has read them.
        self._seen = threading.local()

    @property
    def job(self) -> SpendingBounds | None:
        """As `QuotaTracker.job`."""
        return self._tracker.job

    @property
    def held_ahead(self) -> int:
        """The number of requests that have a hold and have not been asked yet."""
        return len(self._held)

    def states_for(self, request: Request, now: float) -> Callable[[Route], RouteState]:
        """As `QuotaTracker.states_for`; for a request with a hold, the states when it was made."""
        held = self._held.get(_identity(request))
        states: dict[Route, RouteState] = {}
        if held is not None and held.is_fresh:
            states = held.states
        else:
            self._seen.states = states
            if self._calls:
                self.book()
        # The ledger is read when a route is not known yet.
        of_ledger = cache(lambda: self._tracker.states_for(request, now))

        def state_of(route: Route) -> RouteState:
            if (state := states.get(route)) is None:
                state = states[route] = of_ledger()(route)
            return state

        return state_of

    def hold(self, route: Route, request: Request) -> Hold | RouteState:
        """As `QuotaTracker.hold`; also holds for requests that wait for the route or come next."""
        if (hold := self._take(route, request)) is not None:
            return hold
        self._waiting[_identity(request)] = route, request
        try:
            with self._lock:
                # The next thread must not hold for it again.
                self._waiting.pop(_identity(request), None)
                # The thread before this one may have held for it.
                if (hold := self._take(route, request)) is not None:
                    return hold
                self._book()
                requests = list(self._requests_for(route, request))
                held = self._tracker.hold_all(route, requests)
                if isinstance(held, RouteState):
                    return held
                at, states = time.monotonic(), getattr(self._seen, "states", {})
                for later, hold in zip(requests[1:], held[1:], strict=False):
                    self._held[_identity(later)] = _Held(later, hold, at, states)
                return held[0]
        finally:
            self._waiting.pop(_identity(request), None)

    def settle(self, call: Settlement) -> str:
        """Like `QuotaTracker.settle`, but later; returns "", because nothing is settled yet."""
        self._calls.append(replace(call, ended_at=self.configuration.clock.time()))
        if self._is_closed:
            self.book()
        return ""

    def fail(self, hold: Hold, failure: ProviderFailure, account: str | None = None) -> RouteState:
        """As `QuotaTracker.fail`."""
        with self._lock:
            self._give_back(lambda held: held.hold.route == hold.route)
            self._book()
            return self._tracker.fail(hold, failure, account)

    def append(self, attempts: Sequence[Attempt], decisions: Sequence[Decision] = ()) -> None:
        """As `AttemptLog.append`, but with the next change."""
        self._on_ended(attempts)
        self._ended.append(Ended(tuple(attempts), tuple(decisions)))
        if self._is_closed:
            self.book()

    def book(self, *, release: bool = False) -> None:
        """Settle the calls that have ended, and release holds unused for a second, or all."""
        with self._lock:
            self._give_back(lambda held: release or not held.is_fresh)
            self._book()

    def release(self) -> None:
        """Release all unused holds; a request that waits for a limit must not wait for them."""
        if self._held:
            self.book(release=True)

    def close(self) -> None:
        """Settle everything, and release all unused holds; later calls are settled immediately.

        Threads that are still asking can continue.
        """
        self._is_closed = True
        self.book(release=True)

    def _take(self, route: Route, request: Request) -> Hold | None:
        """The request's hold on the route, if it has a fresh one."""
        held = self._held.pop(_identity(request), None)
        if held is None:
            return None
        if held.hold.route == route and held.is_fresh:
            return held.hold
        self._note_unused(held.hold)
        return None

    def _note_unused(self, hold: Hold) -> None:
        self._calls.append(Settlement(hold, None, answered=False, sent=False))

    def _requests_for(self, route: Route, request: Request) -> Iterator[Request]:
        """The request, those that wait for the same route, and those that come next."""
        yield request
        known = {_identity(request)}
        waiting = [other for at, other in self._waiting.copy().values() if at == route]
        for other in (*waiting, *(() if self._is_closed else self._coming())):
            if _identity(other) not in known and _identity(other) not in self._held:
                known.add(_identity(other))
                yield other

    # --- while the lock is held

    def _give_back(self, is_unused: Callable[[_Held], bool]) -> None:
        """Note the holds that the next change releases."""
        for key, held in self._held.copy().items():
            if is_unused(held) and self._held.pop(key, None) is not None:
                self._note_unused(held.hold)

    def _book(self) -> None:
        calls, ended = _all(self._calls), _all(self._ended)
        for route in dict.fromkeys(call.hold.route for call in calls):
            try:
                self._tracker.settle(*(call for call in calls if call.hold.route == route))
            # Broad, because replies that were paid for must not be lost to an error of the storage.
            except Exception as error:  # noqa: BLE001
                logger.warning("the ledger refused a call (%s)", type(error).__name__)
        if ended:
            self._log.append_all(ended)


def _identity(request: Request) -> int:
    """Return a number that identifies a request and its copies with another patience."""
    return id(request.messages)


def _all(found: deque[T]) -> list[T]:
    """Remove and return what is in a deque now; other threads may add more."""
    return [found.popleft() for _ in range(len(found))]
