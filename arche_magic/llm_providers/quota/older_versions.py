"""Converts documents of accounts from versions 1 and 2 to this version.

Version 1 has the format of this version, without a version number in the document. Version 2
omitted values that were as published, and used short names:

    at          when something was last charged: `last_charged`, and the counters' moment too
    answered    false if nothing that was charged was answered
    charged     [requests, input tokens, output tokens]
    estimates   [input ratio, output tokens]: `calibration`
    limits      limit name -> those of these fields that are not as published:
        used        units at `at`, or slots, by their number
        amount, window, time_zone
        header | error | configured     since when that is known, epoch seconds
        recent      slot -> units charged
        proven, inferred
"""

from __future__ import annotations

from typing import Any

from ..catalog import Provider, published_providers
from ..storage import FILE_VERSION, Document
from ..types import Limit

_LEARNED = ("header", "error", "configured")
_KEPT = ("amount", "window", "time_zone", "recent", "proven", "inferred")


def upgraded(document: Document) -> Document:
    """The document in the format of this version; values that cannot be read are omitted."""
    provider = published_providers().get(str(document.get("provider")))
    models = document.get("models")
    if not isinstance(models, dict):
        return {**document, "version": FILE_VERSION}
    return {
        **document,
        "version": FILE_VERSION,
        "models": {name: _model(entry, name, provider) for name, entry in models.items()},
    }


def _model(entry: Any, name: str, provider: Provider | None) -> Any:
    if not isinstance(entry, dict):
        return entry
    full = dict(entry)
    at = full.pop("at", None)
    if at is not None:
        full["last_charged"] = at
    full.setdefault("answered", "last_charged" in full)
    charged, estimates = full.get("charged"), full.pop("estimates", None)
    if isinstance(charged, list) and len(charged) == 3:
        requests, input_tokens, output_tokens = charged
        full["charged"] = {
            "requests": requests,
            "tokens": _sum(input_tokens, output_tokens),
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
        }
    if isinstance(estimates, list) and len(estimates) == 2:
        full["calibration"] = dict(zip(("input_ratio", "output_tokens"), estimates, strict=True))
    published = {x.name: x for x in provider.limits.get(name, ())} if provider else {}
    if isinstance(full.get("limits"), dict):
        full["limits"] = {
            limit: _limit(stored, published.get(limit), provider, at)
            for limit, stored in full["limits"].items()
        }
    return full


def _sum(one: Any, other: Any) -> float | None:
    try:
        return float(one) + float(other)
    except (OverflowError, TypeError, ValueError):
        return None


def _limit(stored: Any, published: Limit | None, provider: Provider | None, at: Any) -> Any:
    if not isinstance(stored, dict) or "counter" in stored:
        return stored
    rule = published or provider
    full = {
        "amount": published.amount if published else None,
        "window": rule.window if rule else None,
        "time_zone": rule.time_zone if rule else "UTC",
        "evidence": "published",
        "evidence_at": 0.0,
        "counter": {},
        **{what: stored[what] for what in _KEPT if what in stored},
    }
    for evidence in _LEARNED:
        if evidence in stored:
            full |= {"evidence": evidence, "evidence_at": stored[evidence]}
    if "slots" in stored:
        full["counter"] = {"slots": stored["slots"]}
    elif "used" in stored:
        full["counter"] = {"used": stored["used"], "at": stored.get("at", at)}
    return full
