"""A route that has never answered takes one call at a time; on every storage."""

from __future__ import annotations

from dataclasses import replace
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
    opens_in,
    proven,
    served,
)

from arche_magic.llm_providers.config import label_keys
from arche_magic.llm_providers.provider_failure import ProviderFailure, Remedy
from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker, Settlement
from arche_magic.llm_providers.types import Limit, Observation, Route, Usage

if TYPE_CHECKING:
    from arche_magic.llm_providers.storage import Storage

PUBLISHED = Limit("requests", "minute", 30, "bucket")


@pytest.fixture
def fresh(storage: Storage, clock: Clock) -> QuotaTracker:
    """A ledger in which no route has answered yet."""
    return QuotaTracker(storage, custom_configuration([RPM], clock=clock))


def kept_off(tracker: QuotaTracker, route: Route) -> RouteState:
    """The result for a call that must wait for the outcome of another one."""
    state = tracker.hold(route, ask())
    assert isinstance(state, RouteState)
    assert state.on_trial
    assert tracker.state(route, ask(), tracker.configuration.clock.time()) == state
    return state


def refuse(tracker: QuotaTracker, hold: Hold, **facts: object) -> None:
    tracker.fail(hold, ProviderFailure("429", Remedy.WAIT_FOR_LIMIT, **facts))  # type: ignore[arg-type]


# --- never answered


def test_a_route_that_never_answered_takes_one_call(fresh: QuotaTracker) -> None:
    """Other calls get the reason, and may use another key or model meanwhile."""
    route = a_route(fresh.configuration)
    first = held(fresh, route)
    state = kept_off(fresh, route)
    assert state.reason == "another call is testing it"
    assert 0 < state.opens_at - fresh.configuration.clock.time() < 0.1
    held(fresh, a_route(fresh.configuration, key=2))
    fresh.settle(Settlement(first, Usage(5, 5)))
    held(fresh, route)
    held(fresh, route)


def test_other_kernels_wait_too(storage: Storage, clock: Clock) -> None:
    """They see the reply as soon as it is recorded, even after a restart."""
    configuration = custom_configuration([RPM], clock=clock)
    one, two = QuotaTracker(storage, configuration), QuotaTracker(storage, configuration)
    hold = held(one, a_route(configuration))
    kept_off(two, a_route(configuration))
    one.settle(Settlement(hold, Usage(5, 5)))
    three = QuotaTracker(storage, configuration)
    for tracker in (two, three):
        held(tracker, a_route(configuration))


def test_a_second_key_of_an_account_has_its_own_trial(storage: Storage, clock: Clock) -> None:
    """It may be mistyped even if the first key works."""
    accounts = {"groq_key_1": "team", "groq_key_2": "team"}
    keys = label_keys("groq", ["one", "two"], accounts)
    configuration = replace(custom_configuration([RPM], clock=clock), keys=keys)
    tracker = QuotaTracker(storage, configuration)
    served(tracker, a_route(configuration))
    held(tracker, a_route(configuration, key=2))
    kept_off(tracker, a_route(configuration, key=2))
    held(tracker, a_route(configuration))


def test_after_a_refusal_one_call_goes_first(fresh: QuotaTracker, clock: Clock) -> None:
    """Other calls wait, however many there are."""
    route = a_route(fresh.configuration)
    served(fresh, route)
    failed(fresh, route, Remedy.WAIT_FOR_LIMIT, retry_after=42)
    clock.now += 42
    probe = held(fresh, route)
    kept_off(fresh, route)
    refuse(fresh, probe, retry_after=30)
    assert opens_in(fresh, route) == 30
    clock.now += 30
    fresh.settle(Settlement(held(fresh, route), Usage(5, 5)))
    held(fresh, route)


def test_calls_that_began_before_the_refusal_are_not_trials(
    tracker_of: Build, clock: Clock
) -> None:
    """They may take as long as they need."""
    tracker = tracker_of(RPM)
    route = a_route(tracker.configuration)
    held(tracker, route)
    clock.now += 1
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=2)
    clock.now += 2
    held(tracker, route)
    kept_off(tracker, route)


def test_a_reply_to_an_earlier_call_does_not_end_a_trial(tracker_of: Build, clock: Clock) -> None:
    """A call from before the refusal says nothing about the current state."""
    tracker = tracker_of(RPM)
    route = a_route(tracker.configuration)
    early = held(tracker, route)
    clock.now += 1
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=2)
    clock.now += 2
    held(tracker, route)
    tracker.settle(Settlement(early, Usage(5, 5)))
    kept_off(tracker, route)


@pytest.mark.parametrize("remedy", [Remedy.FIX_REQUEST, Remedy.SHORTEN_PROMPT])
def test_a_trial_with_an_invalid_request_makes_room_for_the_next(
    fresh: QuotaTracker, remedy: Remedy
) -> None:
    """The route is still untested, and the next call tries it."""
    route = a_route(fresh.configuration)
    failed(fresh, route, remedy)
    held(fresh, route)
    kept_off(fresh, route)


def test_an_interrupted_trial_proves_nothing(fresh: QuotaTracker) -> None:
    """The next call makes the trial."""
    route = a_route(fresh.configuration)
    fresh.settle(Settlement(held(fresh, route), None, answered=False))
    held(fresh, route)
    kept_off(fresh, route)


def test_the_trial_of_a_killed_kernel_does_not_block_others(
    fresh: QuotaTracker, clock: Clock
) -> None:
    """After ten seconds the next call tries; the first one's amounts stay reserved."""
    route = a_route(fresh.configuration)
    held(fresh, route)
    clock.now += 9.9
    kept_off(fresh, route)
    clock.now += 0.1
    second = held(fresh, route)
    kept_off(fresh, route)
    fresh.settle(Settlement(second, Usage(5, 5)))
    held(fresh, route)
    refused = fresh.hold(route, ask())
    assert isinstance(refused, RouteState)
    assert "reserved" in refused.reason


