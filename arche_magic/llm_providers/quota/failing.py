"""What a failed call counts for, what it closes, and for how long."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..errors import AttemptFailed, Remedy
from ..types import Limit, Route
from . import opening, windows
from .ledger import Amounts, Document, as_amounts

_FIRST_OUTAGE_SECONDS, _LONGEST_OUTAGE_SECONDS = 1.0, 60.0
# A refusal that names neither limit nor time: a minute is the shortest window providers publish.
_UNNAMED_LIMIT_SECONDS, _LONGEST_UNNAMED_SECONDS = 60.0, 3600.0
# Refused for what they hold, such requests are counted as requests.
_COUNTED = (
    Remedy.FIX_REQUEST, Remedy.ASK_DIFFERENTLY, Remedy.SHORTEN_PROMPT, Remedy.CHANGE_MODEL,
    Remedy.CHECK_ADDRESS,
)  # fmt: skip
_ACCOUNT_RECHECK_SECONDS = 3600.0
_MODEL_RECHECK_SECONDS = 86_400.0
# A region, a network or a base URL is the user's to change, and may change at any moment.
_FIRST_ADDRESS_SECONDS, _LONGEST_ADDRESS_SECONDS = 120.0, 3600.0
# No provider means more than two months.
_LONGEST_WAIT_SECONDS = 62 * 86_400.0


def spent(held: Amounts, failure: AttemptFailed) -> Amounts:
    """What a failed call counts for: the provider's count, or else the most it can be."""
    if not failure.sent:
        return {}
    if failure.usage:
        return as_amounts(failure.usage.input_tokens, failure.usage.output_tokens)
    answered = (Remedy.RETRY_LATER, Remedy.CHANGE_PROMPT, Remedy.RAISE_MAX_TOKENS)
    if failure.remedy in answered:
        return held
    if failure.remedy in _COUNTED:
        return as_amounts(0, 0)
    return {}


def close(
    document: Document, provider: Document, route: Route, limits: Mapping[str, Limit],
    failure: AttemptFailed, now: float, began: float, jitter: float,
) -> None:  # fmt: skip
    """Note what the model lacks, and close what the failure's remedy says.

    `jitter` is a factor for waits that we make up.
    """
    entry = document["models"][route.model]
    place: Document | None = None
    seconds: float | None = None
    if failure.remedy is Remedy.WAIT_FOR_LIMIT:
        place, seconds = entry, _wait_for_limit(entry, route, limits, failure, now, began)
        opening.forget_level(entry)
    elif failure.remedy is Remedy.TOP_UP_ACCOUNT:
        place, seconds = document, _ACCOUNT_RECHECK_SECONDS
    elif failure.remedy is Remedy.CHANGE_PLAN:
        place, seconds = entry, _ACCOUNT_RECHECK_SECONDS
    elif failure.remedy is Remedy.REPLACE_KEY:
        keys = document.setdefault("keys", {})
        place = keys.setdefault(route.key.fingerprint, {"label": route.key.label})
    elif failure.remedy is Remedy.CHANGE_MODEL:
        place = provider.setdefault("models", {}).setdefault(route.model, {})
        seconds = _MODEL_RECHECK_SECONDS
    elif failure.remedy is Remedy.CHECK_ADDRESS:
        place = provider
        longer = _FIRST_ADDRESS_SECONDS * 4 ** opening.strikes(provider, began)
        seconds = min(longer, _LONGEST_ADDRESS_SECONDS)
    elif failure.remedy is Remedy.RETRY_LATER:
        place, seconds = provider, _sensible(failure.retry_after)
        if seconds is None:
            doubled = _FIRST_OUTAGE_SECONDS * 2 ** opening.strikes(provider, began)
            seconds = min(doubled, _LONGEST_OUTAGE_SECONDS) * jitter
    if place is not None:
        remedy, address = failure.remedy.name, route.address
        opening.close(place, failure.summary, now, seconds, began, remedy, address)
    if failure.lacks:
        opening.note_lack(provider, route, failure.lacks, now)
    if place is not provider and failure.sent:
        # A refusal, too, is an answer: the provider itself is back.
        opening.reopen(provider, began)


def _wait_for_limit(
    entry: Document, route: Route, limits: Mapping[str, Limit], failure: AttemptFailed,
    now: float, began: float,
) -> float:  # fmt: skip
    """Seconds until the provider's time; unnamed, until our windows have room."""
    told = _sensible(failure.retry_after)
    if told is not None:
        return told
    named = limits.get(failure.limit or "")
    if named and named.window == "calendar":
        # A refused token limit leaves room in our own count, and still turns only then.
        return windows.period_end(named.period, named.time_zone, now) - now
    # By the windows alone: what is closed, on hold or on trial says nothing about them.
    counts: Document = {"models": {route.model: {"limits": entry.get("limits", {})}}}
    wait = opening.route_state(counts, {}, route, limits, as_amounts(1, 0), now).opens_at - now
    if 0 < wait < math.inf:
        return wait
    doubled: float = _UNNAMED_LIMIT_SECONDS * 2 ** opening.strikes(entry, began)
    return min(doubled, _LONGEST_UNNAMED_SECONDS)


def _sensible(seconds: float | None) -> float | None:
    """A wait that a provider can mean, else None."""
    return seconds if seconds is not None and 0 <= seconds <= _LONGEST_WAIT_SECONDS else None
