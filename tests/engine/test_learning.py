"""Limits stated by replies and by users, and which figure counts; on every storage."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from engine_parts import (
    NOON,
    Build,
    Clock,
    a_route,
    ask,
    custom_configuration,
    failed,
    held,
    opens_in,
    proven,
    served,
    set_by_user,
    used,
)
from hypothesis import given
from hypothesis import strategies as st

from arche_magic.llm_providers.errors import ConfigurationError
from arche_magic.llm_providers.provider_failure import Remedy
from arche_magic.llm_providers.quota.booking import Settlement
from arche_magic.llm_providers.quota.learning import rule_by_reset
from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.quota_tracker import QuotaTracker
from arche_magic.llm_providers.types import PERIOD_SECONDS, Limit, Observation, Usage

if TYPE_CHECKING:
    from arche_magic.llm_providers.config import Configuration
    from arche_magic.llm_providers.storage import Storage

DAY = Limit("requests", "day", 1000, "bucket", source="a page, 2026-10-01", read_at=NOON - 7200)
MINUTE = Limit("requests", "minute", 30, "bucket")


def row(tracker: QuotaTracker, limit: str = "requests_per_day", key: str = "groq_key_1") -> Any:
    rows = [r for r in tracker.standings() if (r.key, r.limit) == (key, limit)]
    return next(iter(rows), None)


def seen(amount: float | None, remaining: float | None = None, **facts: Any) -> Observation:
    return Observation("requests_per_day", amount, remaining, **facts)


# --- evidence


def test_each_figure_has_its_evidence_and_its_age(tracker_of: Build, clock: Clock) -> None:
    """It is the table, the user, a header or an error. A newer statement has a newer date."""
    tracker = tracker_of(DAY)
    route = a_route(tracker.configuration)
    first = row(tracker)
    assert (first.evidence, first.source) == ("published", "a page, 2026-10-01")
    assert first.evidence_at == NOON - 7200
    clock.now += 5
    served(tracker, route, observations=[seen(1000, 990)])
    assert (row(tracker).evidence, row(tracker).evidence_at) == ("header", NOON + 5)
    clock.now += 60
    assert row(tracker).evidence_at == NOON + 5
    refusal = seen(800, 0, evidence="error")
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=1, observations=[refusal])
    assert (row(tracker).amount, row(tracker).evidence) == (800, "error")
    assert row(tracker).evidence_at == NOON + 65
    tracker.set_limits("groq_key_1", requests_per_day=5)
    assert (row(tracker).amount, row(tracker).source) == (5, "set by you")


def test_a_limit_from_an_error_outranks_a_header_for_a_day(tracker_of: Build, clock: Clock) -> None:
    """The limit that causes refusals counts, whatever the headers say; but plans can change."""
    tracker = tracker_of(DAY)
    route = a_route(tracker.configuration)
    refusal = seen(800, 0, evidence="error")
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=1, observations=[refusal])
    for _ in range(3):
        clock.now += 3600 * 7
        served(tracker, route, observations=[seen(1000, 999)])
        assert (row(tracker).amount, row(tracker).evidence) == (800, "error")
        assert row(tracker).evidence_at == NOON
    clock.now += 3600 * 4
    served(tracker, route, observations=[seen(1000, 999)])
    assert (row(tracker).amount, row(tracker).evidence) == (1000, "header")


def test_a_remaining_amount_alone_does_not_change_the_evidence(
    tracker_of: Build, clock: Clock
) -> None:
    """It does not say how large the limit is."""
    tracker = tracker_of(DAY)
    served(tracker, a_route(tracker.configuration), observations=[seen(None, 400)])
    assert (row(tracker).used, row(tracker).evidence) == (600, "published")


# --- limits set by the user


def test_a_smaller_limit_set_by_the_user_is_kept(tracker_of: Build, clock: Clock) -> None:
    """The user may want to use less than the provider allows."""
    tracker = tracker_of(set_by_user(replace(DAY, amount=4)))
    route = a_route(tracker.configuration)
    served(tracker, route, observations=[seen(1000, 999)])
    assert (row(tracker).amount, row(tracker).used, row(tracker).evidence) == (4, 1, "configured")
    served(tracker, route, observations=[seen(1000, 998)])
    clock.now += 1
    served(tracker, route, observations=[seen(1000, 1)])
    assert row(tracker).remaining == pytest.approx(1, abs=0.01)
    failed(
        tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=1,
        observations=[seen(2, 0, evidence="error")],
    )  # fmt: skip
    assert (row(tracker).amount, row(tracker).evidence) == (2, "error")


def test_a_larger_limit_set_by_the_user_is_replaced(tracker_of: Build) -> None:
    """The provider knows the maximum."""
    tracker = tracker_of(set_by_user(DAY))
    served(tracker, a_route(tracker.configuration), observations=[seen(200, 150)])
    assert (row(tracker).amount, row(tracker).used, row(tracker).evidence) == (200, 50, "header")


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("groq", [7, 7, 7, 7]),
        ("groq/model-a", [7, None, 7, None]),
        ("groq_key_2", [None, None, 7, 7]),
        ("groq_key_2/model-a", [None, None, 7, None]),
    ],
)
def test_limits_can_be_set_at_run_time(
    tracker_of: Build, storage: Storage, scope: str, expected: list[float | None]
) -> None:
    """Their scope is a provider, a model, a key, or a model of a key. Every kernel uses them."""
    tracker = tracker_of()
    other = QuotaTracker(storage, tracker.configuration)
    tracker.set_limits(scope, requests_per_day=7)

    def amounts() -> list[float | None]:
        rows = {(r.key, r.model): r.amount for r in other.standings()}
        return [
            rows.get((f"groq_key_{key}", model))
            for key in (1, 2)
            for model in ("model-a", "model-b")
        ]

    assert amounts() == expected
    tracker.set_limits(scope)
    assert amounts() == [None] * 4


def test_a_limit_set_at_run_time_overrides_the_configuration(
    storage: Storage, clock: Clock
) -> None:
    """Until it is removed with `None`, alone or with all limits of its scope."""
    configuration = replace(
        custom_configuration([MINUTE, DAY], clock=clock),
        limits={"groq_key_1": (set_by_user(replace(DAY, amount=500)),)},
    )
    tracker = QuotaTracker(storage, configuration)
    tracker.set_limits("groq", requests_per_day=np.int64(3))
    assert row(tracker).amount == 3
    tracker.set_limits(
        "groq_key_1",
        requests_per_day={"amount": np.array(2), "window": "calendar", "time_zone": "Asia/Tokyo"},
        requests_per_minute=np.int64(1),
    )
    assert (row(tracker).amount, row(tracker).window) == (2, "calendar")
    served(tracker, a_route(configuration))
    closed = tracker.hold(a_route(configuration), ask())
    assert isinstance(closed, RouteState)
    assert "0 of 1 requests per minute" in closed.reason
    tracker.set_limits("groq_key_1", requests_per_minute=None)
    served(tracker, a_route(configuration))
    assert isinstance(tracker.hold(a_route(configuration), ask()), RouteState)
    tracker.set_limits("groq_key_1")
    tracker.set_limits("groq")
    assert (row(tracker).amount, row(tracker).used) == (500, pytest.approx(2))


@pytest.mark.parametrize(
    ("scope", "limits", "says"),
    [
        ("grok", {"requests_per_day": 1}, "did you mean 'groq'"),
        ("groq_key_9", {"requests_per_day": 1}, "no key is called 'groq_key_9'"),
        ("groq", {"requests_per_fortnight": 1}, "is not a limit"),
        ("groq", {"requests_per_day": -1}, "from 1 to 1e15"),
        ("groq", {"requests_per_day": math.inf}, "from 1 to 1e15"),
        ("groq", {"requests_per_day": "many"}, "must be a number"),
        ("groq", {"requests_per_day": {1}}, "set is not JSON"),
        ("groq", {"requests_per_day": {"amount": 1, "window": "weekly"}}, "window is 'weekly'"),
        ("groq", {"window": "bucket", "requests_per_day": True}, "must be a number"),
    ],
)
def test_an_invalid_limit_is_refused(
    tracker_of: Build, scope: str, limits: dict[str, Any], says: str
) -> None:
    """It changes nothing."""
    tracker = tracker_of(DAY)
    with pytest.raises(ConfigurationError, match=says):
        tracker.set_limits(scope, **limits)
    assert row(tracker).amount == 1000


def test_a_reset_reopens_a_route_with_a_limit_of_zero(tracker_of: Build) -> None:
    """Whatever was set, learned or closed: `reopen` opens the route."""
    tracker = tracker_of(DAY)
    route = a_route(tracker.configuration)
    tracker.set_limits("groq_key_1", requests_per_day=0)
    assert opens_in(tracker, route) == math.inf
    tracker.reopen("groq_key_1")
    assert opens_in(tracker, route) == 0


# --- plans other than the published one


def test_a_paid_plan_is_recognized_by_its_limits(tracker_of: Build) -> None:
    """Groq's 30 free requests a minute do not apply to an account with 500,000 a day."""
    tracker = tracker_of(MINUTE, DAY, Limit("tokens", "day", 200_000, "bucket"))
    route = a_route(tracker.configuration)
    served(tracker, route, observations=[seen(500_000, 499_999)])
    (only,) = [r for r in tracker.standings() if r.key == "groq_key_1"]
    assert (only.limit, only.amount) == ("requests_per_day", 500_000)
    for _ in range(40):
        served(tracker, route)
    assert row(tracker, "requests_per_minute", "groq_key_2").amount == 30


