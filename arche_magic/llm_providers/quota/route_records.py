"""Reads and changes everything that the ledger knows about a route, under the limits in force.

The state of a route is cached until its documents change, so that choosing among hundreds of routes
costs little more than choosing between two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache

from ..catalog import parse_limits
from ..config import Configuration
from ..processes import is_dead
from ..request import Request
from ..storage import Storage, StorageTimeout, lock_deadline
from ..types import Limit, Route, RouteId, WindowRule
from . import counting, opening
from .accounts import Accounts
from .opening import Outlook, RouteState
from .state import AccountState, ModelState, ProviderState, RouteRecord

_UNKNOWN = None, None, -1.0


class RouteRecords:
    """Reads and changes the records of routes."""

    def __init__(self, storage: Storage, configuration: Configuration) -> None:
        self.accounts = Accounts(storage, configuration)
        self.configuration = configuration
        self.clock = configuration.clock
        self._defaults: dict[Route, tuple[Limit, ...]] = {}
        # The records that were read last, what they say about many requests, and the longest prompt
        # of those, see `_outlook`.
        self._known: dict[RouteId, tuple[RouteRecord, Outlook | None, float]] = {}

    def read(self, route: Route, now: float) -> RouteRecord:
        """The record of a route. Callers must not change it."""
        account, provider = self.accounts.read(route.key)
        return self._charged(account, provider, route, now)

    def states(self, request: Request, now: float) -> Callable[[Route], RouteState]:
        """The state of a route for a request at that moment, without the bounds of its cost.

        The ledger is read once for all routes of a provider. A headroom may be a second old.
        """
        plain = counting.plain_tokens(request)
        counts_once = request.counts_as == 1 and not request.reserve
        # Nothing in the request determines the length of its reply.
        has_usual_reply = counting.output_tokens(request, -1) == -1
        read_all = cache(self.accounts.read_all)

        def state_of(route: Route) -> RouteState:
            readings, provider = read_all(route.provider)
            account = readings[route.key.label].account
            record, outlook, longest = self._known.get(route.id, _UNKNOWN)
            if not record or record.account is not account or record.provider is not provider:
                record = self.record(account, provider, route, now)
                outlook, longest = self._outlook(record, now)
            elif outlook and not outlook.at <= now < outlook.until:
                outlook, longest = self._outlook(record, now)
            if outlook and counts_once:
                # First without a function call, because there may be hundreds of routes.
                if has_usual_reply and plain < longest:
                    return outlook.state
                usual = counting.calibration(record.model)
                tokens = math.ceil(plain * usual.input_ratio)
                output = math.ceil(counting.output_tokens(request, usual.output_tokens))
                if outlook.holds_for(tokens, output):
                    return outlook.state
            if counting.lost_holds(account, now, is_dead):
                record = self._charged(account, provider, route, now)
            amounts = counting.estimate(record.model, request)
            return opening.route_state(record, amounts, now, request.reserve)

        return state_of

    def _outlook(self, record: RouteRecord, now: float) -> tuple[Outlook | None, float]:
        """What the record says about many requests, and the longest prompt of those.

        The prompt's tokens are estimated from its length alone; the reply has the usual length.
        """
        outlook, longest = opening.outlook(record, now), -1.0
        usual = counting.calibration(record.model)
        output = math.ceil(usual.output_tokens)
        if outlook and output <= outlook.output_tokens:
            room = min(outlook.input_tokens, outlook.tokens - output)
            # Estimates are whole tokens.
            longest = (room if math.isinf(room) else math.floor(room)) / usual.input_ratio
        self._known[record.route.id] = record, outlook, longest
        return outlook, longest

    def known(self, route: Route) -> RouteRecord:
        """The record of a route whose state was computed last."""
        return self._known[route.id][0]

    def reading(self, now: float) -> Callable[[Route], RouteRecord]:
        """`read` for many routes of the configuration: the ledger is read once per provider."""
        read_all = cache(self.accounts.read_all)

        def record_of(route: Route) -> RouteRecord:
            readings, provider = read_all(route.provider)
            return self._charged(readings[route.key.label].account, provider, route, now)

        return record_of

    def _charged(
        self, account: AccountState, provider: ProviderState, route: Route, now: float
    ) -> RouteRecord:
        """The record of a route in these states, after charging calls that never ended.

        If the ledger is locked, they are charged only in a copy.
        """
        if counting.lost_holds(account, now, is_dead):

            def charge(account: AccountState, provider: ProviderState) -> None:
                # Read the clock now. With a reading from before the machine slept, or before other
                # threads ran, calls that began since then would seem to come from a wrong clock.
                self.charge_lost(account, provider, route, self.clock.time())

            try:
                with lock_deadline(0):
                    self.accounts.update(route.key, charge)
                account, provider = self.accounts.read(route.key)
            except StorageTimeout:
                account = deepcopy(account)
                charge(account, provider)
        return self.record(account, provider, route, now)

    def record(
        self, account: AccountState, provider: ProviderState, route: Route, now: float
    ) -> RouteRecord:
        """The record of a route in these states. Callers must not change it."""
        model = account.models.get(route.model) or ModelState()
        defaults = self._default_limits(provider, route)
        limits = counting.limits_of(model, defaults)
        if new := counting.new_counts(model, limits, now):
            model = replace(model, limits=model.limits | new)
        usual = self._usual_window(route)
        return RouteRecord(route, account, provider, model, limits, defaults, usual)

    def to_change(
        self, account: AccountState, provider: ProviderState, route: Route, now: float
    ) -> RouteRecord:
        """The record of a route in states that are being changed, with lost calls charged."""
        self.charge_lost(account, provider, route, now)
        model = account.model(route.model)
        record = self.record(account, provider, route, now)
        if record.model is not model:
            model.limits = record.model.limits
            record = record._replace(model=model)
        return record

    def charge_lost(
        self, account: AccountState, provider: ProviderState, route: Route, now: float
    ) -> None:
        """Charge calls of the route's account, on any model, that never ended."""
        for name, holds in counting.lost_holds(account, now, is_dead).items():
            model = account.models[name]
            defaults = self._default_limits(provider, replace(route, model=name))
            limits = counting.limits_of(model, defaults)
            counting.charge_holds(model, holds, limits, now)

    def _default_limits(self, provider: ProviderState, route: Route) -> tuple[Limit, ...]:
        """Published limits, overlaid by the user's: of the configuration, then of `set_limits`."""
        if route not in self._defaults:
            self._defaults[route] = self.configuration.default_limits(route)
        defaults = self._defaults[route]
        if not provider.limits:
            return defaults
        limits = {limit.name: limit for limit in defaults}
        for scope in self.configuration.limit_scopes(route):
            table = provider.limits.get(scope, {})
            parsed = parse_limits(table, *self._usual_window(route))
            limits.update({limit.name: limit for limit in parsed})
        return tuple(limits.values())

    def _usual_window(self, route: Route) -> tuple[WindowRule, str]:
        catalog = self.configuration.providers[route.provider]
        return catalog.window, catalog.time_zone
