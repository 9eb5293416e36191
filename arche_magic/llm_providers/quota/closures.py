"""Closures: why and until when a key, a model, an account, or a provider is closed.

When a closure has ended, one call at a time tries the part again, until an answer removes it.
"""

from __future__ import annotations

import hashlib
import math
from typing import Protocol

from ..types import Route
from .state import Closure, Lack, ProviderState, RouteRecord

MISSING = "CHANGE_MODEL"
"""Name of the remedy of a model that its address does not serve."""

# Something that is known only from a reply is tried again after a day.
RECHECK_SECONDS = 86_400.0
_MAX_DOUBLINGS = 10
_SHORTEST_CLOSE_SECONDS = 0.1
_CLOCK_TOLERANCE_SECONDS = 3600.0
_SAME_MOMENT_SECONDS = 1e-3


class Closable(Protocol):
    """A part of the ledger that can be closed."""

    closed: Closure | None


def close(
    part: Closable, reason: str, now: float, seconds: float | None, began: float,
    remedy: str = "", address: str = "",
) -> None:  # fmt: skip
    """Close a part of the ledger for `seconds`, or until the user acts if that is None.

    `began` is when the failed call began. Calls that run at the same time fail together: this
    counts as one strike, and the longest of their closures is kept. `remedy` is the name of what
    opens it, and `address` the base URL that gave the reason, "" for the provider's own.
    """
    # Never for 0 seconds: a provider that says "retry after 0" must not be called in a tight loop.
    until = None if seconds is None else now + max(seconds, _SHORTEST_CLOSE_SECONDS)
    before = closure_of(part, address)
    count = strikes(part, began, address) + 1
    if before and began <= before.since <= now:
        count = before.strikes
        if before.until is None or (until is not None and before.until >= until):
            return
    part.closed = Closure(reason, now, until, count, remedy, fingerprint(address))


def reopen(part: Closable, began: float, now: float = math.inf) -> bool:
    """Remove a closure because a call that began at `began` was answered; True if there was one.

    An answer to a call that began before the closure proves nothing, unless the clock was set back
    since. Otherwise, the part would be closed again when the clock gets there.
    """
    if part.closed and (part.closed.since < began or _was_set_back(part.closed, now)):
        part.closed = None
        return True
    return False


def strikes(part: Closable, began: float, address: str) -> int:
    """How often in a row a part was closed at an address before a call that began then."""
    closed = closure_of(part, address)
    if not closed:
        return 0
    earlier = closed.strikes - int(began <= closed.since)
    return min(max(0, earlier), _MAX_DOUBLINGS)


def closure_of(part: Closable, address: str) -> Closure | None:
    """The closure of a part of the ledger for requests to an address, or None."""
    closed = part.closed
    return closed if closed and closed.address == fingerprint(address) else None


def parts_of(record: RouteRecord) -> tuple[Closable, ...]:
    """The parts of the ledger that can close a route."""
    return record.provider, record.model_at_provider, record.account, record.key, record.model


def latest_closure(record: RouteRecord, now: float) -> Closure | None:
    """The longest closure that keeps the route closed; full windows are not closures."""
    latest: Closure | None = None
    for part in parts_of(record):
        if part.closed is None:
            continue
        closed = closure_of(part, record.route.address)
        if closed is None or _was_set_back(closed, now):
            continue
        if closed.ends > max(now, latest.ends if latest else now):
            latest = closed
    return latest


def opens(closed: Closure) -> float:
    """When a waiting request would be accepted; requests do not wait for a missing model."""
    return math.inf if closed.remedy == MISSING else closed.ends


def note_trial(provider: ProviderState, route: Route, now: float) -> None:
    """Note a call that tries a closed provider or model; for an account, the hold shows that."""
    for part in (provider, provider.models.get(route.model)):
        if part and (closed := closure_of(part, route.address)):
            closed.tried = now


def end_trial(record: RouteRecord, began: float) -> None:
    """End the trial of a call that began then, whatever its outcome, so that others can try."""
    for part in (record.provider, record.model_at_provider):
        closed = closure_of(part, record.route.address)
        tried = closed.tried if closed else None
        if closed and tried is not None and abs(tried - began) < _SAME_MOMENT_SECONDS:
            closed.tried = None


def lacks(record: RouteRecord, capability: str, now: float) -> bool:
    """Whether the model recently refused a capability, at this address."""
    noted = record.model_at_provider.lacks.get(capability)
    if noted is None or noted.address != fingerprint(record.route.address):
        return False
    return 0 <= now - noted.at < RECHECK_SECONDS


def note_lack(provider: ProviderState, route: Route, capability: str, now: float) -> None:
    """Note a capability that the model lacks at the route's address."""
    provider.model(route.model).lacks[capability] = Lack(now, fingerprint(route.address))


def _was_set_back(closed: Closure, now: float) -> bool:
    """Whether the clock was set back since: a closure lasts at most twice as long as stated."""
    ahead = closed.since - now
    return ahead > 0 and (
        ahead > closed.ends - closed.since or from_a_wrong_clock(closed.since, now)
    )


def from_a_wrong_clock(moment: float, now: float) -> bool:
    """Whether a past moment lies so far ahead that the clock must have been wrong then."""
    return moment > now + _CLOCK_TOLERANCE_SECONDS


def fingerprint(address: str) -> str:
    """Identifies a base URL in the ledger; "" for the provider's own."""
    return hashlib.sha256(address.encode()).hexdigest()[:12] if address else ""
