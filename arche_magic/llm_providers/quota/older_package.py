"""Converts the counts in the older package's ledger file to those of the configured keys, once.

That package counted by key label, and this one counts by account. The older counts are stored in a
separate document until a configuration has a key with that label.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from ..catalog import split_limit_name
from ..config import Configuration
from ..storage import Document, Storage, StorageTimeout, lock_deadline
from ..types import Route
from . import codec, counting, windows
from .codec import OLDER_COUNTS
from .state import AccountState, OlderCount, OlderCounts

_LONGEST_WAIT_SECONDS = 1.0


def older_documents(content: Mapping[str, Any]) -> dict[str, Document] | None:
    """The counts of a file in the older package's layout, by key label; None for other layouts.

    That layout is `{"groq": {"groq_key_1_tokens_per_day": {"provider", "api_key_id",
    "limit_type", "limit_value", "used_value", "reset_time", "last_updated"}}}`.
    """
    counts: Document = {}
    try:
        for provider in content.values():
            for key, entry in provider.items():
                name = entry["limit_type"]
                label = key.removesuffix(f"_{name}")
                split_limit_name(name)
                counts.setdefault(label, {})[name] = {
                    "used": float(entry["used_value"]),
                    "reset_at": _moment(entry["reset_time"]),
                    "at": _moment(entry.get("last_updated") or entry["reset_time"]),
                }
    except (ArithmeticError, AttributeError, KeyError, OSError, TypeError, ValueError):
        return None
    return {OLDER_COUNTS: counts} if counts else None


def take_over_older_counts(storage: Storage, configuration: Configuration) -> None:
    """Move older counts to the first model of each configured key, if there are any.

    If the ledger is locked for long, the next start does it.
    """
    older = storage.read(OLDER_COUNTS)
    for route in configuration.routes() if older else ():
        label = route.key.label
        first_model = configuration.providers[route.provider].models[0]
        if label not in older or route.model != first_model:
            continue

        def change(document: Document, counts: Document, route: Route = route) -> None:
            # Removed in the same change, so that only one of several kernels converts them.
            found = codec.read(OlderCounts, counts).get(route.key.label)
            counts.pop(route.key.label, None)
            if found:
                account = codec.read(AccountState, document)
                _set_counts(account, route, found, configuration)
                codec.put(document, account)

        with suppress(StorageTimeout), lock_deadline(_LONGEST_WAIT_SECONDS):
            name = f"{route.provider}:{route.key.account}"
            storage.update(name, change, OLDER_COUNTS)


def _set_counts(
    account: AccountState, route: Route, counts: Mapping[str, OlderCount],
    configuration: Configuration,
) -> None:  # fmt: skip
    now = configuration.clock.time()
    account.provider = route.provider
    account.key(route.key.fingerprint).label = route.key.label
    model = account.model(route.model)
    limits = counting.limits_of(model, configuration.default_limits(route))
    model.limits.update(counting.new_counts(model, limits, now))
    for name, limit in limits.items():
        count = counts.get(name)
        if count and count.reset_at > now:
            moment = min(count.at, now)
            windows.set_used(limit, model.limits[name].counter, count.used, moment)


def _moment(text: str) -> float:
    """Epoch seconds of an ISO time; the older package wrote some without zone, in local time."""
    return datetime.fromisoformat(text).timestamp()
