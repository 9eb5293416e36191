"""Whether keys are taken by their providers, asked without spending any of their quota."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .adapters import build_adapter
from .errors import AttemptFailed, Remedy
from .quota_tracker import QuotaTracker
from .types import Key

TIMEOUT = 15.0
"""Seconds that a provider has to list its models."""

_AT_ONCE = 8


@dataclass(frozen=True)
class KeyCheck:
    """What a provider said to a key.

    Attributes:
        works: True if the key is taken, False if it is refused, None if nobody can tell.
        models: the models it may ask for.
        reason: why it does not work, or why that is not known.
    """

    key: Key
    works: bool | None
    models: tuple[str, ...] = ()
    reason: str = ""


def check_keys(keys: Iterable[Key], tracker: QuotaTracker) -> list[KeyCheck]:
    """Ask each key's provider for its list of models; the ledger learns which keys are refused.

    A key that was refused and is taken now is open again.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="arche-check") as pool:
        return list(pool.map(lambda key: _check(key, tracker), keys))


def _check(key: Key, tracker: QuotaTracker) -> KeyCheck:
    provider = tracker.configuration.providers[key.provider]
    adapter = build_adapter(provider.wire, key, provider.url)
    began = tracker.configuration.clock.time()
    try:
        models = adapter.models(TIMEOUT)
    except AttemptFailed as failure:
        if failure.remedy is not Remedy.REPLACE_KEY:
            reason = "it lists no models" if failure.remedy is Remedy.CHANGE_MODEL else str(failure)
            return KeyCheck(key, None, reason=reason)
        tracker.note_check(key, began, str(failure))
        return KeyCheck(key, False, reason=str(failure))
    finally:
        adapter.close()
    tracker.note_check(key, began, None, adapter.account)
    return KeyCheck(key, True, models)
