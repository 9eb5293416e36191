"""How two copies, or two documents, of the ledger become one without losing what was charged.

Pure functions; all but `merge_kept` on documents written out in full. Where the order of two
charges cannot be known, the count comes out higher, never lower than the provider's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy

from ..catalog import Provider
from . import windows
from .budget import merge_budget, merge_jobs
from .folding import fold, unfold, unfolded
from .ledger import Amounts, Document, limit_of, stored_limit


def merge_kept(
    before: Document,
    ours: Document,
    theirs: Document,
    providers: Mapping[str, Provider],
    now: float,
) -> None:
    """`merge` for documents as they are kept in a storage."""
    catalog = providers.get(ours.get("provider") or theirs.get("provider") or "")
    if "spent" in ours or "held" in ours:
        merge_budget(before, ours, theirs)
        return
    if "jobs" in ours:
        merge_jobs(before, ours, theirs)
        return
    if catalog is None:
        # A directory, or what holds for a whole provider.
        merge(before, ours, theirs, now)
        return
    unfold(theirs, catalog)
    merge(unfolded(before, catalog), unfolded(ours, catalog), theirs, now)
    fold(theirs, catalog, now)


def merge(before: Document, ours: Document, theirs: Document, now: float) -> None:
    """Add to `theirs` what happened to a document between `before` and `ours`.

    `before` is what both copies had in common. What became of accounts (`moved`, `absorbed`)
    is not taken over: `accounts` does it again where it finds it missing.
    """
    for fingerprint, named in ours.get("accounts", {}).items():
        known = theirs.setdefault("accounts", {}).get(fingerprint)
        if known is None or known["at"] < named["at"]:
            theirs["accounts"][fingerprint] = named
    if "provider" in ours:
        theirs["provider"] = ours["provider"]
    _merge_closure(before, ours, theirs)
    for part in ("keys", "models"):
        for name, entry in ours.get(part, {}).items():
            place = theirs.setdefault(part, {}).setdefault(name, {})
            earlier = before.get(part, {}).get(name, {})
            _merge_closure(earlier, entry, place)
            _keep_answered(entry, place)
            if part == "models":
                if "lacks" in entry:
                    place["lacks"] = place.get("lacks", {}) | deepcopy(entry["lacks"])
                _merge_model(earlier, entry, place, now)
            else:
                place.setdefault("label", entry.get("label", ""))


def absorb(source: Document, target: Document, now: float) -> None:
    """Add all of one key's document to the document of the account the key turned out to spend.

    The totals of `target` stay: they tell what was charged to that document itself.
    """
    if "provider" in source:
        target["provider"] = source["provider"]
    _keep_longer_closure(source, target)
    for part in ("keys", "models"):
        for name, entry in source.get(part, {}).items():
            place = target.setdefault(part, {}).setdefault(name, {})
            _keep_longer_closure(entry, place)
            _keep_answered(entry, place)
            if part == "models":
                _absorb_model(entry, place, now)
            else:
                place.setdefault("label", entry.get("label", ""))


def _merge_model(before: Document, ours: Document, theirs: Document, now: float) -> None:
    earlier = before.get("charged", {})
    gained: Amounts = {
        metric: max(0.0, total - earlier.get(metric, 0.0))
        for metric, total in ours.get("charged", {}).items()
    }
    _adopt_limits(ours, theirs, now)
    for name, stored in theirs.get("limits", {}).items():
        if stored["amount"] is not None:
            _add_gain(name, stored, before, ours, gained, now)
    totals = theirs.setdefault("charged", {})
    for metric, amount in gained.items():
        totals[metric] = totals.get(metric, 0.0) + amount
    old, new = before.get("holds", {}), ours.get("holds", {})
    holds = theirs.setdefault("holds", {})
    for hold_id in old.keys() - new.keys():
        holds.pop(hold_id, None)
    holds.update({name: hold for name, hold in new.items() if hold != old.get(name)})
    if ours.get("calibration") and ours["calibration"] != before.get("calibration"):
        theirs["calibration"] = ours["calibration"]
    _keep_last_charged(ours, theirs)


def _add_gain(
    name: str, stored: Document, before: Document, ours: Document, gained: Amounts, now: float
) -> None:
    """Charge to one limit what was gained since `before`, as late as it can have been."""
    limit, counter = limit_of(name, stored), stored["counter"]
    gain = gained.get(limit.metric, 0.0)
    mine = _known_limit(ours, name)
    level = windows.used(limit_of(name, mine), mine["counter"], now) if mine else 0.0
    if limit.window == "bucket":
        if gain:
            last = min(now, ours.get("last_charged", now))
            moment = last if counter.get("at", -math.inf) <= last else now
            windows.charge(limit, counter, gain, moment)
            windows.remember(limit, stored, gain, moment)
        # The provider refuses what would overflow, so no more than the limit can be in it.
        most = max(limit.amount, level)
        if windows.used(limit, counter, now) > most:
            windows.set_used(limit, counter, most, now)
    elif mine:
        # These windows forget all at once: what is left of our own count is what still counts.
        known = _known_limit(before, name)
        left = windows.used(limit_of(name, known), known["counter"], now) if known else 0.0
        windows.charge(limit, counter, max(0.0, level - left), now)
    elif gain:
        windows.charge(limit, counter, min(gain, limit.amount), now)
    if windows.used(limit, counter, now) < level:
        windows.set_used(limit, counter, level, now)


def _absorb_model(source: Document, target: Document, now: float) -> None:
    _adopt_limits(source, target, now)
    for name, stored in target.get("limits", {}).items():
        if stored["amount"] is None:
            continue
        limit, counter = limit_of(name, stored), stored["counter"]
        other = _known_limit(source, name)
        if other is None:
            # Never counted there by this limit: at most all there ever was, or the whole limit.
            total = source.get("charged", {}).get(limit.metric, 0.0)
            windows.charge(limit, counter, min(total, limit.amount), now)
            continue
        level = windows.used(limit_of(name, other), other["counter"], now)
        if limit.window != "bucket":
            windows.charge(limit, counter, level, now)
            continue
        # Two buckets refill twice as fast as the one they are: their levels do not just add up.
        recent = dict(stored.get("recent", {}))
        for slot, amount in other.get("recent", {}).items():
            recent[slot] = recent.get(slot, 0.0) + amount
        level += windows.used(limit, counter, now)
        windows.set_used(limit, counter, max(level, windows.most_used(limit, recent, now)), now)
        stored["recent"] = recent
    target.setdefault("holds", {}).update(source.get("holds", {}))
    target.setdefault("calibration", source.get("calibration", {}))
    _keep_last_charged(source, target)


def _known_limit(entry: Document, name: str) -> Document | None:
    """The entry's limit, if its amount is known."""
    stored: Document | None = entry.get("limits", {}).get(name)
    return stored if stored and stored["amount"] is not None else None


