"""The documents of a route's account and provider, written out in full, and the limits in force."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from ..catalog import parse_limits, split_limit_name
from ..config import Configuration
from ..processes import is_dead
from ..storage import Storage, StorageTimeout, lock_deadline
from ..types import Limit, Observation, Route, Usage
from . import folding, ledger
from .accounts import Accounts
from .holds import lost_holds, place_hold
from .ledger import Amounts, Document

if TYPE_CHECKING:
    from .budget import Purse

T = TypeVar("T")


@dataclass(frozen=True)
class Hold:
    """A reservation on one route, to be settled or failed exactly once.

    Those that were made together share an `id`. `document` is the name of the document it was made
    in, `shares` what it holds of the budget and
    of the bounds of its job: purses, each with the hold in it.
    """

    id: str
    route: Route
    amounts: Amounts
    plain_tokens: float
    at: float
    document: str = ""
    shares: tuple[tuple[Purse, str], ...] = ()


@dataclass(frozen=True)
class Settlement:
    """How a call ended that was made on a hold.

    Attributes:
        hold: what was reserved for it.
        usage: the provider's own count; None: the estimate is taken for it.
        observations: what the reply said of limits.
        account: the account it named, if any.
        answered: False for a call that was given up before anything came.
        is_whole: False for a call that was left before its end: the provider may charge for more
            than `usage`.
    """

    hold: Hold
    usage: Usage | None
    observations: tuple[Observation, ...] = ()
    account: str | None = None
    answered: bool = True
    is_whole: bool = True


class Books:
    """Reads and changes what is kept of a route.

    Args:
        storage: where the documents live.
        configuration: keys, models and the limits to start from; its clock is used.
    """

    def __init__(self, storage: Storage, configuration: Configuration) -> None:
        self.accounts = Accounts(storage, configuration)
        self.configuration = configuration
        self._clock = configuration.clock
        self._defaults: dict[Route, tuple[Limit, ...]] = {}

    def read(self, route: Route, now: float) -> tuple[Document, Document, dict[str, Limit]]:
        """The documents of account and provider, and the limits in force.

        Calls that never ended are charged first; in a copy, if the ledger is locked.
        """
        kept, provider = self.accounts.read(route.key)
        if lost_holds(kept, now, is_dead):

            def charge(kept: Document, provider: Document) -> None:
                # By the clock as it is now: whoever looked at it before the machine slept, or
                # before others had their turn, would take calls begun since for a wrong clock's.
                self.charge_lost(kept, provider, route, self._clock.time())

            try:
                with lock_deadline(0):
                    self.accounts.update(route.key, charge)
                kept, provider = self.accounts.read(route.key)
            except StorageTimeout:
                kept = deepcopy(kept)
                charge(kept, provider)
        document, limits = self.in_full(kept, provider, route, now)
        return document, provider, limits

    def in_full(
        self, kept: Document, provider: Document, route: Route, now: float
    ) -> tuple[Document, dict[str, Limit]]:
        """The account's document with the route's model written out, and the limits in force."""
        catalog = self.configuration.providers[route.provider]
        document = folding.unfolded(kept, catalog, route.model)
        limits = self.limits(document, provider, route)
        entry = document["models"].setdefault(route.model, {})
        ledger.keep_limits(entry, limits.values(), now)
        return document, limits

    def charge_lost(self, kept: Document, provider: Document, route: Route, now: float) -> None:
        """Charge calls of the route's key, on any model, that never ended."""
        lost = lost_holds(kept, now, is_dead)
        if not lost:
            return
        catalog = self.configuration.providers[route.provider]
        folding.unfold(kept, catalog, *lost)
        for model, holds in lost.items():
            limits = self.limits(kept, provider, replace(route, model=model))
            ledger.charge_holds(kept, model, holds, limits.values(), now)
        folding.fold(kept, catalog, now, *lost)

    def settle(self, holds: Sequence[Hold], change: Callable[[Document, Document, float], T]) -> T:
        """Change the documents, with the holds in that of the account wherever they were made.

        The holds are of one route, and were made together. Its model is written out in full, and
        `change` is also given the time.
        """
        route = holds[0].route
        catalog = self.configuration.providers[route.provider]

        def with_holds(document: Document, provider: Document, taken: Mapping[str, Document]) -> T:
            now = self._clock.time()
            self.charge_lost(document, provider, route, now)
            for hold in holds:
                if hold.id in taken:
                    place_hold(
                        document, route, hold.id, hold.amounts, hold.at,
                        taken[hold.id]["expires"], taken[hold.id].get("by", ""),
                    )  # fmt: skip
            document.setdefault("models", {}).setdefault(route.model, {})
            folding.unfold(document, catalog, route.model)
            result = change(document, provider, now)
            folding.fold(document, catalog, now, route.model)
            return result

        held = [(hold.id, hold.amounts) for hold in holds]
        place = holds[0].document
        return self.accounts.update_held(route.key, route.model, held, place, with_holds)

    def _defaults_of(self, provider: Document, route: Route) -> tuple[Limit, ...]:
        """Published limits, overlaid by the user's: of the configuration, then of `set_limits`."""
        if route not in self._defaults:
            self._defaults[route] = self.configuration.default_limits(route)
        defaults = self._defaults[route]
        if "limits" not in provider:
            return defaults
        catalog = self.configuration.providers[route.provider]
        limits = {limit.name: limit for limit in defaults}
        for scope in self.configuration.limit_scopes(route):
            table = provider["limits"].get(scope, {})
            parsed = parse_limits(table, catalog.window, catalog.time_zone)
            limits.update({limit.name: limit for limit in parsed})
        return tuple(limits.values())

    def limits(self, document: Document, provider: Document, route: Route) -> dict[str, Limit]:
        """The limits in force for a route."""
        defaults = self._defaults_of(provider, route)
        return ledger.limits_of(document, route.model, defaults)

    def learn(
        self, document: Document, provider: Document, route: Route, seen: Iterable[Observation],
        now: float, alone: bool, refused: Amounts | None = None,
    ) -> None:  # fmt: skip
        """Let a response correct the limits of a route, and what is used of them.

        `refused` are the units of the request, if it was refused.
        """
        catalog = self.configuration.providers[route.provider]

        def window_of(name: str) -> Limit:
            metric, period = split_limit_name(name)
            return Limit(metric, period, 0.0, catalog.window, catalog.time_zone)

        defaults = self._defaults_of(provider, route)
        ledger.learn(document, route.model, defaults, window_of, seen, now, alone, refused)

    def doubt(self, document: Document, provider: Document, route: Route, began: float) -> None:
        """Drop inferred limits of a route that answered a call that began then."""
        ledger.doubt(document, route.model, self._defaults_of(provider, route), began)
