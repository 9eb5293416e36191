"""The states of many routes for one request, each computed when it is needed.

What was worked out is kept until the documents that it came from change, so that a choice among
hundreds of routes costs little more than a choice between two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..request import Request
from ..types import Route, RouteId
from . import ledger, opening
from .accounts import Reading
from .opening import Outlook, RouteState
from .route_records import RouteRecords
from .state import AccountState, Amounts, ProviderState, RouteRecord


@dataclass
class _Known:
    """What is known of a route until its account or its provider changes.

    Attributes:
        has_holds: calls of the account are under way, so its state may change with time alone.
        outlook: see `Outlook`.
        longest_prompt: the outlook holds for shorter prompts (in tokens by their length alone) with
            a reply of the usual length.
        last: the state for the request that was asked about last, with its amounts, its reserve,
            and the time in which it is true.
    """

    account: AccountState
    provider: ProviderState
    record: RouteRecord
    has_holds: bool
    input_ratio: float
    usual_output: int
    outlook: Outlook | None = None
    longest_prompt: float = -1.0
    last: tuple[Amounts, float, float, float, RouteState] | None = None

    def look(self, now: float) -> Outlook | None:
        """Work out the outlook, and return it."""
        self.outlook = found = opening.outlook(self.record, now)
        self.longest_prompt = -1.0
        if found and self.usual_output <= found.output_tokens:
            room = min(found.input_tokens, found.tokens - self.usual_output)
            # Estimates are whole tokens.
            room = room if math.isinf(room) else math.floor(room)
            self.longest_prompt = room / self.input_ratio
        return found


class RouteStates:
    """Computes the states of routes, and caches them while nothing changes.

    Args:
        records: the ledger's records of routes.
    """

    def __init__(self, records: RouteRecords) -> None:
        self._records = records
        self._known: dict[RouteId, _Known] = {}

    def of(self, request: Request, now: float) -> Callable[[Route], RouteState]:
        """The state of a route for a request at that moment, without the bounds of its cost.

        The ledger is read once for all routes of a provider. A headroom may be a second old.
        """
        plain = ledger.plain_tokens(request)
        counts_once = request.counts_as == 1 and not request.reserve
        # Its length is the model's usual one, which `longest_prompt` takes into account.
        has_usual_reply = counts_once and not (
            request.inputs
            or request.expected_tokens
            or request.max_tokens
            or request.reply_count > 1
        )
        read_all, known_routes = self._records.accounts.read_all, self._known
        by_provider: dict[str, tuple[Mapping[str, Reading], ProviderState]] = {}

        def state_of(route: Route) -> RouteState:
            found = by_provider.get(route.provider)
            if found is None:
                found = by_provider[route.provider] = read_all(route.provider)
            readings, provider = found
            account = readings[route.key.label].account
            known = known_routes.get(route.id)
            if known is None or known.account is not account or known.provider is not provider:
                known = known_routes[route.id] = self._find(route, account, provider, now)
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
                output = math.ceil(ledger.output_tokens(request, known.usual_output))
                if outlook.holds_for(tokens, output):
                    return outlook.state
            return self._work_out(known, request, now)

        return state_of

    def record(self, route: Route) -> RouteRecord:
        """The record of a route whose state was computed before."""
        return self._known[route.id].record

    def _find(
        self, route: Route, account: AccountState, provider: ProviderState, now: float
    ) -> _Known:
        record = self._records.record(account, provider, route, now)
        usual = ledger.calibration(record.model)
        holds = any(model.holds for model in account.models.values())
        output = math.ceil(usual.output_tokens)
        known = _Known(account, provider, record, holds, usual.input_ratio, output)
        known.look(now)
        return known

    def _work_out(self, known: _Known, request: Request, now: float) -> RouteState:
        """The state for this very request."""
        record, reserve = known.record, request.reserve
        if known.has_holds:
            # Calls that never ended are charged first.
            record = self._records.read(record.route, now)
            amounts = ledger.estimate(record.model, request)
            return opening.route_state(record, amounts, now, reserve)
        amounts = ledger.estimate(record.model, request)
        if known.last and known.last[:2] == (amounts, reserve):
            _, _, at, until, state = known.last
            if at <= now < until:
                return state
        state = opening.route_state(record, amounts, now, reserve)
        # Without an outlook, the state depends on calls of others that try the route.
        until = now + opening.FRESH_SECONDS if known.outlook else now
        if state.opens_at > now:
            until = min(until, state.opens_at)
        known.last = amounts, reserve, now, until, state
        return state