def test_a_slightly_outdated_table_is_not_taken_for_another_plan(tracker_of: Build) -> None:
    """Twice as many requests a day do not change the limit per minute."""
    tracker = tracker_of(MINUTE, DAY)
    served(tracker, a_route(tracker.configuration), observations=[seen(2000, 1999)])
    assert row(tracker, "requests_per_minute").amount == 30
    assert row(tracker).amount == 2000


def test_limits_set_by_the_user_apply_on_every_plan(tracker_of: Build) -> None:
    """A paid plan makes only published limits invalid."""
    tracker = tracker_of(set_by_user(MINUTE), DAY)
    served(tracker, a_route(tracker.configuration), observations=[seen(500_000, 499_999)])
    assert row(tracker, "requests_per_minute").amount == 30


# --- windows inferred from reset times


def service(clock: Clock) -> Configuration:
    """A service whose windows are unknown."""
    configuration = custom_configuration(clock=clock)
    provider = replace(configuration.providers["groq"], window="rolling")
    return replace(configuration, providers={"groq": provider})


@pytest.mark.parametrize(
    ("spent", "resets_in", "window"),
    [
        (30, 30 * 86.4, "bucket"),
        (30, 12 * 3600, "rolling"),
        (30, 4 * 3600, "calendar"),
        (30, None, "rolling"),
    ],
)
def test_a_reset_time_reveals_the_window(
    storage: Storage, clock: Clock, spent: int, resets_in: float | None, window: str
) -> None:
    """Noon in Los Angeles is 4 h before midnight UTC; 1,000 a day are one in 86.4 s."""
    tracker = QuotaTracker(storage, service(clock))
    told_of = seen(1000, 1000 - spent, resets_in=resets_in)
    served(tracker, a_route(tracker.configuration), observations=[told_of])
    assert (row(tracker).window, row(tracker).used) == (window, pytest.approx(spent))


