"""Forecasts: when a limit runs out at the current pace, and how many prompts still fit.

Pure functions on `Standing`, the ledger's view of one limit at one moment. Keys of one account
share their limits: usage by one of them counts for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from ..reply import NOT_SPENT, Attempt
from ..types import PERIOD_SECONDS, Metric, RouteId, Standing, Usage
from .counting import as_amounts
from .state import Amounts
from .windows import period_end

PACE_SECONDS = 3600.0

Account = tuple[str, str, str]


def account_of(row: Standing) -> Account:
    """Provider, account and model, which share one set of limits."""
    return row.provider, row.account, row.model


def prompt_units(usage: Usage) -> Amounts:
    """The units per metric of one prompt with this number of tokens."""
    return as_amounts(usage.input_tokens, usage.output_tokens)


def paces(attempts: Iterable[Attempt], standings: Sequence[Standing], now: float) -> list[float]:
    """Units per second that all keys of each standing's limit used in the last hour."""
    accounts = {row.route: account_of(row) for row in standings}
    spent: dict[tuple[Account, str], float] = {}
    for attempt in attempts:
        account = accounts.get(attempt.route) if attempt.outcome not in NOT_SPENT else None
        if account is not None and now - PACE_SECONDS < attempt.at <= now:
            amounts = as_amounts(attempt.input_tokens, attempt.output_tokens)
            for metric, units in amounts.items():
                spent[account, metric] = spent.get((account, metric), 0.0) + units
    return [spent.get((account_of(row), row.metric), 0.0) / PACE_SECONDS for row in standings]


def runs_out_at(row: Standing, pace: float, now: float) -> float:
    """When the limit runs out at `pace` units per second; inf for never."""
    if pace <= 0:
        return math.inf
    refill = row.amount / PERIOD_SECONDS[row.period] if row.window != "calendar" else 0.0
    if pace <= refill:
        return math.inf
    # A rolling window gives nothing back until its oldest charge is one period old.
    net = pace - refill if row.window == "bucket" else pace
    moment = now + row.remaining / net
    return moment if row.window != "calendar" or moment < row.resets_at else math.inf


def prompts_that_fit(
    standings: Iterable[Standing], need: Mapping[Metric, float], now: float, until: float,
    reserve: float = 0.0,
) -> int:  # fmt: skip
    """How many prompts that need these units fit on all routes together up to `until`.

    Routes whose limits count none of these units are left out, like those without limits.

    Args:
        standings: the limits of the routes; keys of one account count once.
        need: units per metric of one prompt (`requests`, `tokens`, …).
        now: epoch seconds.
        until: epoch seconds; `now` for what fits at this moment.
        reserve: the share of each limit, 0 to 1, that is left for other requests.
    """
    routes: dict[tuple[Account, RouteId], float] = {}
    for row in standings:
        route = account_of(row), row.route
        routes[route] = min(routes.get(route, math.inf), _fits(row, need, now, until, reserve))
    best: dict[Account, float] = {}
    for (account, _), fits in routes.items():
        # Keys of one account share its limits, and one of them may be closed.
        best[account] = max(best.get(account, 0.0), fits)
    return sum(math.floor(fits) for fits in best.values() if fits < math.inf)


def midnight(now: float) -> float:
    """The next midnight of this machine's time zone."""
    tomorrow = datetime.fromtimestamp(now).date() + timedelta(days=1)
    # A time without a zone is local time, even on a night when clocks change.
    return datetime(tomorrow.year, tomorrow.month, tomorrow.day).timestamp()


def _fits(
    row: Standing, need: Mapping[Metric, float], now: float, until: float, reserve: float
) -> float:
    amount = need.get(row.metric, 0.0)
    if amount <= 0:
        return math.inf
    opens = max(now, row.opens_at) if row.closed_by else now
    if opens > until:
        return 0.0
    if row.metric in ("tokens", "input_tokens") and need.get("input_tokens", 0.0) > row.amount:
        # The ledger sends no prompt to a limit that is smaller than the prompt.
        return 0.0
    usable = (1 - reserve) * row.amount
    most = row.amount if row.window == "bucket" else usable
    return _available(row, usable, now, opens, until) / min(amount, most or amount) + 1e-9


def _available(row: Standing, usable: float, now: float, opens: float, until: float) -> float:
    """The units that can be used from `opens` to `until`, of `usable` units in each period."""
    length = PERIOD_SECONDS[row.period]
    if row.window == "bucket":
        # While the route is closed, the bucket refills until it is full. The level is below zero
        # while the bucket must refill before anything can be used.
        level = min(usable, usable - row.used + (opens - now) * row.amount / length)
        return max(0.0, level + (until - opens) * row.amount / length)
    left = max(0.0, usable - row.used)
    if row.window == "rolling":
        # What is used now counts until `resets_at`, and the rest for a period after it is used.
        left = left if row.resets_at > opens else usable
        again = max(0, 1 + math.floor((until - row.resets_at) / length))
        return left * (1 + math.floor((until - opens) / length)) + (usable - left) * again
    level, turn = left, period_end(row.period, row.time_zone, now)
    if turn <= opens:
        level, turn = usable, period_end(row.period, row.time_zone, opens)
    if row.period in ("second", "minute", "hour"):
        return level + (math.ceil((until - turn) / length) * usable if turn < until else 0)
    while turn < until:
        level += usable
        turn = period_end(row.period, row.time_zone, turn)
    return level
