"""How a failed call is charged, what it closes, and for how long."""

from __future__ import annotations

import math
from dataclasses import replace

from ..provider_failure import ProviderFailure, Remedy
from . import closures, opening, windows
from .closures import Closable
from .ledger import as_amounts
from .state import AccountState, Amounts, ModelState, ProviderState, RouteRecord

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


def spent(held: Amounts, failure: ProviderFailure) -> Amounts:
    """The charge for a failed call: the provider's count, or else the highest possible one."""
    if not failure.sent:
        return {}
    if failure.usage:
        usage = failure.usage
        return as_amounts(usage.input_tokens, usage.output_tokens, held["requests"])
    answered = (Remedy.RETRY_LATER, Remedy.CHANGE_PROMPT, Remedy.RAISE_MAX_TOKENS)
    if failure.remedy in answered:
        return held
    if failure.remedy in _COUNTED:
        return as_amounts(0, 0, held["requests"])
    return {}


def close(
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
        longer = _FIRST_ADDRESS_SECONDS * 4 ** closures.strikes(provider, began)
        seconds = min(longer, _LONGEST_ADDRESS_SECONDS)
    elif failure.remedy is Remedy.RETRY_LATER:
        part, seconds = provider, _sensible(failure.retry_after)
        if seconds is None:
            doubled = _FIRST_OUTAGE_SECONDS * 2 ** closures.strikes(provider, began)
            seconds = min(doubled, _LONGEST_OUTAGE_SECONDS) * jitter
    if part is not None:
        remedy, address = failure.remedy.name, route.address
        closures.close(part, failure.summary, now, seconds, began, remedy, address)
    if failure.lacks:
        closures.note_lack(provider, route, failure.lacks, now)
    if part is not provider and failure.sent:
        # A refusal is an answer too, so the provider works again.
        closures.reopen(provider, began)


def _wait_for_limit(
    record: RouteRecord, failure: ProviderFailure, now: float, began: float
) -> float:
    """Seconds until the time that the provider stated, or else until our windows have room."""
    stated = _sensible(failure.retry_after)
    if stated is not None:
        return stated
    named = record.limits.get(failure.limit or "")
    if named and named.window == "calendar":
        # Our own count may have room for fewer tokens, but the limit is renewed only then.
        return windows.period_end(named.period, named.time_zone, now) - now
    # Only the windows count here, not what is closed, held or on trial.
    counts = ModelState(limits=record.model.limits)
    alone = replace(record, account=AccountState(), provider=ProviderState(), model=counts)
    wait = opening.route_state(alone, as_amounts(1, 0), now).opens_at - now
    if 0 < wait < math.inf:
        return wait
    doubled: float = _UNNAMED_LIMIT_SECONDS * 2 ** closures.strikes(record.model, began)
    return min(doubled, _LONGEST_UNNAMED_SECONDS)


def _sensible(seconds: float | None) -> float | None:
    """The wait if it is between zero and two months, else None."""
    return seconds if seconds is not None and 0 <= seconds <= _LONGEST_WAIT_SECONDS else None
