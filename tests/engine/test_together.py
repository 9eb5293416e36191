"""Requests that one thread asks one after the other: held in one change, booked in another."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine_parts import (
    RPM,
    TPM,
    Build,
    Clock,
    a_route,
    ask,
    custom_configuration,
    proven,
    used,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from arche_magic.llm_providers.attempt_log import AttemptLog
from arche_magic.llm_providers.provider_failure import ProviderFailure, Remedy
from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.storage import JsonFileStorage, MemoryStorage
from arche_magic.llm_providers.storage.file_text import parse
from arche_magic.llm_providers.together import Together
from arche_magic.llm_providers.types import Usage

if TYPE_CHECKING:
    from pathlib import Path

    from arche_magic.llm_providers.request import Request

HUNDRED = replace(RPM, amount=100)


def several(tracker: QuotaTracker, requests: list[Request], path: Path | None = None) -> Together:
    return Together(tracker, AttemptLog(path), requests)


def charged(tracker: QuotaTracker) -> float:
    """Requests that were ever charged to the first model of the first key."""
    route = a_route(tracker.configuration)
    document = tracker.storage.read(f"groq:{route.key.account}")
    return float(document["models"][route.model]["charged"]["requests"])


def on_hold(tracker: QuotaTracker) -> int:
    """How many calls are under way, as another kernel sees it."""
    route = a_route(tracker.configuration)
    document = tracker.storage.read(f"groq:{route.key.account}")
    holds = document["models"][route.model].get("holds", {})
    return sum(int(hold["amounts"]["requests"]) for hold in holds.values())


def revision(path: Path) -> int:
    """How often the ledger's file was changed."""
    found = parse(path.read_bytes())
    assert found is not None
    return found[1]


def test_eight_requests_change_the_ledger_twice(tmp_path: Path, clock: Clock) -> None:
    """Each of them has its hold and is charged what it spent."""
    path = tmp_path / "ledger.json"
    configuration = custom_configuration([HUNDRED, replace(TPM, amount=100_000)], clock=clock)
    tracker = proven(QuotaTracker(JsonFileStorage(path), configuration))
    route, requests = a_route(configuration), [ask() for _ in range(8)]
    before = revision(path)
    with several(tracker, requests) as together:
        for number, request in enumerate(requests):
            assert together.state(route, request, clock.now).opens_at <= clock.now
            hold = together.hold(route, request)
            assert isinstance(hold, Hold)
            assert on_hold(tracker) == 8
            together.settle(hold, Usage(10 * number, 5))
    assert revision(path) == before + 2
    assert on_hold(tracker) == 0
    assert used(tracker) == 8
    assert used(tracker, limit="tokens_per_minute") == sum(10 * n + 5 for n in range(8))


def test_the_attempts_are_in_the_record_in_their_order(tracker_of: Build, tmp_path: Path) -> None:
    """Written at the end, in one go."""
    tracker, path = tracker_of(HUNDRED), tmp_path / "llm_calls.jsonl"
    with several(tracker, [], path) as together:
        for number in range(3):
            attempt = Attempt(
                "groq", "groq_key_1", "model-a", "served", at=1.0, request=f"r{number}"
            )
            together.append([attempt])
        assert not path.exists()
    assert [a.request for a in AttemptLog(path).since(0.0)] == ["r0", "r1", "r2"]


def test_a_limit_that_is_near_is_not_oversold(tracker_of: Build) -> None:
    """With room for three, the fourth finds the route closed, and the three are booked."""
    tracker = tracker_of(replace(RPM, amount=3))
    route, requests = a_route(tracker.configuration), [ask() for _ in range(8)]
    now = tracker.configuration.clock.time()
    with several(tracker, requests) as together:
        for request in requests[:3]:
            assert together.state(route, request, now).opens_at <= now
            hold = together.hold(route, request)
            assert isinstance(hold, Hold)
            together.settle(hold, Usage(5, 5))
        assert used(tracker) == 3
        assert together.state(route, requests[3], now).opens_at > now
        assert used(tracker) == 3
        assert isinstance(together.hold(route, requests[3]), RouteState)


