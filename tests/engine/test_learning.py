"""What replies and users say of limits, and whose word counts; on every storage."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
    told,
    used,
)
from hypothesis import given
from hypothesis import strategies as st

from arche_magic.llm_providers.errors import ConfigurationError
from arche_magic.llm_providers.provider_failure import Remedy
from arche_magic.llm_providers.quota import windows
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


def test_each_figure_says_what_it_rests_on_and_since_when(tracker_of: Build, clock: Clock) -> None:
    """The table's date, the user, a header, an error; a newer statement is younger."""
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


def test_an_error_is_better_evidence_than_a_header_for_a_day(
    tracker_of: Build, clock: Clock
) -> None:
    """What refuses calls is the limit, whatever the headers count; but plans change."""
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


def test_a_remaining_figure_alone_changes_no_evidence(tracker_of: Build, clock: Clock) -> None:
    """What is left says nothing of how much there is."""
    tracker = tracker_of(DAY)
    served(tracker, a_route(tracker.configuration), observations=[seen(None, 400)])
    assert (row(tracker).used, row(tracker).evidence) == (600, "published")


# --- what the user sets


def test_a_smaller_figure_of_the_users_is_kept(tracker_of: Build, clock: Clock) -> None:
    """Wanting less than there is, is no claim that a header could refute."""
    tracker = tracker_of(told(replace(DAY, amount=4)))
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


def test_a_larger_figure_of_the_users_gives_way(tracker_of: Build) -> None:
    """The provider knows better what there is at most."""
    tracker = tracker_of(told(DAY))
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
def test_limits_are_set_at_run_time(
    tracker_of: Build, storage: Storage, scope: str, expected: list[float | None]
) -> None:
    """For a provider, a model, a key, or a model of a key; every kernel counts by them at once."""
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


def test_a_limit_set_at_run_time_counts_over_the_configuration_until_it_is_taken_back(
    storage: Storage, clock: Clock
) -> None:
    """One by one, or all of a scope; `None` takes one back."""
    configuration = replace(
        custom_configuration([MINUTE, DAY], clock=clock),
        limits={"groq_key_1": (told(replace(DAY, amount=500)),)},
    )
    tracker = QuotaTracker(storage, configuration)
    tracker.set_limits("groq", requests_per_day=3)
    assert row(tracker).amount == 3
    tracker.set_limits(
        "groq_key_1",
        requests_per_day={"amount": 2, "window": "calendar", "time_zone": "Asia/Tokyo"},
        requests_per_minute=1,
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
        ("groq", {"requests_per_day": {"amount": 1, "window": "weekly"}}, "window is 'weekly'"),
        ("groq", {"window": "bucket", "requests_per_day": True}, "must be a number"),
    ],
)
def test_a_limit_that_is_none_is_refused(
    tracker_of: Build, scope: str, limits: dict[str, Any], says: str
) -> None:
    """Nothing is changed by it."""
    tracker = tracker_of(DAY)
    with pytest.raises(ConfigurationError, match=says):
        tracker.set_limits(scope, **limits)
    assert row(tracker).amount == 1000


def test_a_limit_of_nothing_set_at_run_time_is_undone_by_a_reset(tracker_of: Build) -> None:
    """Whatever was set, learned or closed: `reopen` recovers the route."""
    tracker = tracker_of(DAY)
    route = a_route(tracker.configuration)
    tracker.set_limits("groq_key_1", requests_per_day=0)
    assert opens_in(tracker, route) == math.inf
    tracker.reopen("groq_key_1")
    assert opens_in(tracker, route) == 0


# --- another plan than the table's


def test_a_paid_plan_is_recognized_by_its_figures(tracker_of: Build) -> None:
    """Groq's free 30 a minute say nothing of an account with 500,000 a day."""
    tracker = tracker_of(MINUTE, DAY, Limit("tokens", "day", 200_000, "bucket"))
    route = a_route(tracker.configuration)
    served(tracker, route, observations=[seen(500_000, 499_999)])
    (only,) = [r for r in tracker.standings() if r.key == "groq_key_1"]
    assert (only.limit, only.amount) == ("requests_per_day", 500_000)
    for _ in range(40):
        served(tracker, route)
    assert row(tracker, "requests_per_minute", "groq_key_2").amount == 30


