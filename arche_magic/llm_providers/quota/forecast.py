"""What comes of the present pace: when a limit runs out, and how many prompts still fit.

Pure functions on `Standing`, the ledger's view of one limit at one moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import groupby

from ..reply import Attempt
from ..types import PERIOD_SECONDS, Standing
from .windows import period_end

PACE_SECONDS = 3600.0


def units(attempt: Attempt, limit: str) -> float:
    """Units of a limit that an attempt spent, by its recorded count."""
    metric = limit.partition("_per_")[0]
    if metric == "requests":
        return 1.0
    tokens = {
        "tokens": attempt.input_tokens + attempt.output_tokens,
        "input_tokens": attempt.input_tokens,
        "output_tokens": attempt.output_tokens,
    }
    return float(tokens[metric])


def paces(attempts: Iterable[Attempt], standings: Iterable[Standing], now: float) -> list[float]:
    """Units per second that went to each standing's limit in the last hour."""
    recent = [a for a in attempts if a.outcome != "skipped" and now - PACE_SECONDS < a.at <= now]
    return [
        sum(
            units(attempt, row.limit)
            for attempt in recent
            if (attempt.provider, attempt.key, attempt.model) == (row.provider, row.key, row.model)
        )
        / PACE_SECONDS
        for row in standings
    ]


def runs_out_at(row: Standing, pace: float, now: float) -> float:
    """When the limit is spent at `pace` units per second; inf if it never is."""
    if pace <= 0:
        return math.inf
    refill = row.amount / PERIOD_SECONDS[row.period] if row.window != "calendar" else 0.0
    if pace <= refill:
        return math.inf
    # A rolling window gives nothing back before its oldest charge is a period old.
    net = pace - refill if row.window == "bucket" else pace
    moment = now + row.remaining / net
    return moment if row.window != "calendar" or moment < row.resets_at else math.inf


def prompts_that_fit(
    standings: Iterable[Standing], need: Mapping[str, float], now: float, until: float
) -> int:
    """How many prompts that need these units fit on all routes together up to `until`.

    Args:
        standings: the limits of the routes; keys of one account count once.
        need: units per metric of one prompt (`requests`, `tokens`, …).
        now: epoch seconds.
        until: epoch seconds; equal to `now` for what fits at this moment.
    """
    total = 0
    seen = set()
    rows = sorted(standings, key=lambda row: (row.provider, row.account, row.model, row.key))
    for _, limits in groupby(rows, key=lambda row: (row.provider, row.key, row.model)):
        route = list(limits)
        shared = (route[0].provider, route[0].account, route[0].model)
        if shared in seen:
            continue
        seen.add(shared)
        total += max(0, math.floor(min(_fits(row, need, now, until) for row in route)))
    return total


def midnight(now: float) -> float:
    """The next midnight of this machine's time zone."""
    today = datetime.fromtimestamp(now).astimezone()
    tomorrow = (today + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return tomorrow.timestamp()


def _fits(row: Standing, need: Mapping[str, float], now: float, until: float) -> float:
    amount = need.get(row.metric, 0.0)
    if amount <= 0:
        return math.inf
    if row.shut_by and row.opens_at > until:
        return 0.0
    return _available(row, now, until) / amount + 1e-9


def _available(row: Standing, now: float, until: float) -> float:
    """Units that can be spent from `now` to `until`."""
    length = PERIOD_SECONDS[row.period]
    if row.window == "bucket":
        return row.remaining + (until - now) * row.amount / length
    if row.window == "rolling":
        return row.remaining + math.floor((until - now) / length) * row.amount
    available, turn = row.remaining, period_end(row.period, row.time_zone, now)
    if row.period in ("second", "minute", "hour"):
        return available + (math.ceil((until - turn) / length) * row.amount if turn < until else 0)
    while turn < until:
        available += row.amount
        turn = period_end(row.period, row.time_zone, turn)
    return available
