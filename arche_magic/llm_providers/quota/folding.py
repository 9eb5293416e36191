"""How an account's document is kept short: what its readers know by themselves is not written.

A document of fifty keys and ten models is mostly limits that are as published, and counters that
are back at nothing. `fold` leaves those out of a model's entry, `unfold` puts them back:

    at          when something was last charged: `last_charged`, and the counters' moment too
    answered    false, if all that was charged was so without an answer
    charged     [requests, input tokens, output tokens]
    estimates   [input ratio, output tokens]: `calibration`
    limits      limit name -> what is not as published, of
        used        units at `at`, or slots, by their number
        amount, window, time_zone
        header | error | configured     since when that is known, epoch seconds
        recent      slot -> units charged, unless all of it was in the last one
        proven      see `opening`
        inferred    true, where the period was not stated

Entries that are written in full, as version 1 of the ledger's file has them, are unfolded already.
"""

from __future__ import annotations

import math
from typing import Any

from ..catalog import Provider
from ..types import Limit
from . import windows
from .ledger import Document, limit_of

_TOTALS = ("requests", "input_tokens", "output_tokens")
_LEARNED = ("header", "error", "configured")


def unfold(document: Document, provider: Provider, *models: str) -> None:
    """Write these models (all, if none is named) out in full, in place."""
    entries = document.get("models", {})
    for model in models or tuple(entries):
        if model in entries:
            entries[model] = _full(entries[model], _published(provider, model), provider)


def unfolded(document: Document, provider: Provider, *models: str) -> Document:
    """The document with these models written out in full; the original stays as it is."""
    copy = {**document, "models": dict(document.get("models", {}))}
    unfold(copy, provider, *models)
    return copy


def fold(document: Document, provider: Provider, now: float, *models: str) -> None:
    """Leave out, in place, of these models (all, if none is named) what `unfold` puts back."""
    entries = document.get("models", {})
    for model in models or tuple(entries):
        if model in entries:
            entries[model] = _short(entries[model], _published(provider, model), provider, now)


def _published(provider: Provider, model: str) -> dict[str, Limit]:
    # Others may have another idea of what the user set: that is always written.
    limits = provider.limits.get(model, ())
    return {limit.name: limit for limit in limits if limit.evidence == "published"}


def _full(entry: Document, published: dict[str, Limit], provider: Provider) -> Document:
    full = dict(entry)
    at = full.pop("at", None)
    if at is not None:
        full["last_charged"] = at
    if isinstance(full.get("charged"), list):
        charged = dict(zip(_TOTALS, full["charged"], strict=True))
        full["charged"] = {
            "requests": charged["requests"],
            "tokens": charged["input_tokens"] + charged["output_tokens"],
            "input_tokens": charged["input_tokens"],
            "output_tokens": charged["output_tokens"],
        }
    if "estimates" in full:
        ratio, output = full.pop("estimates")
        full["calibration"] = {"input_ratio": ratio, "output_tokens": output}
    kept = full.get("limits", {})
    full["limits"] = {
        name: _full_limit(name, kept.get(name, {}), published.get(name), provider, at)
        for name in {**published, **kept}
    }
    full["holds"] = dict(full.get("holds", {}))
    full.setdefault("answered", "last_charged" in full)
    return full


def _full_limit(
    name: str, stored: Document, published: Limit | None, provider: Provider, at: float | None
) -> Document:
    if "counter" in stored:
        return {**stored, "counter": dict(stored["counter"])}
    rule = published or provider
    evidence = next((word for word in _LEARNED if word in stored), "published")
    full: Document = {
        # None: not published here, or not any more; only who wrote it knows.
        "amount": stored.get("amount", published.amount if published else None),
        "window": stored.get("window", rule.window),
        "time_zone": stored.get("time_zone", rule.time_zone),
        "evidence": evidence,
        "evidence_at": stored.get(evidence, 0.0),
        "counter": {},
        "recent": stored.get("recent", {}),
    }
    if "slots" in stored:
        full["counter"] = {"slots": stored["slots"]}
    elif "used" in stored:
        full["counter"] = {"used": stored["used"], "at": stored.get("at", at)}
        if "recent" not in stored and full["window"] == "bucket" and full["amount"] is not None:
            full["recent"] = _derived_recent(limit_of(name, full), full["counter"])
    full.update((what, stored[what]) for what in ("proven", "inferred") if what in stored)
    return full


def _short(
    entry: Document, published: dict[str, Limit], provider: Provider, now: float
) -> Document:
    known = ("last_charged", "answered", "charged", "calibration", "limits", "holds")
    at = entry.get("last_charged")
    short: Document = {} if at is None else {"at": at}
    if at is not None and not entry.get("answered"):
        short["answered"] = False
    short.update((name, value) for name, value in entry.items() if name not in known)
    if "charged" in entry:
        short["charged"] = [_number(entry["charged"].get(name, 0.0)) for name in _TOTALS]
    if entry.get("calibration"):
        calibration = entry["calibration"]
        short["estimates"] = [calibration["input_ratio"], calibration["output_tokens"]]
    if entry.get("holds"):
        short["holds"] = entry["holds"]
    limits = {
        name: _short_limit(name, stored, published.get(name), provider, at, now)
        for name, stored in entry.get("limits", {}).items()
    }
    limits = {name: stored for name, stored in limits.items() if stored}
    if limits:
        short["limits"] = limits
    return short


def _short_limit(
    name: str,
    stored: Document,
    published: Limit | None,
    provider: Provider,
    at: float | None,
    now: float,
) -> Document:
    counter = stored["counter"]
    short: Document = {}
    limit = None if stored["amount"] is None else limit_of(name, stored)
    if limit is None or windows.used(limit, counter, now) > 0:
        if "slots" in counter:
            short["slots"] = {slot: _number(units) for slot, units in counter["slots"].items()}
        elif counter:
            short["used"] = _number(counter["used"])
            if counter["at"] != at:
                short["at"] = counter["at"]
    rule = published or provider
    if stored["amount"] != (published.amount if published else None):
        short["amount"] = _number(stored["amount"])
    if stored["window"] != rule.window:
        short["window"] = stored["window"]
    if stored["time_zone"] != rule.time_zone:
        short["time_zone"] = stored["time_zone"]
    if stored["evidence"] != "published":
        short[stored["evidence"]] = int(stored["evidence_at"])
    if limit and limit.window == "bucket" and stored.get("recent"):
        recent = windows.still_recent(limit, stored["recent"], now)
        if recent and not ("used" in short and recent == _derived_recent(limit, counter)):
            short["recent"] = {slot: _number(units) for slot, units in recent.items()}
    if stored.get("proven", 1) > 1:
        short["proven"] = stored["proven"]
    if stored.get("inferred"):
        short["inferred"] = True
    return short


def _derived_recent(limit: Limit, counter: windows.Counter) -> dict[str, float]:
    """What `recent` is if all that is used was charged at the counter's moment."""
    return {windows.recent_slot(limit, counter["at"]): counter["used"]}


def _number(value: Any) -> Any:
    """A figure in as few digits as it needs, never less than it is."""
    if value is None or not math.isfinite(value):
        return value
    return int(value) if value == int(value) else math.ceil(value * 1e6) / 1e6
