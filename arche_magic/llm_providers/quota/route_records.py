"""Reads and changes everything that the ledger knows about a route, under the limits in force.

The state of a route is cached until its documents change, so that choosing among hundreds of routes
costs little more than choosing between two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

from ..catalog import parse_limits
from ..config import Configuration
from ..processes import is_dead
from ..request import Request
from ..storage import Storage, StorageTimeout, lock_deadline
from ..types import Limit, Route, RouteId, WindowRule
from . import counting, opening
from .accounts import Accounts, Reading
from .opening import Outlook, RouteState
from .state import AccountState, Amounts, ModelState, ProviderState, RouteRecord, States


@dataclass
class _Known:
    """The cached data of a route, valid until its account or its provider changes.

    Attributes:
        record: all that the ledger knows.
        input_ratio, usual_output: of its model; see `Calibration`.
        outlook: its state for many requests, if it can be told.
        longest_prompt: the outlook holds for prompts up to this length (tokens, estimated from the
            length alone) with a reply of the usual length.
        last: the amounts, the reserve and the state of the last request, with the time in which the
            state is valid.
    """

    record: RouteRecord
    input_ratio: float
    usual_output: int
    outlook: Outlook | None = None
    longest_prompt: float = -1.0
    last: tuple[Amounts, float, float, float, RouteState] | None = None

    def look(self, now: float) -> Outlook | None:
        """Compute the outlook, and return it."""
        self.outlook = found = opening.outlook(self.record, now)
        self.longest_prompt = -1.0
        if found and self.usual_output <= found.output_tokens:
            room = min(found.input_tokens, found.tokens - self.usual_output)
            # Estimates are whole tokens.
            room = room if math.isinf(room) else math.floor(room)
            self.longest_prompt = room / self.input_ratio
        return found


class RouteRecords:
    """Reads and changes the records of routes.

    Args:
        storage: where the documents are stored.
        configuration: keys, models and the limits to start from; its clock is used.
    """

    def __init__(self, storage: Storage, configuration: Configuration) -> None:
        self.accounts = Accounts(storage, configuration)
        self.configuration = configuration
        self.clock = configuration.clock
        self._defaults: dict[Route, tuple[Limit, ...]] = {}
        self._known: dict[RouteId, _Known] = {}

    def read(self, route: Route, now: float) -> RouteRecord:
        """The record of a route. Callers must not change it.

        Calls that never ended are charged first, or only in a copy if the ledger is locked.
        """
        account, provider = self.accounts.read(route.key)
        return self._charged(account, provider, route, now)

    def states(self, request: Request, now: float) -> Callable[[Route], RouteState]:
        """The state of a route for a request at that moment, without the bounds of its cost.

        The ledger is read once for all routes of a provider. A headroom may be a second old.
        """
        plain = counting.plain_tokens(request)
        counts_once = request.counts_as == 1 and not request.reserve
        # The reply has the model's usual length, which `longest_prompt` takes into account.
        has_usual_reply = counts_once and not (
            request.inputs
            or request.expected_tokens
            or request.max_tokens
            or request.reply_count > 1
        )
        read_all, known_routes = self.accounts.read_all, self._known
        by_provider: dict[str, tuple[Mapping[str, Reading], ProviderState]] = {}

        def state_of(route: Route) -> RouteState:
            found = by_provider.get(route.provider)
            if found is None:
                found = by_provider[route.provider] = read_all(route.provider)
            readings, provider = found
            account = readings[route.key.label].account
            known = known_routes.get(route.id)
            if (
                known is None
                or known.record.account is not account
                or known.record.provider is not provider
            ):
                record = self.record(account, provider, route, now)
                usual = counting.calibration(record.model)
                known = _Known(record, usual.input_ratio, math.ceil(usual.output_tokens))
                known_routes[route.id] = known
                known.look(now)
            outlook = known.outlook
            if outlook and not outlook.at <= now < outlook.until:
                outlook = known.look(now)
            if outlook is None:
                pass
            elif has_usual_reply:
                if plain < known.longest_prompt:
                    return outlook.state
            elif counts_once:
                tokens = math.ceil(plain * known.input_ratio)
                output = math.ceil(counting.output_tokens(request, known.usual_output))
                if outlook.holds_for(tokens, output):
                    return outlook.state
            return self._state_for(known, request, now)

        return state_of

    def known(self, route: Route) -> RouteRecord:
        """The record of a route whose state was computed last."""
        return self._known[route.id].record

    def state_as_read(
        self, route: Route, as_read: States | None, amounts: Amounts, now: float
    ) -> RouteState | None:
        """The state for a request with these amounts, if its outlook was read and is still true.

        `as_read` are the states of the route's account and provider, see `accounts.Change`.
        """
        known = self._known.get(route.id)
        if not known or not as_read or not known.outlook or amounts["requests"] != 1:
            return None
        record, outlook = known.record, known.outlook
        is_current = record.account is as_read[0] and record.provider is as_read[1]
        if not is_current or not outlook.at <= now < outlook.until:
            return None
        fits = outlook.holds_for(amounts["input_tokens"], amounts["output_tokens"])
        return outlook.state if fits else None

    def _state_for(self, known: _Known, request: Request, now: float) -> RouteState:
        """The state for this very request."""
        record, reserve = known.record, request.reserve
        if any(model.holds for model in record.account.models.values()):
            # Calls that never ended are charged first.
            record = self.read(record.route, now)
            amounts = counting.estimate(record.model, request)
            return opening.route_state(record, amounts, now, reserve)
        amounts = counting.estimate(record.model, request)
        if known.last and known.last[:2] == (amounts, reserve):
            _, _, at, until, state = known.last
            if at <= now < until:
                return state
        state = opening.route_state(record, amounts, now, reserve)
        # Without an outlook, the state depends on other calls that try the route.
        until = now + opening.FRESH_SECONDS if known.outlook else now
        if state.opens_at > now:
            until = min(until, state.opens_at)
        known.last = amounts, reserve, now, until, state
        return state

    def reading(self, now: float) -> Callable[[Route], RouteRecord]:
        """`read` for many routes of the configuration: the ledger is read once per provider."""
        providers: dict[str, tuple[Mapping[str, Reading], ProviderState]] = {}

        def record_of(route: Route) -> RouteRecord:
            if route.provider not in providers:
                providers[route.provider] = self.accounts.read_all(route.provider)
            readings, provider = providers[route.provider]
            return self._charged(readings[route.key.label].account, provider, route, now)

        return record_of

    def _charged(
        self, account: AccountState, provider: ProviderState, route: Route, now: float
    ) -> RouteRecord:
        """The record of a route in these states, with calls charged that never ended."""
        if counting.lost_holds(account, now, is_dead):

            def charge(
                account: AccountState, provider: ProviderState, _: States | None = None
            ) -> None:
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
        counted = counting.with_limits(model, limits.values(), now)
        usual = self._usual_window(route)
        return RouteRecord(route, account, provider, counted, limits, defaults, usual)

    def to_change(
        self, account: AccountState, provider: ProviderState, route: Route, now: float
    ) -> RouteRecord:
        """The record of a route in states that are being changed, with lost calls charged."""
        self.charge_lost(account, provider, route, now)
        model = account.model(route.model)
        defaults = self._default_limits(provider, route)
        limits = counting.limits_of(model, defaults)
        counting.keep_limits(model, limits.values(), now)
        usual = self._usual_window(route)
        return RouteRecord(route, account, provider, model, limits, defaults, usual)

    def charge_lost(
        self, account: AccountState, provider: ProviderState, route: Route, now: float
    ) -> None:
        """Charge calls of the route's account, on any model, that never ended."""
        for name, holds in counting.lost_holds(account, now, is_dead).items():
            model = account.models[name]
            defaults = self._default_limits(provider, replace(route, model=name))
            limits = counting.limits_of(model, defaults)
            counting.charge_holds(model, holds, limits.values(), now)

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
