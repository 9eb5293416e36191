"""The changes that a call makes to the ledger: hold, then settle or fail; and a check of a key.

Also how a failed call is charged, what it closes, and for how long.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..processes import this_process
from ..provider_failure import ProviderFailure, Remedy
from ..request import Request
from ..types import Key, Observation, Route, Usage
from . import closures, counting, learning, opening, standings, windows
from .closures import Closable
from .opening import RouteState
from .route_records import RouteRecords
from .state import AccountState, Amounts, ProviderState, RouteRecord

if TYPE_CHECKING:
    from .budget import SpendingBounds

HOLD_MARGIN_SECONDS = 30.0
"""A hold stays valid this long after its call's timeout; then its process counts as dead."""

_FIRST_OUTAGE_SECONDS, _LONGEST_OUTAGE_SECONDS = 1.0, 60.0
# For a refusal that names no limit and no time: providers publish no window under a minute.
_UNNAMED_LIMIT_SECONDS, _LONGEST_UNNAMED_SECONDS = 60.0, 3600.0
# Requests that are refused because of their content count as requests.
_COUNTED = (
    Remedy.FIX_REQUEST, Remedy.ASK_DIFFERENTLY, Remedy.SHORTEN_PROMPT, Remedy.CHANGE_MODEL,
    Remedy.CHECK_ADDRESS,
)  # fmt: skip
_ACCOUNT_RECHECK_SECONDS = 3600.0
_MODEL_RECHECK_SECONDS = 86_400.0
# The user can change a region, a network or a base URL at any moment.
_FIRST_ADDRESS_SECONDS, _LONGEST_ADDRESS_SECONDS = 120.0, 3600.0
# A longer wait (two months) is not believed.
_LONGEST_WAIT_SECONDS = 62 * 86_400.0


@dataclass(frozen=True)
class Hold:
    """A reservation on one route, to be settled or failed exactly once.

    `document` is the name of the document in which it was made. `shares` are its parts of the
    budget and of the bounds of its job.
    """

    id: str
    route: Route
    amounts: Amounts
    plain_tokens: float
    at: float
    document: str = ""
    shares: tuple[tuple[SpendingBounds, str], ...] = ()


@dataclass(frozen=True)
class Settlement:
    """How a call that was made on a hold ended.

    Attributes:
        hold: what was reserved for it.
        usage: the provider's own count; None charges the estimate.
        observations: what the reply stated about limits.
        account: the account it named, if any.
        answered: False for a call that was stopped before anything arrived.
        is_whole: False for a call that was left before its end: the provider may charge for more
            than `usage`.
        ended_at: when it ended, epoch seconds; inf for now. Calls may be settled later.
        sent: False if the hold was not used; nothing is charged then.
    """

    hold: Hold
    usage: Usage | None
    observations: Sequence[Observation] = ()
    account: str | None = None
    answered: bool = True
    is_whole: bool = True
    ended_at: float = math.inf
    sent: bool = True


def hold(
    records: RouteRecords, route: Route, requests: Sequence[Request]
) -> list[Hold] | RouteState:
    """Reserve as many of the first requests as fit the route; returns its state if none fits.

    The ledger has one record for all of them, from which each releases its own part.
    """
    # The first call imports a module, which must not happen while the ledger is locked.
    by = this_process()

    hold_id = os.urandom(6).hex()

    def change(
        account: AccountState, provider: ProviderState
    ) -> list[tuple[Amounts, float, float]] | RouteState:
        now = records.clock.time()
        if route.model in account.models:
            # Redis may have made this change already, and the answer may be lost.
            account.models[route.model].holds.pop(hold_id, None)
        records.charge_lost(account, provider, route, now)
        record = records.record(account, provider, route, now)
        held: list[tuple[Amounts, float, float]] = []
        for request in requests:
            amounts = counting.estimate(record.model, request)
            state = opening.route_state(record, amounts, now, request.reserve)
            if state.opens_at > now:
                return held or state
            # Images show nothing about how a model counts text, and unusual requests show nothing
            # about its usual replies.
            unusual = request.images or request.expected_tokens or request.reply_count > 1
            plain = 0.0 if unusual else counting.plain_tokens(request)
            expires = now + request.timeout + HOLD_MARGIN_SECONDS
            counting.place_hold(record, hold_id, amounts, now, expires, by)
            closures.note_trial(provider, route, now)
            held.append((amounts, plain, now))
        return held

    result, name = records.accounts.update(route.key, change)
    if isinstance(result, RouteState):
        return result
    return [Hold(hold_id, route, *held, document=name) for held in result]