def test_a_wrong_window_is_corrected(storage: Storage, clock: Clock) -> None:
    """The first reset time can fit by chance; no counts are lost by the correction."""
    tracker = QuotaTracker(storage, service(clock))
    route = a_route(tracker.configuration)
    served(tracker, route, observations=[seen(1000, 970, resets_in=30 * 86.4)])
    clock.now += 60
    served(tracker, route, observations=[seen(1000, 969, resets_in=7000)])
    assert row(tracker).window == "rolling"
    assert row(tracker).used == pytest.approx(31, abs=1)


@given(
    period=st.sampled_from(["minute", "hour", "day", "month"]),
    amount=st.integers(10, 10**6),
    share=st.floats(0.01, 0.75),
)
def test_a_bucket_is_recognized_from_rounded_times(period: Any, amount: int, share: float) -> None:
    """Times are rounded as providers do. A nearly empty bucket could also be a rolling window."""
    spent = math.ceil(amount * share)
    seconds = PERIOD_SECONDS[period]
    observation = Observation(
        "x", amount, amount - spent, round((spent - 0.5) / amount * seconds, 3)
    )
    limit = Limit("requests", period, amount, "rolling")
    assert rule_by_reset(limit, limit, amount, observation, NOON).window == "bucket"


def refused(tracker: QuotaTracker, limit: str, amount: float, wait: float, **facts: Any) -> None:
    """A refusal with its figures and its wait, when the whole limit is used."""
    observation = Observation(limit, amount, 0, evidence="error", opens_in=wait, excess=1, **facts)
    failed(
        tracker, a_route(tracker.configuration), Remedy.WAIT_FOR_LIMIT,
        retry_after=wait, limit=limit, observations=[observation],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wait", "window"),
    [(1.5, "bucket"), (59.0, "rolling"), (31.0, "rolling")],
)
def test_the_wait_of_a_refusal_reveals_a_window_of_a_minute(
    tracker_of: Build, clock: Clock, wait: float, window: str
) -> None:
    """A bucket of 40 a minute allows one in 1.5 s; the route opens when the provider says."""
    tracker = tracker_of(replace(MINUTE, amount=40))
    route = a_route(tracker.configuration)
    clock.now += 17
    refused(tracker, "requests_per_minute", 40, wait)
    assert row(tracker, "requests_per_minute").window == window
    assert opens_in(tracker, route) == pytest.approx(wait, abs=0.01)