def _adopt_limits(ours: Document, theirs: Document, now: float) -> None:
    """Take over limits that are not known there, or are known from older evidence."""
    limits = theirs.setdefault("limits", {})
    for name, stored in ours.get("limits", {}).items():
        known = _known_limit(theirs, name)
        if stored["amount"] is None:
            limits.setdefault(name, stored)
            continue
        learned = stored["evidence"] in ("header", "error")
        if known is None or (learned and known["evidence_at"] < stored["evidence_at"]):
            limits[name] = stored_limit(limit_of(name, stored), now, known, stored["evidence_at"])


def _merge_closure(before: Document, ours: Document, theirs: Document) -> None:
    old, new = before.get("closed"), ours.get("closed")
    if new == old:
        return
    if theirs.get("closed") == old:
        theirs.pop("closed", None)
    if new:
        _keep_longer_closure(ours, theirs)


def _keep_longer_closure(source: Document, target: Document) -> None:
    new, known = source.get("closed"), target.get("closed")
    if new and (not known or _until(known) < _until(new)):
        target["closed"] = deepcopy(new)


def _until(closed: Document) -> float:
    return math.inf if closed["until"] is None else float(closed["until"])


def _keep_answered(source: Document, target: Document) -> None:
    if source.get("answered"):
        target["answered"] = True


def _keep_last_charged(source: Document, target: Document) -> None:
    moments = [entry["last_charged"] for entry in (source, target) if "last_charged" in entry]
    if moments:
        target["last_charged"] = max(moments)
