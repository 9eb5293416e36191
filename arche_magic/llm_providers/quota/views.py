"""What the ledger shows: each limit of each route, the usage summary, what is left in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..types import Limit, Route, Standing, iso
from . import opening, windows
from .ledger import Amounts, Document
from .opening import RouteState


def standings_of(
    route: Route, account: str, document: Document, provider: Document,
    limits: Mapping[str, Limit], amounts: Amounts, now: float, bound: RouteState | None = None,
) -> list[Standing]:  # fmt: skip
    """Every limit of a route, as routing sees it for a request of these amounts.

    `bound` is what a budget says to it.
    """
    entry = document.get("models", {}).get(route.model, {})
    held = opening.on_hold(entry, now)
    state = opening.route_state(document, provider, route, limits, amounts, now)
    shut, shut_by = opening.closed_until(document, provider, route, now)
    if state.on_trial:
        shut, shut_by = state.opens_at, state.reason
    if bound and bound.opens_at > max(shut, now):
        shut, shut_by = bound.opens_at, bound.reason
    rows = []
    for limit in limits.values():
        stored = entry.get("limits", {}).get(limit.name, {})
        one = opening.limit_state(limit, stored, amounts, held, now)
        rows.append(
            Standing(
                provider=route.provider,
                key=route.key.label,
                account=account,
                model=route.model,
                limit=limit.name,
                amount=limit.amount,
                used=one.used,
                opens_at=max(one.opens_at, shut),
                resets_at=opening.resets_at(limit, stored, held, now),
                evidence=limit.evidence,
                evidence_at=_known_since(limit, stored, now),
                shut_by=shut_by,
                window=limit.window,
                time_zone=limit.time_zone,
                source=_source(limit),
                charged_at=entry.get("last_charged", 0.0),
                reason=one.reason,
            )
        )
    return rows


def usage_summary(rows: Iterable[Standing], now: float) -> dict[str, Any]:
    """Usage per provider, key and limit, as plain data; of several models of a key the tightest."""
    tightest_rows: dict[tuple[str, str, str], Standing] = {}
    for row in rows:
        name = row.provider, row.key, row.limit
        known = tightest_rows.get(name)
        if known is None or row.usage_percent > known.usage_percent:
            tightest_rows[name] = row
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for (provider, key, limit), row in tightest_rows.items():
        summary.setdefault(provider, {}).setdefault(key, {})[limit] = {
            "used": row.used_units,
            "limit": row.allowed_units,
            "remaining": row.remaining_units,
            "usage_percent": row.usage_percent,
            "available": row.opens_at <= now,
            "reset_time": iso(row.resets_at),
            "last_updated": iso(row.charged_at or row.evidence_at),
            "model": row.model,
            "evidence": row.evidence,
            "source": row.source,
        }
    return summary


def tightest(entry: Document, limits: Mapping[str, Limit], now: float) -> str:
    """What is left of the limit that is nearest to its end, in words; holds count as used."""
    best: tuple[float, str] = (2.0, "")
    held = opening.on_hold(entry, now)
    for name, limit in limits.items():
        stored = entry.get("limits", {}).get(name)
        if limit.amount <= 0 or stored is None:
            continue
        used = windows.used(limit, stored["counter"], now) + held.get(limit.metric, 0.0)
        left = math.floor(max(0.0, limit.amount - used) + 1e-3)
        words = f"{left:,} of {limit.amount:,.0f} {limit.metric.replace('_', ' ')}"
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