def test_a_table_that_is_a_little_out_of_date_is_no_other_plan(tracker_of: Build) -> None:
    """Twice as many a day leave the limit per minute as it is."""
    tracker = tracker_of(MINUTE, DAY)
    served(tracker, a_route(tracker.configuration), observations=[seen(2000, 1999)])
    assert row(tracker, "requests_per_minute").amount == 30
    assert row(tracker).amount == 2000


def test_what_the_user_set_holds_on_every_plan(tracker_of: Build) -> None:
    """Only the table is left aside."""
    tracker = tracker_of(told(MINUTE), DAY)
    served(tracker, a_route(tracker.configuration), observations=[seen(500_000, 499_999)])
    assert row(tracker, "requests_per_minute").amount == 30


# --- the window by its reset


def service(clock: Clock) -> Configuration:
    """A service about whose windows nothing is known."""
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
def test_a_reset_time_shows_how_a_window_turns(
    storage: Storage, clock: Clock, spent: int, resets_in: float | None, window: str
) -> None:
    """Noon in Los Angeles is four hours before midnight UTC, and 1,000 a day are one in 86.4 s."""
    tracker = QuotaTracker(storage, service(clock))
    told_of = seen(1000, 1000 - spent, resets_in=resets_in)
    served(tracker, a_route(tracker.configuration), observations=[told_of])
    assert (row(tracker).window, row(tracker).used) == (window, pytest.approx(spent))


def test_a_window_that_was_taken_for_another_is_corrected(storage: Storage, clock: Clock) -> None:
    """A first reset can fit by chance; nothing that was counted is lost over it."""
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
def test_any_bucket_shows_itself(period: Any, amount: int, share: float) -> None:
    """Rounded as providers round it. Near its end it could be a rolling window, too."""
    spent = math.ceil(amount * share)
    seconds = PERIOD_SECONDS[period]
    observation = Observation(
        "x", amount, amount - spent, round((spent - 0.5) / amount * seconds, 3)
    )
    limit = Limit("requests", period, amount, "rolling")
    assert windows.rule_by_reset(limit, limit, amount, observation, NOON).window == "bucket"


def refused(tracker: QuotaTracker, limit: str, amount: float, wait: float, **facts: Any) -> None:
    """A refusal with its figures and its wait, all of the limit used."""
    observation = Observation(limit, amount, 0, evidence="error", opens_in=wait, excess=1, **facts)
    failed(
        tracker, a_route(tracker.configuration), Remedy.WAIT_FOR_LIMIT,
        retry_after=wait, limit=limit, observations=[observation],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wait", "window"),
    [(1.5, "bucket"), (59.0, "rolling"), (31.0, "rolling")],
)
def test_the_wait_of_a_refusal_shows_how_a_minute_turns(
    tracker_of: Build, clock: Clock, wait: float, window: str
) -> None:
    """Forty a minute in a bucket are one in 1.5 s; the route opens when the provider says."""
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
def test_the_wait_of_a_refusal_shows_how_a_day_turns(
    storage: Storage, clock: Clock, wait: float, window: str
) -> None:
    """Noon in Los Angeles is four hours before midnight UTC, and 1,000 a day are one in 86.4 s."""
    tracker = QuotaTracker(storage, service(clock))
    refused(tracker, "requests_per_day", 1000, wait)
    assert row(tracker).window == window
    assert opens_in(tracker, a_route(tracker.configuration)) == pytest.approx(wait, abs=0.01)


def test_the_users_own_smaller_limit_keeps_its_window(tracker_of: Build) -> None:
    """The wait belongs to the provider's larger limit."""
    tracker = tracker_of(told(MINUTE))
    refused(tracker, "requests_per_minute", 40, 59)
    assert (row(tracker, "requests_per_minute").amount) == 30
    assert row(tracker, "requests_per_minute").window == "bucket"


def test_a_stranger_on_the_account_does_not_stop_us_for_a_whole_window(
    storage: Storage, clock: Clock
) -> None:
    """What others spent in a rolling minute was spent over all of it."""
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


