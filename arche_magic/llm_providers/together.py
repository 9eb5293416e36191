"""Several requests of one thread: one change of the ledger holds them, another one books them.

Where replies arrive at once, reading and writing the ledger twice per request takes longer than the
call itself. Each request still has its own hold and is charged for what it spent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Self

from .attempt_log import AttemptLog, Ended
from .provider_failure import NOT_SENT, ProviderFailure
from .quota.opening import RouteState
from .quota_tracker import Hold, Purse, QuotaTracker, Settlement
from .reply import Attempt
from .request import Request
from .types import Observation, Route, Usage

if TYPE_CHECKING:
    from .config import Configuration
    from .routing import Decision

logger = logging.getLogger("arche_magic.attempts")

# An unused hold is given back after this time, because others may need it.
_FRESH_SECONDS = 1.0


class Together:
    """Replaces the ledger and the attempt log for a few requests that follow each other.

    The first request finds its route and also holds it for the others. A failure, a wait or another
    route ends this: unused holds are given back, and each remaining request holds for itself. The
    end of the `with` books everything.

    Args:
        tracker: the ledger.
        log: the attempt log.
        requests: what will be asked, in that order.
    """

    def __init__(self, tracker: QuotaTracker, log: AttemptLog, requests: Sequence[Request]) -> None:
        self._tracker, self._log = tracker, log
        self._unheld = list(requests)
        # The key is the identity of the request.
        self._held: dict[int, Hold] = {}
        self._held_at = 0.0
        self._states: dict[Route, RouteState] = {}
        self._calls: list[Settlement] = []
        self._ended: list[Ended] = []

    @property
    def configuration(self) -> Configuration:
        """That of the ledger."""
        return self._tracker.configuration

    @property
    def job(self) -> Purse | None:
        """As `QuotaTracker.job`."""
        return self._tracker.job

    def state(self, route: Route, request: Request, now: float) -> RouteState:
        """As `QuotaTracker.state`; for a request that has its hold, what the first one saw."""
        if self._is_ready(request) and route in self._states:
            return self._states[route]
        self._book()
        state = self._states[route] = self._tracker.state(route, request, now)
        return state

    def states_for(self, request: Request, now: float) -> Callable[[Route], RouteState]:
        """As `QuotaTracker.states_for`; the first request's, for one that is held already."""
        if self._is_ready(request):
            return lambda route: self.state(route, request, now)
        self._book()
        of_tracker = self._tracker.states_for(request, now)

        def state_of(route: Route) -> RouteState:
            state = self._states[route] = of_tracker(route)
            return state

        return state_of

    def hold(self, route: Route, request: Request) -> Hold | RouteState:
        """As `QuotaTracker.hold`; also holds for the requests that follow."""
        if self._is_ready(request):
            hold = self._held.pop(id(request))
            if hold.route == route:
                return hold
            self._tracker.fail(hold, NOT_SENT)
        self._book()
        if not any(request is other for other in self._unheld):
            return self._tracker.hold(route, request)
        requests, self._unheld = self._unheld, []
        held = self._tracker.hold_all(route, requests)
        if isinstance(held, RouteState):
            return held
        self._held_at = time.monotonic()
        self._held = {id(later): hold for later, hold in zip(requests[1:], held[1:], strict=False)}
        return held[0]

    def settle(
        self,
        hold: Hold,
        usage: Usage | None,
        observations: Iterable[Observation] = (),
        account: str | None = None,
        *,
        answered: bool = True,
        is_whole: bool = True,
    ) -> str:
        """As `QuotaTracker.settle`, but later; returns "", because nothing is booked yet."""
        if self._calls and self._calls[0].hold.route != hold.route:
            self._book()
        seen = tuple(observations)
        now = self.configuration.clock.time()
        self._calls.append(Settlement(hold, usage, seen, account, answered, is_whole, now))
        return ""

    def fail(self, hold: Hold, failure: ProviderFailure, account: str | None = None) -> RouteState:
        """As `QuotaTracker.fail`."""
        self._book()
        return self._tracker.fail(hold, failure, account)

    def append(self, attempts: Sequence[Attempt], decisions: Sequence[Decision] = ()) -> None:
        """As `AttemptLog.append`, but later."""
        self._ended.append(Ended(tuple(attempts), tuple(decisions)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Book the calls that were made, and give back the holds of the others."""
        try:
            self._book()
        # Broad, because replies that were paid for must not be lost to an error of the storage.
        except Exception as error:  # noqa: BLE001
            logger.warning("the ledger refused a call (%s)", type(error).__name__)
        ended, self._ended = self._ended, []
        self._log.append_all(ended)

    def _is_ready(self, request: Request) -> bool:
        return id(request) in self._held and time.monotonic() < self._held_at + _FRESH_SECONDS

    def _book(self) -> None:
        calls, self._calls = self._calls, []
        held, self._held = self._held, {}
        if calls:
            self._tracker.settle_all(calls)
        for hold in held.values():
            self._tracker.fail(hold, NOT_SENT)
