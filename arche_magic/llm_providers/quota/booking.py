"""The changes that a call makes to the ledger: hold, then settle or fail."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from ..processes import this_process
from ..provider_failure import ProviderFailure
from ..request import Request
from ..types import Route
from . import closures, failing, ledger, opening, views
from .opening import RouteState
from .route_records import Hold, RouteRecords, Settlement
from .state import AccountState, Amounts, ProviderState, RouteRecord

HOLD_MARGIN_SECONDS = 30.0
"""A hold outlives its call by this much; after that its process counts as dead."""


def hold(
    records: RouteRecords, route: Route, requests: Sequence[Request]
) -> list[Hold] | RouteState:
    """Reserve as many of the first requests as fit the route; returns its state if none fits.

    The ledger has one record for all of them, from which each releases its own part.
    """

    def change(account: AccountState, provider: ProviderState) -> list[Hold] | RouteState:
        now, by, hold_id = records.clock.time(), this_process(), os.urandom(6).hex()
        records.charge_lost(account, provider, route, now)
        holds: list[Hold] = []
        for request in requests:
            # The first hold may create the model's state; the others only change it.
            if len(holds) < 2:
                record = records.record(account, provider, route, now)
            amounts = ledger.estimate(record.model, request)
            state = opening.route_state(record, amounts, now, request.reserve)
            if state.opens_at > now:
                return holds or state
            # An image says nothing about what a model counts for text, nor an unusual request
            # about its usual replies.
            unusual = request.images or request.expected_tokens or request.reply_count > 1
            plain = 0.0 if unusual else ledger.plain_tokens(request)
            held = Hold(hold_id, route, amounts, plain, now)
            expires = now + request.timeout + HOLD_MARGIN_SECONDS
            ledger.place_hold(account, route, held.id, amounts, now, expires, by)
            closures.note_trial(provider, route, now)
            holds.append(held)
        return holds

    result, name = records.accounts.update(route.key, change)
    if isinstance(result, RouteState):
        return result
    return [replace(held, document=name) for held in result]


def settle(records: RouteRecords, calls: Sequence[Settlement]) -> str:
    """Settle calls of one route; returns what is left, in words."""
    route = calls[0].hold.route
    # First, because limits in the replies apply to the whole account.
    for account in dict.fromkeys(call.account for call in calls):
        records.accounts.learn(route.key, account, "header")

    def change(record: RouteRecord, now: float) -> str:
        model = record.model
        for call in calls:
            held, ended_at = call.hold, min(now, call.ended_at)
            limits = record.limits.values()
            alone = ledger.settle(
                model, limits, held.id, held.amounts, spent(call), ended_at, held.at
            )
            if call.usage and call.is_whole:
                ledger.calibrate(model, held.plain_tokens, call.usage)
            closures.end_trial(record, held.at)
            record = records.learn(record, call.observations, ended_at, alone)
            if call.answered:
                record = records.doubt(record, held.at)
                ledger.note_answer(record, ended_at, held.at)
        return views.tightest(record, now)

    return records.settle([call.hold for call in calls], change)


def fail(
    records: RouteRecords, held: Hold, failure: ProviderFailure, units: Amounts,
    account: str | None, jitter: float,
) -> RouteState:  # fmt: skip
    """Charge a failed call with these units, and close what its remedy says.

    `account` is the account that the reply named, if any; the times of closures that double are
    multiplied by `jitter`. Returns the state of the route after it.
    """
    records.accounts.learn(held.route.key, account, "error")

    def change(record: RouteRecord, now: float) -> RouteState:
        limits = record.limits.values()
        alone = ledger.settle(record.model, limits, held.id, held.amounts, units, now, held.at)
        closures.end_trial(record, held.at)
        record = records.learn(record, failure.observations, now, alone, held.amounts)
        failing.close(record, failure, now, held.at, jitter)
        return opening.route_state(record, held.amounts, now)

    return records.settle([held], change)


def spent(call: Settlement) -> Amounts:
    """The units that a call used; without the provider's count, the estimate."""
    usage = call.usage
    if not call.sent:
        return {}
    if usage is None:
        return call.hold.amounts
    requests = call.hold.amounts["requests"]
    return ledger.as_amounts(usage.input_tokens, usage.output_tokens, requests)
