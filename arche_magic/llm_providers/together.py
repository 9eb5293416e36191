"""Requests that one thread asks one after the other: held in one change, booked in another.

Where replies come at once, to load and write the ledger twice for each costs more than the call
itself. Each request still has a hold of its own, and is charged what it spent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

from .attempts import AttemptLog, Ended
from .errors import ProviderFailure, Remedy
from .quota.opening import RouteState
from .quota_tracker import Hold, Purse, QuotaTracker, Settlement
from .reply import Attempt
from .types import Observation, Request, Route, Usage

if TYPE_CHECKING:
    from .config import Configuration
    from .routing import Decision

logger = logging.getLogger("arche_magic.attempts")

# A hold that was not used by then is given back: others may need it.
_FRESH_SECONDS = 1.0


class Together:
    """Stands in for the ledger and the record of attempts of a few requests.

    The first of them finds its route, and holds it for the others too. Whatever is out of the
    ordinary after that (a failure, a wait, another route) ends it: what is not used is given back,
    and the rest goes as it does for any request. All is booked at the end of its `with`.

    Args:
        tracker: the ledger.
        log: the record of attempts.
        requests: what will be asked, in that order.
    """

    def __init__(self, tracker: QuotaTracker, log: AttemptLog, requests: Sequence[Request]) -> None:
        self._tracker, self._log = tracker, log
        self._unheld = list(requests)
        # By the identity of the request.
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
        """As `QuotaTracker.state`; what the first request saw, for one that is held already."""
        if self._is_ready(request) and route in self._states:
            return self._states[route]
        self._book()
        state = self._states[route] = self._tracker.state(route, request, now)
        return state

    def hold(self, route: Route, request: Request) -> Hold | RouteState:
        """As `QuotaTracker.hold`, for the requests that come after this one too."""
        if self._is_ready(request):
            hold = self._held.pop(id(request))
            if hold.route == route:
                return hold
            self._give_back(hold)
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
        """As `QuotaTracker.settle`, but later; what is left is not known yet: ""."""
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
        """Book what was asked, and give back what was held and not asked."""
        try:
            self._book()
        except Exception as error:  # noqa: BLE001  # whatever it is, the replies are worth more
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
            self._give_back(hold)

    def _give_back(self, hold: Hold) -> None:
        unsent = ProviderFailure("another call had failed", Remedy.FIX_REQUEST, sent=False)
        self._tracker.fail(hold, unsent)
