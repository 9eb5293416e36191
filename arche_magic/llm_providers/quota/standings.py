"""The figures of the ledger for display: each limit of each route, sums, and what is closed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..request import Message, Request
from ..types import Key, Limit, Route, RouteId, Standing, iso
from . import closures, counting, opening, windows
from .opening import RouteState
from .route_records import RouteRecords
from .spending import Spending
from .state import Amounts, Closure, RouteRecord

# Standings show the state for this request: a route that is shown as open accepts at least this.
_SHORT_PROMPT = Request((Message("user", "Hello"),))


def standings(
    records: RouteRecords, spending: Spending, provider: str | None, now: float
) -> list[Standing]:
    """Every limit of every route, or of the routes of `provider`."""
    rows = []
    record_of = records.reading(now)
    bound_of = spending.bound_of(_SHORT_PROMPT, now)
    for route in _all_routes(records, provider):
        record = record_of(route)
        account = records.accounts.account(route.key)
        amounts = counting.estimate(record.model, _SHORT_PROMPT)
        bound = bound_of(route, amounts) if bound_of else None
        rows += _standings_of(record, account, amounts, now, bound)
    return rows


def _all_routes(records: RouteRecords, provider: str | None) -> list[Route]:
    """The routes of the configuration, and those to models that were used besides."""
    configuration = records.configuration
    routes = {
        route.id: route for route in configuration.routes() if provider in (None, route.provider)
    }
    for name in dict.fromkeys(route.provider for route in routes.values()):
        readings, _ = records.accounts.read_all(name)
        for key in dict.fromkeys(r.key for r in list(routes.values()) if r.provider == name):
            for model in readings[key.label].account.models:
                used = RouteId(name, key.label, model)
                if used not in routes and configuration.is_on(key, model):
                    routes[used] = configuration.route(key, model)
    return list(routes.values())


def missing_models(records: RouteRecords, now: float) -> dict[str, list[str]]:
    """By provider, the models that were missing when they were last tried."""
    missing: dict[str, list[str]] = {}
    for key in records.configuration.keys:
        _, provider = records.accounts.read(key)
        for model, state in provider.models.items():
            closed = closures.closure_of(state, _address(records, key))
            if closed and closed.remedy == closures.MISSING and closed.ends > now:
                names = missing.setdefault(key.provider, [])
                names += [model] if model not in names else []
    return missing


def closure_of_key(records: RouteRecords, key: Key, now: float) -> Closure | None:
    """See `QuotaTracker.closure`."""
    account, _ = records.accounts.read(key)
    for part in (account.keys.get(key.fingerprint), account):
        closed = closures.closure_of(part, _address(records, key)) if part else None
        if closed and closed.ends > now:
            return closed
    return None


def _address(records: RouteRecords, key: Key) -> str:
    return records.configuration.providers[key.provider].base_url or ""


def _standings_of(
    record: RouteRecord, account: str, amounts: Amounts, now: float, bound: RouteState | None
) -> list[Standing]:
    """Every limit of a route, with its state for these amounts; `bound` is that by a budget."""
    route, model = record.route, record.model
    held = opening.on_hold(model, now)
    state = opening.route_state(record, amounts, now)
    closed, closed_by = 0.0, ""
    if closure := closures.latest_closure(record, now):
        closed, closed_by = closures.opens(closure), closure.reason
    if state.on_trial:
        closed, closed_by = state.opens_at, state.reason
    if bound and bound.opens_at > max(closed, now):
        closed, closed_by = bound.opens_at, bound.reason
    rows = []
    for limit in record.limits.values():
        counted, is_published = model.limits[limit.name], limit.evidence == "published"
        room = opening.room_of(limit, counted, amounts, held, now)
        rows.append(
            Standing(
                provider=route.provider,
                key=route.key.label,
                account=account,
                model=route.model,
                limit=limit.name,
                amount=limit.amount,
                used=room.used,
                opens_at=max(room.opens_at, closed),
                resets_at=windows.resets_at(
                    limit, counted.counter, now, held.get(limit.metric, 0.0)
                ),
                evidence=limit.evidence,
                evidence_at=(limit.read_at or now) if is_published else counted.evidence_at,
                closed_by=closed_by,
                window=limit.window,
                time_zone=limit.time_zone,
                source=_source(limit),
                charged_at=model.last_charged or 0.0,
                reason=room.reason,
            )
        )
    return rows


def usage_summary(rows: Iterable[Standing], now: float) -> dict[str, Any]:
    """Sum up usage per provider, key and limit; for several models, that of the tightest one."""
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


def tightest(record: RouteRecord, now: float) -> str:
    """Say what is left of the limit that is most used; holds count as used."""
    held = opening.on_hold(record.model, now)
    found: tuple[Limit, int] | None = None
    smallest = math.inf
    for name, limit in record.limits.items():
        state = record.model.limits.get(name)
        if limit.amount <= 0 or state is None:
            continue
        used = windows.used(limit, state.counter, now) + held.get(limit.metric, 0.0)
        left = math.floor(max(0.0, limit.amount - used) + 1e-3)
        if left / limit.amount < smallest:
            smallest, found = left / limit.amount, (limit, left)
    if found is None:
        return ""
    limit, left = found
    when = "today" if limit.period == "day" else f"this {limit.period}"
    return f"{left:,} of {limit.amount:,.0f} {limit.metric.replace('_', ' ')} left {when}"


def _source(limit: Limit) -> str:
    if limit.source:
        return limit.source
    return {
        "published": "published by the provider",
        "configured": "set by you",
        "header": "a header of the provider's reply",
        "error": "the provider's own error message",
    }[limit.evidence]