@pytest.mark.parametrize("ahead", [60.0, 86_400.0 * 400])
def test_a_trial_with_a_time_in_the_future_does_not_block(
    fresh: QuotaTracker, clock: Clock, ahead: float
) -> None:
    """Setting the clock back does not block a route."""
    route = a_route(fresh.configuration)
    clock.now += ahead
    held(fresh, route)
    clock.now -= ahead
    held(fresh, route)


# --- after an outage


def test_after_an_outage_one_call_of_all_keys_and_kernels_tries(
    storage: Storage, clock: Clock
) -> None:
    """The outage affected the provider, so the trial is for all of its routes."""
    configuration = custom_configuration([RPM], clock=clock, keys=3)
    one, two = QuotaTracker(storage, configuration), QuotaTracker(storage, configuration)
    proven(one)
    failed(one, a_route(configuration), Remedy.RETRY_LATER, retry_after=5)
    clock.now += 5
    probe = held(two, a_route(configuration, key=2))
    for tracker in (one, two):
        for key in (1, 2, 3):
            kept_off(tracker, a_route(configuration, key))
            kept_off(tracker, a_route(configuration, key, "model-b"))
    two.settle(Settlement(probe, Usage(5, 5)))
    for key in (1, 2, 3):
        held(one, a_route(configuration, key))


@pytest.mark.parametrize("remedy", [Remedy.WAIT_FOR_LIMIT, Remedy.REPLACE_KEY, Remedy.FIX_REQUEST])
def test_a_refusal_also_ends_an_outage(tracker_of: Build, clock: Clock, remedy: Remedy) -> None:
    """Any refusal shows that the provider answers again."""
    tracker = tracker_of(RPM)
    failed(tracker, a_route(tracker.configuration), Remedy.RETRY_LATER, retry_after=5)
    clock.now += 5
    probe = held(tracker, a_route(tracker.configuration))
    kept_off(tracker, a_route(tracker.configuration, key=2))
    tracker.fail(probe, ProviderFailure("no", remedy, retry_after=9))
    for _ in range(2):
        held(tracker, a_route(tracker.configuration, key=2))


@pytest.mark.parametrize("ends", ["not sent", "given up"])
def test_a_trial_without_a_result_does_not_block_others(
    tracker_of: Build, clock: Clock, ends: str
) -> None:
    """After a wrong proxy setting or an interrupt, the next call tries immediately."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    failed(tracker, route, Remedy.RETRY_LATER)
    clock.now += 5
    trial = held(tracker, route)
    kept_off(tracker, a_route(tracker.configuration, 2))
    if ends == "not sent":
        tracker.fail(trial, ProviderFailure("a proxy", Remedy.CHECK_SETUP, sent=False))
    else:
        tracker.settle(Settlement(trial, Usage(), answered=False))
    held(tracker, a_route(tracker.configuration, 2))


# --- published rates


def test_a_published_rate_is_approached_one_call_at_a_time(storage: Storage, clock: Clock) -> None:
    """The table may be outdated, and then concurrent calls would all be refused."""
    tracker = QuotaTracker(storage, custom_configuration([PUBLISHED], clock=clock))
    route = a_route(tracker.configuration)
    served(tracker, route)
    hold = held(tracker, route)
    assert "rate is not known" in kept_off(tracker, route).reason
    tracker.settle(Settlement(hold, Usage(5, 5)))
    for _ in range(8):
        served(tracker, route)
    clock.now += 130
    # Ten were answered within a minute before, so from now on ten may start together.
    for _ in range(10):
        held(tracker, route)
    kept_off(tracker, route)


def test_a_call_that_is_not_refused_soon_counts_as_accepted(storage: Storage, clock: Clock) -> None:
    """Long replies do not delay the next call."""
    tracker = QuotaTracker(storage, custom_configuration([PUBLISHED], clock=clock))
    route = a_route(tracker.configuration)
    served(tracker, route)
    for _ in range(5):
        held(tracker, route)
        kept_off(tracker, route)
        clock.now += 0.5


@pytest.mark.parametrize("evidence", ["configured", "header", "error"])
def test_a_confirmed_rate_is_used_at_once(storage: Storage, clock: Clock, evidence: str) -> None:
    """The user or the provider can confirm it."""
    limit = replace(PUBLISHED, evidence="configured" if evidence == "configured" else "published")
    tracker = QuotaTracker(storage, custom_configuration([limit], clock=clock))
    route = a_route(tracker.configuration)
    stated = [Observation("requests_per_minute", 30, 29, None, evidence)]  # type: ignore[arg-type]
    served(tracker, route, observations=stated if evidence != "configured" else ())
    for _ in range(8):
        held(tracker, route)


def test_a_service_without_limits_is_not_slowed_down(fresh: QuotaTracker) -> None:
    """After the first reply of a local model, all calls start immediately."""
    route = a_route(fresh.configuration, model="model-b")
    served(fresh, route)
    for _ in range(20):
        held(fresh, route)


def test_a_refusal_resets_the_confirmed_rate(storage: Storage, clock: Clock) -> None:
    """After a refusal that names no limit, calls start one at a time."""
    tracker = QuotaTracker(storage, custom_configuration([PUBLISHED], clock=clock))
    route = a_route(tracker.configuration)
    for _ in range(10):
        served(tracker, route)
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=60)
    clock.now += 60
    served(tracker, route)
    held(tracker, route)
    kept_off(tracker, route)