def settle(records: RouteRecords, calls: Sequence[Settlement]) -> str:
    """Settle calls of one route; returns what is left, in words."""
    route = calls[0].hold.route
    # This comes first, because limits in the replies apply to the whole account.
    for name in dict.fromkeys(call.account for call in calls):
        records.accounts.note_name(route.key, name, "header")

    def change(account: AccountState, provider: ProviderState) -> str:
        now = records.clock.time()
        record = records.to_change(account, provider, route, now)
        model = record.model
        for call in calls:
            held, ended_at = call.hold, min(now, call.ended_at)
            alone = counting.settle(model, held.id, held.amounts, spent(call), ended_at, held.at)
            if call.usage and call.is_whole:
                counting.calibrate(model, held.plain_tokens, call.usage)
            closures.end_trial(record, held.at)
            record = learning.learn(record, call.observations, ended_at, alone)
            if call.answered:
                record = learning.doubt(record, ended_at, held.at)
                counting.note_answer(record, ended_at, held.at)
        return standings.tightest(record, now)

    return records.accounts.update(route.key, change, [call.hold for call in calls])[0]


def fail(
    records: RouteRecords, held: Hold, failure: ProviderFailure, units: Amounts,
    named: str | None, jitter: float,
) -> RouteState:  # fmt: skip
    """Charge these units for a failed call, and close what its remedy says.

    `named` is the account that the reply named, if any; the times of closures that double are
    multiplied by `jitter`. Returns the state of the route after it.
    """
    route = held.route
    records.accounts.note_name(route.key, named, "error")

    def change(account: AccountState, provider: ProviderState) -> RouteState:
        now = records.clock.time()
        record = records.to_change(account, provider, route, now)
        alone = counting.settle(record.model, held.id, held.amounts, units, now, held.at)
        closures.end_trial(record, held.at)
        record = learning.learn(record, failure.observations, now, alone, held.amounts)
        _close(record, failure, now, held.at, jitter)
        return opening.route_state(record, held.amounts, now)

    return records.accounts.update(route.key, change, [held])[0]


def note_check(
    records: RouteRecords, key: Key, began: float, refusal: str | None, account: str | None,
    models: Iterable[str],
) -> None:  # fmt: skip
    """See `QuotaTracker.note_check`.

    Raises:
        StorageTimeout: the ledger was locked until this thread's deadline.
    """
    address = records.configuration.providers[key.provider].base_url or ""
    listed = frozenset(models)

    def change(account_state: AccountState, provider: ProviderState) -> None:
        account_state.provider = key.provider
        now = records.clock.time()
        entry = account_state.key(key.fingerprint)
        entry.label = key.label
        if refusal is None:
            closures.reopen(entry, began, now)
            closures.reopen(provider, began, now)
            for model, at_provider in provider.models.items():
                # Ollama lists the model `llama3.2` as `llama3.2:latest`.
                if not listed.isdisjoint((model, f"{model}:latest")):
                    closures.reopen(at_provider, began, now)
        else:
            remedy = Remedy.REPLACE_KEY.name
            closures.close(entry, refusal, now, None, began, remedy, address)

    records.accounts.note_name(key, account, "header")
    records.accounts.update(key, change)


def spent(call: Settlement) -> Amounts:
    """The units that a call used; without the provider's count, the estimate."""
    usage = call.usage
    if not call.sent:
        return {}
    if usage is None:
        return call.hold.amounts
    requests = call.hold.amounts["requests"]
    return counting.as_amounts(usage.input_tokens, usage.output_tokens, requests)


