"""Checking whether providers accept keys, without spending any quota."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..adapters import build_adapter
from ..provider_failure import AttemptFailed, Remedy
from ..quota_tracker import QuotaTracker
from ..types import Key

TIMEOUT = 15.0
"""Seconds within which a provider has to list its models."""

NO_LIST = "it lists no models"
"""Why it is unknown whether a key works at a service that has no list of models."""

_AT_ONCE = 8
# A service without a list of models answers with one of these, or with a 404 or 405.
_NO_LIST = (Remedy.CHANGE_MODEL, Remedy.FIX_REQUEST)


@dataclass(frozen=True)
class KeyCheck:
    """A provider's answer to a key.

    Attributes:
        key: the key.
        works: True if the key is accepted, False if it is refused, None if that is unknown.
        models: the models that the key may use.
        reason: why the key does not work, or why that is unknown.
        clock_ahead: seconds by which our clock was ahead of the provider's, if it stated the time.
    """

    key: Key
    works: bool | None
    models: tuple[str, ...] = ()
    reason: str = ""
    clock_ahead: float | None = None


def check_keys(keys: Iterable[Key], tracker: QuotaTracker) -> list[KeyCheck]:
    """Request the list of models with each key, and record the results in the ledger.

    A key that was refused and is accepted now is open again. So is a missing model that is listed
    now.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="arche-check") as pool:
        return list(pool.map(lambda key: _check(key, tracker), keys))


def _check(key: Key, tracker: QuotaTracker) -> KeyCheck:
    provider = tracker.configuration.providers[key.provider]
    summary = ""
    adapter = build_adapter(provider.wire, key, provider.url)
    clock = tracker.configuration.clock
    began = clock.time()

    def ahead() -> float | None:
        return None if adapter.served_at is None else clock.time() - adapter.served_at

    try:
        models = adapter.models(TIMEOUT)
        check = KeyCheck(key, True, models, clock_ahead=ahead())
    except AttemptFailed as error:
        failure = error.failure
        if failure.remedy is not Remedy.REPLACE_KEY:
            no_address = failure.summary.startswith("no such address")
            reason = NO_LIST if failure.remedy in _NO_LIST or no_address else str(failure)
            return KeyCheck(key, None, reason=reason, clock_ahead=ahead())
        check = KeyCheck(key, False, reason=str(failure), clock_ahead=ahead())
        summary = failure.summary
    finally:
        adapter.close()
    if check.works:
        tracker.note_check(key, began, None, adapter.account, check.models)
    else:
        tracker.note_check(key, began, summary)
    return check