@pytest.mark.parametrize(
    ("wait", "window"),
    [(86.4, "bucket"), (4 * 3600, "calendar"), (5 * 3600, "rolling")],
)
def test_the_wait_of_a_refusal_reveals_a_window_of_a_day(
    storage: Storage, clock: Clock, wait: float, window: str
) -> None:
    """Noon in Los Angeles is 4 h before midnight UTC; 1,000 a day are one in 86.4 s."""
    tracker = QuotaTracker(storage, service(clock))
    refused(tracker, "requests_per_day", 1000, wait)
    assert row(tracker).window == window
    assert opens_in(tracker, a_route(tracker.configuration)) == pytest.approx(wait, abs=0.01)


def test_a_smaller_limit_set_by_the_user_keeps_its_window(tracker_of: Build) -> None:
    """The wait belongs to the provider's larger limit."""
    tracker = tracker_of(set_by_user(MINUTE))
    refused(tracker, "requests_per_minute", 40, 59)
    assert (row(tracker, "requests_per_minute").amount) == 30
    assert row(tracker, "requests_per_minute").window == "bucket"


def test_usage_by_another_program_does_not_block_a_whole_window(
    storage: Storage, clock: Clock
) -> None:
    """Its calls in a rolling minute are assumed to be spread over the minute."""
    tracker = QuotaTracker(storage, service(clock))
    route = a_route(tracker.configuration)
    refused(tracker, "requests_per_minute", 40, 3)
    clock.now += 3
    passed = 0
    for _ in range(57):
        while opens_in(tracker, route) == 0:
            served(tracker, route)
            passed += 1
        clock.now += 1
    assert 30 <= passed <= 40


def test_an_inferred_period_is_dropped_when_a_probe_is_served(
    tracker_of: Build, clock: Clock
) -> None:
    """A penalty of 90 s on a limit per minute does not make it a limit per hour."""
    tracker = tracker_of(MINUTE)
    route = a_route(tracker.configuration)
    refused(tracker, "requests_per_hour", 40, 90, inferred=True)
    assert opens_in(tracker, route) == pytest.approx(90, abs=0.01)
    assert row(tracker, "requests_per_hour").amount == 40
    clock.now += 90.1
    served(tracker, route)
    assert row(tracker, "requests_per_hour") is None
    assert opens_in(tracker, route) == 0