def test_a_failure_gives_the_other_holds_back(tracker_of: Build) -> None:
    """The failed call closes the route as ever; what was not asked is not charged."""
    tracker = tracker_of(HUNDRED)
    route, requests = a_route(tracker.configuration), [ask() for _ in range(8)]
    with several(tracker, requests) as together:
        first, second = (together.hold(route, request) for request in requests[:2])
        assert isinstance(first, Hold)
        assert isinstance(second, Hold)
        together.settle(first, Usage(5, 5))
        state = together.fail(second, ProviderFailure("no credit left", Remedy.TOP_UP_ACCOUNT))
        assert state.opens_at > tracker.configuration.clock.time()
        assert on_hold(tracker) == 0
        assert isinstance(together.hold(route, requests[2]), RouteState)
    assert used(tracker) == 1


def test_what_is_left_early_is_given_back(tracker_of: Build) -> None:
    """A thread that stops half way leaves nothing on hold."""
    tracker = tracker_of(HUNDRED)
    route, requests = a_route(tracker.configuration), [ask() for _ in range(8)]
    with several(tracker, requests) as together:
        hold = together.hold(route, requests[0])
        assert isinstance(hold, Hold)
        together.settle(hold, Usage(5, 5))
    assert on_hold(tracker) == 0
    assert used(tracker) == 1


def test_another_route_is_held_alone(tracker_of: Build) -> None:
    """A request that goes elsewhere ends what was held for it and for those after it."""
    tracker = tracker_of(HUNDRED)
    route, requests = a_route(tracker.configuration), [ask() for _ in range(3)]
    other = replace(route, model="model-b")
    with several(tracker, requests) as together:
        hold = together.hold(route, requests[0])
        assert isinstance(hold, Hold)
        together.settle(hold, Usage(5, 5))
        elsewhere = together.hold(other, requests[1])
        assert isinstance(elsewhere, Hold)
        assert elsewhere.route == other
        assert on_hold(tracker) == 0
        together.settle(elsewhere, Usage(5, 5))
    assert used(tracker) == 1


def test_a_kernel_that_dies_half_way_is_charged_for_several_it_held(
    tmp_path: Path, tracker_of: Build, clock: Clock
) -> None:
    """What was asked of them nobody knows; each hold ends at its time, as ever."""
    configuration = tracker_of(HUNDRED).configuration
    path = tmp_path / "own.json"
    dying = proven(QuotaTracker(JsonFileStorage(path), configuration))
    route, requests = a_route(configuration), [ask() for _ in range(5)]
    assert isinstance(several(dying, requests).hold(route, requests[0]), Hold)
    later = QuotaTracker(JsonFileStorage(path), configuration)
    assert on_hold(later) == 5
    clock.now += requests[0].timeout + 31
    later.state(route, ask(), clock.now)
    assert on_hold(later) == 0
    assert charged(later) == 6


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(0, 300)), min_size=1, max_size=12),
    st.integers(1, 14),
    st.integers(300, 4000),
)
def test_together_is_as_one_by_one(
    calls: list[tuple[int, int]], most_requests: int, most_tokens: int
) -> None:
    """The same requests get a hold, and the same is charged in the end, as if held one by one."""
    limits = [replace(RPM, amount=most_requests), replace(TPM, amount=most_tokens)]
    configuration = custom_configuration(limits)
    one, several_ = (proven(QuotaTracker(MemoryStorage(), configuration)) for _ in range(2))
    route = a_route(configuration)
    requests = [ask(max_tokens=guess) for guess, _ in calls]
    singles: list[Hold] = []
    for request in requests:
        hold = one.hold(route, request)
        if isinstance(hold, RouteState):
            break
        singles.append(hold)
    held = several_.hold_all(route, requests)
    together = [] if isinstance(held, RouteState) else held
    assert [hold.amounts for hold in together] == [hold.amounts for hold in singles]
    for hold, (_, spent) in zip(singles, calls, strict=False):
        one.settle(hold, Usage(5, spent))
    with several(several_, []) as batch:
        for hold, (_, spent) in zip(together, calls, strict=False):
            batch.settle(hold, Usage(5, spent))
    assert one.get_usage_summary() == several_.get_usage_summary()