def test_an_inferred_period_is_dropped_when_a_probe_passes(tracker_of: Build, clock: Clock) -> None:
    """A penalty of 90 s on a limit per minute is not a limit per hour."""
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
    """OpenAI's headers name no period; each reply implies it again, and one does not."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    for left in (199, 198, 197):
        clock.now += 1
        served(tracker, route, observations=[seen(200, left, inferred=True)])
        assert row(tracker).amount == 200
    clock.now += 1
    served(tracker, route)
    assert row(tracker) is None


def test_a_stated_period_is_not_doubted(tracker_of: Build, clock: Clock) -> None:
    """Not even after a header that implies the same period, or one that implies none."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    refused(tracker, "requests_per_day", 200, 432)
    clock.now += 433
    served(tracker, route, observations=[seen(200, 0, inferred=True)])
    clock.now += 433
    served(tracker, route)
    assert row(tracker).amount == 200


def test_doubting_a_published_limit_restores_its_figures(tracker_of: Build, clock: Clock) -> None:
    """Its count stays as it is."""
    tracker = tracker_of(DAY)
    route = a_route(tracker.configuration)
    served(tracker, route)
    refused(tracker, "requests_per_day", 300, 90, inferred=True)
    assert row(tracker).amount == 300
    clock.now += 400
    served(tracker, route)
    assert (row(tracker).amount, row(tracker).evidence) == (1000, "published")
    assert row(tracker).used > 250


# --- somebody else, and bad figures


def test_what_something_else_spends_on_the_key_is_counted(tracker_of: Build) -> None:
    """Another program, or the provider's own playground."""
    tracker = tracker_of(DAY)
    route = a_route(tracker.configuration)
    for theirs in (1, 2, 53, 54):
        served(tracker, route, observations=[seen(1000, 1000 - theirs)])
        assert used(tracker, limit="requests_per_day") == theirs


@pytest.mark.parametrize("wait", [-5.0, math.nan, math.inf, 1e12])
def test_a_wait_that_no_provider_means_is_none(tracker_of: Build, wait: float) -> None:
    """Neither in the past nor in years: it counts as not said."""
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
def test_whatever_is_said_a_reset_recovers_the_route(
    figures: list[tuple[Any, ...]], retry_after: float | None
) -> None:
    """No figure raises, and none closes a route beyond recovery."""
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
            tracker.settle(hold, Usage(1, 1), observations)
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


def test_a_limit_that_turned_all_away_is_asked_again_after_a_day(
    tracker_of: Build, clock: Clock
) -> None:
    """A figure that a reply once gave does not close a route for ever."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    tiny = [Observation("tokens_per_minute", 3, 3)]
    served(tracker, route, observations=tiny)
    assert "too large" in tracker.state(route, ask(), clock.now).reason
    clock.now += 86_401
    served(tracker, route, observations=tiny)
    assert "too large" in tracker.state(route, ask(), clock.now).reason


def test_a_bucket_that_shrinks_holds_no_more_than_it_can(tracker_of: Build) -> None:
    """A day's worth spent of a plan that was larger is a day's worth of the new one."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    served(tracker, route, observations=[seen(14_400, 4_400)])
    served(tracker, route, observations=[seen(1000, None)])
    assert row(tracker).used <= 1001
    assert opens_in(tracker, route) < 200


def test_two_kernels_of_different_configuration_count_every_call(
    storage: Storage, clock: Clock
) -> None:
    """Each keeps to its own limits, and both see what the other spent."""
    plain = custom_configuration([told(DAY)], clock=clock)
    hour = told(Limit("requests", "hour", 5, "bucket"))
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


def test_a_kernel_that_does_not_know_a_published_limit_still_charges_it(
    storage: Storage, clock: Clock
) -> None:
    """With `tier = "paid"`, say, another kernel has no table; its calls count all the same."""
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


def test_keys_of_one_account_with_different_figures_count_together(
    storage: Storage, clock: Clock
) -> None:
    """A contradiction in the configuration: each call keeps to the figure of its own key."""
    from arche_magic.llm_providers.config import label_keys

    accounts = {"groq_key_1": "team", "groq_key_2": "team"}
    configuration = replace(
        custom_configuration(clock=clock),
        keys=label_keys("groq", ["one", "two"], accounts),
        limits={
            "groq_key_1": (told(replace(DAY, amount=2)),),
            "groq_key_2": (told(replace(DAY, amount=3)),),
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
