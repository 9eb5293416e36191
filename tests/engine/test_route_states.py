"""States of many routes equal those of single ones, and are computed only after a change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from engine_parts import Clock, a_route, ask, custom_configuration, failed, served, set_by_user
from hypothesis import given, settings
from hypothesis import strategies as st

from arche_magic.llm_providers.provider_failure import ProviderFailure, Remedy
from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker, Settlement
from arche_magic.llm_providers.routing import RouteChoice, Routes, choose
from arche_magic.llm_providers.storage import MemoryStorage
from arche_magic.llm_providers.types import Limit, Route, Usage

LIMITS = [
    set_by_user(Limit("requests", "minute", 4, "bucket")),
    set_by_user(Limit("requests", "day", 9, "calendar")),
    set_by_user(Limit("tokens", "minute", 300, "rolling")),
]
REMEDIES = [Remedy.WAIT_FOR_LIMIT, Remedy.RETRY_LATER, Remedy.REPLACE_KEY, Remedy.CHANGE_MODEL]
STEPS = st.tuples(
    st.sampled_from(["serve", "serve", "hold", "settle", "fail", "wait"]),
    st.integers(1, 3),  # key
    st.sampled_from(["model-a", "model-b"]),
    st.sampled_from(["word", "word " * 100]),
    st.sampled_from([0.0, 0.5, 7.0, 61.0, 3700.0, 86_400.0]),
    st.sampled_from(REMEDIES),
)
REQUESTS = [ask(), ask("word " * 60), ask("word", None), replace(ask(), reserve=0.5)]


def outcome(found: Hold | RouteState, clock: Clock) -> object:
    """What it means now; the headroom in a state may be a second old, and so may its words."""
    if isinstance(found, Hold):
        return found.amounts
    opens = max(found.opens_at, clock.now)
    return opens == clock.now, round(opens, 3), found.remedy, found.on_trial


@settings(max_examples=60)
@given(steps=st.lists(STEPS, max_size=25))
def test_cached_states_do_not_change_results(steps: list[tuple[Any, ...]]) -> None:
    """Two that remember what they read and wrote act as one that is new for each step."""
    clock = Clock()
    configuration = custom_configuration(LIMITS, keys=3, clock=clock)
    storages = [MemoryStorage(), MemoryStorage()]
    remembering = [QuotaTracker(storages[0], configuration) for _ in range(2)]
    under_way: list[tuple[Any, Any]] = []
    for number, (what, key, _, text, seconds, remedy) in enumerate(steps):
        trackers = remembering[number % 2], QuotaTracker(storages[1], configuration)
        # Few routes, so that their limits are reached.
        route, request = a_route(configuration, min(key, 2)), ask(text)
        if number % 3:
            # As a choice does before a hold. Another process may make a change between the two.
            states = [tracker.states_for(request, clock.now)(route) for tracker in trackers]
            assert outcome(states[0], clock) == outcome(states[1], clock)
        if what == "wait":
            clock.now += seconds
        elif what == "settle" and under_way:
            ended = under_way.pop()
            left = [
                t.settle(Settlement(hold, Usage(9, 9)))
                for t, hold in zip(trackers, ended, strict=True)
            ]
            assert left[0] == left[1]
        else:
            holds = [tracker.hold(route, request) for tracker in trackers]
            assert outcome(holds[0], clock) == outcome(holds[1], clock)
            if not isinstance(holds[0], Hold):
                continue
            if what == "hold":
                under_way.append((holds[0], holds[1]))
            elif what == "fail":
                failure = ProviderFailure("it failed", remedy, retry_after=seconds)
                ends = [t.fail(hold, failure) for t, hold in zip(trackers, holds, strict=True)]
                assert outcome(ends[0], clock) == outcome(ends[1], clock)
            else:
                left = [
                    t.settle(Settlement(hold, Usage(9, 9)))
                    for t, hold in zip(trackers, holds, strict=True)
                ]
                assert left[0] == left[1]
    for ended in under_way:
        for storage, hold in zip(storages, ended, strict=True):
            QuotaTracker(storage, configuration).settle(Settlement(hold, Usage(9, 9)))
    names = ["groq", *(f"groq:{each.fingerprint}" for each in configuration.keys)]
    assert storages[0].read_all(*names) == storages[1].read_all(*names)


@settings(max_examples=60)
@given(steps=st.lists(STEPS, max_size=25))
def test_states_of_many_routes_equal_those_of_single_ones(steps: list[tuple[Any, ...]]) -> None:
    """Whatever this process and another one change, for small and large requests."""
    clock, storage = Clock(), MemoryStorage()
    configuration = custom_configuration(LIMITS, keys=3, clock=clock)
    ours, other = (QuotaTracker(storage, configuration) for _ in range(2))
    under_way: list[Hold] = []
    for number, (what, key, model, text, seconds, remedy) in enumerate(steps):
        tracker = (ours, other)[number % 2]
        route = a_route(configuration, key, model)
        if what == "wait":
            clock.now += seconds
        elif what == "settle" and under_way:
            tracker.settle(Settlement(under_way.pop(), Usage(9, 9)))
        elif what == "fail":
            if tracker.state(route, ask(), clock.now).opens_at <= clock.now:
                failed(tracker, route, remedy, retry_after=seconds or None)
        elif isinstance(hold := tracker.hold(route, ask(text)), Hold):
            if what == "hold":
                under_way.append(hold)
            else:
                tracker.settle(Settlement(hold, Usage(9, 9)))
        for request in REQUESTS:
            state_of = ours.states_for(request, clock.now)
            for each in configuration.routes():
                alone, found = ours.state(each, request, clock.now), state_of(each)
                opens = max(found.opens_at, clock.now)
                assert opens == pytest.approx(max(alone.opens_at, clock.now), abs=1e-3)
                assert (opens > clock.now) == (alone.opens_at > clock.now)
                assert (found.remedy, found.on_trial) == (alone.remedy, alone.on_trial)
                if opens == clock.now:
                    # The amount that refills in the second for which a state may be reused.
                    assert found.headroom == pytest.approx(alone.headroom, abs=0.02)


class CountingStorage(MemoryStorage):
    """Counts how often it is read."""

    reads = 0

    def read_all(self, *names: str) -> list[dict[str, Any]]:
        self.reads += 1
        return super().read_all(*names)


def test_choosing_among_many_routes_reads_the_ledger_once(clock: Clock) -> None:
    """This holds even right after a call, which changes one account."""
    storage = CountingStorage()
    configuration = custom_configuration(LIMITS, keys=50, clock=clock)
    tracker = QuotaTracker(storage, configuration)
    routes = Routes(configuration.routes())
    for route in routes[:49]:
        served(tracker, route)

    def choice() -> RouteChoice[Route]:
        state_of = tracker.states_for(ask(), clock.now)
        return choose(routes, state_of, clock.now, 30.0)

    choice()
    storage.reads = 0
    found = choice()
    assert storage.reads == 1
    assert found.route == routes[49]
    served(tracker, routes[0])
    storage.reads = 0
    assert choice().route == routes[49]
    assert storage.reads == 1


def test_a_choice_names_every_closed_route_before_the_chosen_one(clock: Clock) -> None:
    """It does so without evaluating them again before they open."""
    configuration = custom_configuration(LIMITS, keys=50, models=["model-a"], clock=clock)
    tracker = QuotaTracker(MemoryStorage(), configuration)
    routes = Routes(configuration.routes())
    for route in routes[:49]:
        failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=60, limit="requests_per_day")
    for seconds in (0.0, 59.0, 2.0):
        clock.now += seconds
        found = choose(routes, tracker.states_for(ask(), clock.now), clock.now, 0.0)
        closed = [] if seconds == 2.0 else list(routes[:49])
        assert [route for route, _ in found.skipped] == closed
        assert all(state.reason for _, state in found.skipped)