def test_an_inferred_period_stays_while_replies_confirm_it(tracker_of: Build, clock: Clock) -> None:
    """OpenAI's headers state no period. Each reply implies it again, and one of them does not."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    for left in (199, 198, 197):
        clock.now += 1
        served(tracker, route, observations=[seen(200, left, inferred=True)])
        assert row(tracker).amount == 200
    clock.now += 1
    served(tracker, route)
    assert row(tracker) is None


def test_a_stated_period_is_kept(tracker_of: Build, clock: Clock) -> None:
    """A header that implies the same period, or no period, does not change it."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    refused(tracker, "requests_per_day", 200, 432)
    clock.now += 433
    served(tracker, route, observations=[seen(200, 0, inferred=True)])
    clock.now += 433
    served(tracker, route)
    assert row(tracker).amount == 200


def test_dropping_an_inferred_limit_restores_the_published_figures(
    tracker_of: Build, clock: Clock
) -> None:
    """The count does not change."""
    tracker = tracker_of(DAY)
    route = a_route(tracker.configuration)
    served(tracker, route)
    refused(tracker, "requests_per_day", 300, 90, inferred=True)
    assert row(tracker).amount == 300
    clock.now += 400
    served(tracker, route)
    assert (row(tracker).amount, row(tracker).evidence) == (1000, "published")
    assert row(tracker).used > 250


def test_a_limit_that_is_in_force_again_counts_the_next_call_of_a_batch(
    tracker_of: Build, storage: Storage, clock: Clock
) -> None:
    """The first call disproves a larger plan, for which the table's other limits did not count."""
    before = tracker_of(DAY)
    route = a_route(before.configuration)
    served(before, route, observations=[seen(4000, 3000, inferred=True)])
    clock.now += 1
    tokens = Limit("tokens", "minute", 10_000, "bucket")
    tracker = QuotaTracker(storage, custom_configuration([DAY, tokens], clock=clock))
    holds = tracker.hold_all(route, [ask(), ask()])
    assert not isinstance(holds, RouteState)
    assert row(tracker, "tokens_per_minute") is None
    clock.now += 1
    tracker.settle(*(Settlement(hold, Usage(50, 50)) for hold in holds))
    assert row(tracker, "tokens_per_minute").used == 100


# --- other programs, and invalid figures


def test_usage_by_other_programs_is_counted(tracker_of: Build) -> None:
    """Examples are another program with the same key, and the provider's playground."""
    tracker = tracker_of(DAY)
    route = a_route(tracker.configuration)
    for theirs in (1, 2, 53, 54):
        served(tracker, route, observations=[seen(1000, 1000 - theirs)])
        assert used(tracker, limit="requests_per_day") == theirs


@pytest.mark.parametrize("wait", [-5.0, math.nan, math.inf, 1e12])
def test_an_impossible_wait_is_ignored(tracker_of: Build, wait: float) -> None:
    """A time in the past, or years ahead, counts as not stated."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=wait)
    assert opens_in(tracker, route) == 60
    failed(tracker, a_route(tracker.configuration, 2), Remedy.RETRY_LATER, retry_after=wait)
    assert opens_in(tracker, a_route(tracker.configuration, 2)) <= 1.3


@given(
    figures=st.lists(
        st.tuples(
            st.sampled_from(["requests_per_day", "requests_per_minute", "tokens_per_hour"]),
            st.none() | st.floats() | st.integers(-10, 10**12),
            st.none() | st.floats() | st.integers(-10, 10**12),
            st.none() | st.floats(),
            st.sampled_from(["header", "error"]),
        ),
        max_size=6,
    ),
    retry_after=st.none() | st.floats(),
)
def test_a_reset_opens_the_route_whatever_was_stated(
    figures: list[tuple[Any, ...]], retry_after: float | None
) -> None:
    """No figure raises an error, and none closes a route permanently."""
    from arche_magic.llm_providers.storage import MemoryStorage

    clock = Clock()
    tracker = proven(QuotaTracker(MemoryStorage(), custom_configuration([DAY], clock=clock)))
    route = a_route(tracker.configuration)
    observations = [Observation(*figure) for figure in figures]
    served(tracker, route, observations=observations)
    if not isinstance(tracker.hold(route, ask()), RouteState):
        clock.now += 200
        hold = tracker.hold(route, ask())
        if not isinstance(hold, RouteState):
            tracker.settle(Settlement(hold, Usage(1, 1), observations))
    tracker.get_usage_summary()
    assert opens_in(tracker, a_route(tracker.configuration, 2)) == 0
    tracker.reopen("groq_key_1")
    failed(
        tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=retry_after, observations=observations
    )
    opens = opens_in(tracker, route)
    assert opens <= 62 * 86_400 or "too large" in tracker.state(route, ask(), clock.now).reason
    tracker.reopen("groq_key_1")
    held(tracker, route)


def test_a_limit_that_refused_every_call_is_tried_again_after_a_day(
    tracker_of: Build, clock: Clock
) -> None:
    """A figure from one reply does not close a route forever."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    tiny = [Observation("tokens_per_minute", 3, 3)]
    served(tracker, route, observations=tiny)
    assert "too large" in tracker.state(route, ask(), clock.now).reason
    clock.now += 86_401
    served(tracker, route, observations=tiny)
    assert "too large" in tracker.state(route, ask(), clock.now).reason


