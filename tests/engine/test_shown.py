"""What is displayed of limits: plain data in whole units, equal to what routing uses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from engine_parts import (
    RPM,
    Build,
    Clock,
    a_route,
    ask,
    custom_configuration,
    failed,
    held,
    served,
    set_by_user,
)
from hypothesis import given
from hypothesis import strategies as st

from arche_magic.llm_providers.provider_failure import ProviderFailure, Remedy
from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker, Settlement
from arche_magic.llm_providers.storage import MemoryStorage
from arche_magic.llm_providers.types import Budget, Limit, Standing, Usage, iso

if TYPE_CHECKING:
    from arche_magic.llm_providers.storage import Storage

# --- plain data


@pytest.mark.parametrize("window", ["bucket", "rolling", "calendar"])
def test_the_summary_has_whole_units(tracker_of: Build, clock: Clock, window: str) -> None:
    """Partial units count as used: 2 of 2 are 100 %, even a moment later in a bucket."""
    tracker = tracker_of(
        set_by_user(Limit("requests", "minute", 2, window)),
        set_by_user(Limit("tokens", "minute", 1000, window)),
    )
    route = a_route(tracker.configuration)
    for _ in range(2):
        served(tracker, route)
    for later in (0.0, 0.02, 0.37):
        clock.now += later
        rows = json.loads(json.dumps(tracker.get_usage_summary(), allow_nan=False))
        row = rows["groq"]["groq_key_1"]["requests_per_minute"]
        assert (row["used"], row["limit"], row["remaining"]) == (2, 2, 0)
        assert (row["usage_percent"], row["available"]) == (100.0, False)
        for row in rows["groq"]["groq_key_1"].values():
            units = [row[name] for name in ("used", "limit", "remaining")]
            assert all(type(figure) is int for figure in units)
            assert row["used"] + row["remaining"] == row["limit"] or row["used"] > row["limit"]
            assert datetime.fromisoformat(row["reset_time"]).tzinfo


def test_part_of_a_request_is_shown_as_nothing(tracker_of: Build, clock: Clock) -> None:
    """A bucket that has refilled by two thirds of a request has none left, in words and share."""
    tracker = tracker_of(set_by_user(Limit("requests", "minute", 2, "bucket")))
    route = a_route(tracker.configuration)
    for _ in range(2):
        served(tracker, route)
    clock.now += 20
    state = tracker.state(route, ask(), clock.now)
    assert (state.reason, state.headroom) == ("0 of 2 requests per minute left", 0.0)


def test_a_time_that_never_comes_is_none(tracker_of: Build) -> None:
    """Neither infinity nor a year beyond the calendar appears in JSON."""
    assert iso(math.inf) is iso(math.nan) is iso(-5.0) is iso(1e15) is None
    huge = Standing("groq", "k", "a", "m", "tokens_per_day", 1e300, math.inf, 0, 0, "header", 0)
    assert huge.used_units == huge.allowed_units == 10**15
    assert replace(huge, used=math.nan).used_units == 0
    tracker = tracker_of(RPM)
    failed(tracker, a_route(tracker.configuration), Remedy.REPLACE_KEY)
    assert "NaN" not in json.dumps(tracker.get_usage_summary(), allow_nan=False)


# --- displays use the figures of routing


@pytest.mark.parametrize("window", ["bucket", "rolling", "calendar"])
def test_calls_in_progress_count_as_used(tracker_of: Build, clock: Clock, window: str) -> None:
    """In every figure, until they are settled; those of killed kernels until they expire."""
    tracker = tracker_of(set_by_user(Limit("requests", "minute", 3, window)))
    route = a_route(tracker.configuration)
    served(tracker, route)
    holds = [held(tracker, route) for _ in range(2)]

    def shown() -> tuple[int, int, bool]:
        row = tracker.get_usage_summary()["groq"]["groq_key_1"]["requests_per_minute"]
        return row["used"], row["remaining"], row["available"]

    assert shown() == (3, 0, False)
    (row,) = [r for r in tracker.standings() if r.key == "groq_key_1"]
    assert row.opens_at == tracker.state(route, ask(), clock.now).opens_at > clock.now
    assert row.resets_at > clock.now
    assert isinstance(tracker.hold(route, ask()), RouteState)
    tracker.fail(holds[0], ProviderFailure("not sent", Remedy.FIX_REQUEST, sent=False))
    assert shown() == (2, 1, True)
    assert "0 of 3" in served(tracker, route)
    # Its kernel was killed, so the hold counts until it expires, and is charged then.
    clock.now += 89
    assert shown() == (1, 2, True)
    clock.now += 2
    assert shown() == (1, 2, True)


@given(
    calls=st.lists(st.sampled_from(["serve", "hold", "settle", "refuse", "wait"]), max_size=25),
    window=st.sampled_from(["bucket", "rolling", "calendar"]),
)
def test_a_table_never_shows_a_route_as_open_that_would_refuse(
    calls: list[str], window: str
) -> None:
    """All limits are available exactly if a short prompt would be accepted."""
    clock = Clock()
    limits = [Limit("requests", "minute", 4, window), Limit("tokens", "hour", 2000, window)]
    tracker = QuotaTracker(MemoryStorage(), custom_configuration(limits, clock=clock))
    route = a_route(tracker.configuration)
    holds: list[Hold] = []
    for call in calls:
        clock.now += 0.7
        if call == "wait":
            clock.now += 20
        elif call == "settle" and holds:
            tracker.settle(Settlement(holds.pop(), Usage(40, 60)))
        elif call in ("serve", "hold", "refuse"):
            hold = tracker.hold(route, ask(max_tokens=None))
            if isinstance(hold, RouteState):
                pass
            elif call == "hold":
                holds.append(hold)
            elif call == "serve":
                tracker.settle(Settlement(hold, Usage(40, 60)))
            else:
                tracker.fail(hold, ProviderFailure("429", Remedy.WAIT_FOR_LIMIT, retry_after=5))
        rows = [r for r in tracker.standings() if (r.key, r.model) == ("groq_key_1", "model-a")]
        is_open = (
            tracker.state(route, ask("Hello", max_tokens=None), clock.now).opens_at <= clock.now
        )
        assert all(row.opens_at <= clock.now for row in rows) == is_open
        summary = tracker.get_usage_summary()["groq"]["groq_key_1"]
        assert all(row["available"] for row in summary.values()) == is_open


def test_a_spent_budget_is_shown_on_every_limit(storage: Storage, clock: Clock) -> None:
    """As in routing, the route is not open, and the reason is given."""
    configuration = custom_configuration([RPM], clock=clock)
    provider = replace(configuration.providers["groq"], paid=True, prices={"model-a": (1e6, 1e6)})
    configuration = replace(configuration, providers={"groq": provider}, budget=Budget(per_day=0.5))
    tracker = QuotaTracker(storage, configuration)
    rows = [row for row in tracker.standings() if row.model == "model-a"]
    assert all(row.opens_at > clock.now and "USD" in row.closed_by for row in rows)
    assert rows
