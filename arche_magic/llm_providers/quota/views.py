"""What the ledger shows: each limit of each route, the usage summary, what is left in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..types import Limit, Route, Standing, utc
from . import opening, windows
from .ledger import Document


def standings_of(
    route: Route, account: str, document: Document, provider: Document,
    limits: Mapping[str, Limit], now: float,
) -> list[Standing]:  # fmt: skip
    """Every limit of a route."""
    entry = document.get("models", {}).get(route.model, {})
    closed, reason = opening.closed_until(document, provider, route, now)
    rows = []
    for limit in limits.values():
        stored = entry.get("limits", {}).get(limit.name, {})
        counter = stored.get("counter", {})
        # A limit of nothing has no next call.
        next_call = windows.opens_at(limit, counter, 1.0, now)
        rows.append(
            Standing(
                provider=route.provider,
                key=route.key.label,
                account=account,
                model=route.model,
                limit=limit.name,
                amount=limit.amount,
                used=windows.used(limit, counter, now),
                opens_at=max(next_call, closed),
                resets_at=windows.resets_at(limit, counter, now),
                evidence=limit.evidence,
                evidence_at=_known_since(limit, stored, now),
                shut_by=reason,
                window=limit.window,
                time_zone=limit.time_zone,
                source=_source(limit),
                charged_at=entry.get("last_charged", 0.0),
            )
        )
    return rows


def usage_summary(rows: Iterable[Standing], now: float) -> dict[str, Any]:
    """Usage per provider, key and limit; of several models of a key the tightest."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        limits = summary.setdefault(row.provider, {}).setdefault(row.key, {})
        percent = 100.0 * row.used / row.amount if row.amount else 100.0
        if row.limit in limits and limits[row.limit]["usage_percent"] >= percent:
            continue
        limits[row.limit] = {
            "used": round(row.used, 3),
            "limit": row.amount,
            "remaining": round(row.remaining, 3),
            "usage_percent": round(percent, 2),
            "available": row.opens_at <= now,
            "reset_time": utc(row.resets_at),
            "last_updated": utc(row.charged_at or row.evidence_at),
            "model": row.model,
            "evidence": row.evidence,
            "source": row.source,
        }
    return summary


def tightest(entry: Document, limits: Mapping[str, Limit], now: float) -> str:
    """What is left of the limit that is nearest to its end, in words."""
    best: tuple[float, str] = (2.0, "")
    for name, limit in limits.items():
        stored = entry.get("limits", {}).get(name)
        if limit.amount <= 0 or stored is None:
            continue
        left = max(0.0, limit.amount - windows.used(limit, stored["counter"], now))
        words = f"{left:,.0f} of {limit.amount:,.0f} {limit.metric.replace('_', ' ')}"
        when = "today" if limit.period == "day" else f"this {limit.period}"
        best = min(best, (left / limit.amount, f"{words} left {when}"))
    return best[1]


def _known_since(limit: Limit, stored: Document, now: float) -> float:
    if limit.evidence == "published":
        return limit.read_at or now
    return float(stored.get("evidence_at", now))


def _source(limit: Limit) -> str:
    if limit.source:
        return limit.source
    return {
        "published": "published by the provider",
        "configured": "set by you",
        "header": "a header of the provider's reply",
        "error": "the provider's own error message",
    }[limit.evidence]