def test_usage_of_a_bucket_that_shrinks_is_capped(tracker_of: Build) -> None:
    """A fully used day of the larger plan is a fully used day of the smaller one."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    served(tracker, route, observations=[seen(14_400, 4_400)])
    served(tracker, route, observations=[seen(1000, None)])
    assert row(tracker).used <= 1001
    assert opens_in(tracker, route) < 200


def test_two_kernels_with_different_settings_count_every_call(
    storage: Storage, clock: Clock
) -> None:
    """Each keeps to its own limits, and both see what the other used."""
    plain = custom_configuration([set_by_user(DAY)], clock=clock)
    hour = set_by_user(Limit("requests", "hour", 5, "bucket"))
    careful = replace(plain, limits={"groq": (hour,)})
    one, two = QuotaTracker(storage, careful), QuotaTracker(storage, plain)
    route = a_route(plain)
    served(one, route)
    for _ in range(4):
        served(two, route)
    assert used(one, limit="requests_per_hour") == 5
    assert isinstance(one.hold(route, ask()), RouteState)
    served(two, route)
    assert row(two, "requests_per_hour") is None
    clock.now += 1800
    assert used(one, limit="requests_per_hour") == pytest.approx(3.5)


def test_a_kernel_without_published_limits_still_charges_them(
    storage: Storage, clock: Clock
) -> None:
    """A kernel with `tier = "paid"` has no published limits, but its calls count for others."""
    free = custom_configuration([Limit("requests", "day", 100, "calendar"), MINUTE], clock=clock)
    provider = replace(free.providers["groq"], limits={})
    paid = replace(free, providers={"groq": provider})
    one, two = QuotaTracker(storage, free), QuotaTracker(storage, paid)
    route = a_route(free)
    for tracker in (one, two, one, two, two):
        served(tracker, route)
        clock.now += 1
    assert used(one, limit="requests_per_day") >= 5
    assert used(one, limit="requests_per_minute") >= 2.4


def test_keys_of_one_account_with_different_limits_count_together(
    storage: Storage, clock: Clock
) -> None:
    """If the configuration contradicts itself, each call keeps to the limit of its own key."""
    from arche_magic.llm_providers.config import label_keys

    accounts = {"groq_key_1": "team", "groq_key_2": "team"}
    configuration = replace(
        custom_configuration(clock=clock),
        keys=label_keys("groq", ["one", "two"], accounts),
        limits={
            "groq_key_1": (set_by_user(replace(DAY, amount=2)),),
            "groq_key_2": (set_by_user(replace(DAY, amount=3)),),
        },
    )
    tracker = QuotaTracker(storage, configuration)
    first, second = a_route(configuration), a_route(configuration, 2)
    served(tracker, first)
    served(tracker, second)
    assert isinstance(tracker.hold(first, ask()), RouteState)
    served(tracker, second)
    for route in (first, second):
        assert isinstance(tracker.hold(route, ask()), RouteState)