def failed_units(held: Amounts, failure: ProviderFailure) -> Amounts:
    """The charge for a failed call: the provider's count, or else the highest possible one."""
    if not failure.sent:
        return {}
    if failure.usage:
        usage = failure.usage
        return counting.as_amounts(usage.input_tokens, usage.output_tokens, held["requests"])
    if failure.may_have_answered:
        return held
    if failure.remedy in _COUNTED:
        return counting.as_amounts(0, 0, held["requests"])
    return {}


def _close(
    record: RouteRecord, failure: ProviderFailure, now: float, began: float, jitter: float
) -> None:
    """Record missing capabilities, and close what the failure's remedy says.

    `jitter` is a factor for waits that the provider did not state.
    """
    route, account, provider = record.route, record.account, record.provider
    part: Closable | None = None
    seconds: float | None = None
    if failure.remedy is Remedy.WAIT_FOR_LIMIT:
        part, seconds = record.model, _wait_for_limit(record, failure, now, began)
        opening.forget_level(record.model)
    elif failure.remedy is Remedy.TOP_UP_ACCOUNT:
        part, seconds = account, _ACCOUNT_RECHECK_SECONDS
    elif failure.remedy is Remedy.CHANGE_PLAN:
        part, seconds = record.model, _ACCOUNT_RECHECK_SECONDS
    elif failure.remedy is Remedy.REPLACE_KEY:
        part = account.key(route.key.fingerprint, route.key.label)
    elif failure.remedy is Remedy.CHANGE_MODEL:
        part = provider.model(route.model)
        seconds = _MODEL_RECHECK_SECONDS
    elif failure.remedy is Remedy.CHECK_ADDRESS:
        part = provider
        longer = _FIRST_ADDRESS_SECONDS * 4 ** closures.strikes(provider, began, route.address)
        seconds = min(longer, _LONGEST_ADDRESS_SECONDS)
    elif failure.remedy is Remedy.RETRY_LATER:
        part, seconds = provider, _sensible(failure.retry_after)
        if seconds is None:
            doubled = _FIRST_OUTAGE_SECONDS * 2 ** closures.strikes(provider, began, route.address)
            seconds = min(doubled, _LONGEST_OUTAGE_SECONDS) * jitter
    if part is not None:
        remedy, address = failure.remedy.name, route.address
        closures.close(part, failure.summary, now, seconds, began, remedy, address)
    if failure.lacks:
        closures.note_lack(provider, route, failure.lacks, now)
    if part is not provider and failure.sent:
        # A refusal is an answer too, so the provider works again.
        closures.reopen(provider, began, now)


def _wait_for_limit(
    record: RouteRecord, failure: ProviderFailure, now: float, began: float
) -> float:
    """Seconds until the time that the provider stated, or else until our windows have room."""
    stated = _sensible(failure.retry_after)
    if stated is not None:
        return stated
    named = record.limits.get(failure.limit or "")
    if named and named.window == "calendar":
        # Our own count may have room for a smaller request, but the limit resets only then.
        return windows.period_end(named.period, named.time_zone, now) - now
    # Only the windows count here, not what is closed, held or on trial.
    least, counts = counting.as_amounts(1, 0), record.model.limits
    moments = (
        opening.room_of(limit, counts[name], least, {}, now).opens_at
        for name, limit in record.limits.items()
    )
    wait = max(moments, default=now) - now
    if 0 < wait < math.inf:
        return wait
    strikes = closures.strikes(record.model, began, record.route.address)
    doubled: float = _UNNAMED_LIMIT_SECONDS * 2**strikes
    return min(doubled, _LONGEST_UNNAMED_SECONDS)


def _sensible(seconds: float | None) -> float | None:
    """The wait if it is between zero and two months, else None."""
    return seconds if seconds is not None and 0 <= seconds <= _LONGEST_WAIT_SECONDS else None
