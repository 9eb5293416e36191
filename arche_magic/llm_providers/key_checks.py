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
        clock_ahead: seconds that our clock was ahead of the provider's, if it told the time.
    """

    key: Key
    works: bool | None
    models: tuple[str, ...] = ()
    reason: str = ""
    clock_ahead: float | None = None


def check_keys(keys: Iterable[Key], tracker: QuotaTracker) -> list[KeyCheck]:
    """Ask each key's provider for its list of models; the ledger learns which keys are refused.

    A key that was refused and is taken now is open again.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="arche-check") as pool:
        return list(pool.map(lambda key: _check(key, tracker), keys))


def _check(key: Key, tracker: QuotaTracker) -> KeyCheck:
    provider = tracker.configuration.providers[key.provider]
    adapter = build_adapter(provider.wire, key, provider.url)
    clock = tracker.configuration.clock
    began = clock.time()

    def ahead() -> float | None:
        return None if adapter.served_at is None else clock.time() - adapter.served_at

    try:
        models = adapter.models(TIMEOUT)
        check = KeyCheck(key, True, models, clock_ahead=ahead())
    except AttemptFailed as failure:
        if failure.remedy is not Remedy.REPLACE_KEY:
            reason = "it lists no models" if failure.remedy is Remedy.CHANGE_MODEL else str(failure)
            return KeyCheck(key, None, reason=reason, clock_ahead=ahead())
        check = KeyCheck(key, False, reason=str(failure), clock_ahead=ahead())
    finally:
        adapter.close()
    refusal = None if check.works else check.reason
    tracker.note_check(key, began, refusal, adapter.account if check.works else None)
    return check
