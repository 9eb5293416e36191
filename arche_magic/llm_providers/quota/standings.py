"""The standings of all routes: every limit as routing sees it."""

from __future__ import annotations

from ..config import Configuration
from ..request import Message, Request
from ..types import Route, RouteId, Standing
from . import ledger, views
from .route_records import RouteRecords
from .spending import Spending

# The request that standings are about: a route that is shown as open takes at least this.
_SHORT_PROMPT = Request((Message("user", "Hello"),))


def standings(
    records: RouteRecords, spending: Spending, configuration: Configuration,
    provider: str | None, now: float,
) -> list[Standing]:  # fmt: skip
    """Every limit of every route; with `provider`, of that provider's routes."""
    rows = []
    record_of = records.reading(now)
    bound_of = spending.bound_of(_SHORT_PROMPT, now)
    for route in _all_routes(records, configuration, provider):
        record = record_of(route)
        account = records.accounts.account(route.key)
        amounts = ledger.estimate(record.model, _SHORT_PROMPT)
        bound = bound_of(route, amounts) if bound_of else None
        rows += views.standings_of(record, account, amounts, now, bound)
    return rows


def _all_routes(
    records: RouteRecords, configuration: Configuration, provider: str | None
) -> list[Route]:
    """The routes of the configuration, and those to models that were used besides."""
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
