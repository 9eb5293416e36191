"""What calls under way reserve in an account's document; pure functions, see `ledger`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..types import Route
from .opening import is_expired

Document = dict[str, Any]
Amounts = dict[str, float]


def place_hold(
    document: Document, route: Route, hold_id: str, amounts: Amounts, now: float, expires: float,
    by: str,
) -> None:  # fmt: skip
    """Reserve the amounts on every limit of the route's model, for a process of that name.

    Calls that are held together share a hold: its amounts are their sum.
    """
    document["provider"] = route.provider
    key = document.setdefault("keys", {}).setdefault(route.key.fingerprint, {})
    key["label"] = route.key.label
    entry = document.setdefault("models", {}).setdefault(route.model, {})
    holds = entry.setdefault("holds", {})
    before = holds[hold_id]["amounts"] if hold_id in holds else {}
    holds[hold_id] = {
        "at": now, "expires": expires, "key": route.key.fingerprint, "by": by,
        "amounts": {metric: before.get(metric, 0.0) + n for metric, n in amounts.items()},
    }  # fmt: skip


def release(document: Document, model: str, hold_id: str, amounts: Amounts) -> Document | None:
    """Take back what a call holds, nothing charged; None if its hold is not there."""
    holds = document.get("models", {}).get(model, {}).get("holds", {})
    hold: Document | None = holds.pop(hold_id, None)
    if hold is None:
        return None
    left = {metric: n - amounts.get(metric, 0.0) for metric, n in hold["amounts"].items()}
    if left.get("requests", 0.0) > 0.5:
        # Those of the calls that were held together with it.
        holds[hold_id] = {**hold, "amounts": {metric: max(0.0, n) for metric, n in left.items()}}
    return hold


def lost_holds(
    document: Document, now: float, is_dead: Callable[[str], bool]
) -> dict[str, list[str]]:
    """Holds, by model, of calls that never ended: their kernel died, and they may have counted."""
    found = {
        model: [
            name
            for name, hold in entry.get("holds", {}).items()
            if is_expired(hold, now) or is_dead(hold.get("by", ""))
        ]
        for model, entry in document.get("models", {}).items()
    }
    return {model: holds for model, holds in found.items() if holds}
