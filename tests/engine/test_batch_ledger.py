"""Many requests of a job: reserved in one change of the ledger, settled in another."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import TYPE_CHECKING, TypeVar

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
from arche_magic.llm_providers.batch_ledger import BatchLedger
from arche_magic.llm_providers.provider_failure import ProviderFailure, Remedy
from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker, Settlement
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.storage import JsonFileStorage, MemoryStorage
from arche_magic.llm_providers.storage.ledger_file import parse
from arche_magic.llm_providers.storage.locks import KernelLock
from arche_magic.llm_providers.types import Usage

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from arche_magic.llm_providers.request import Request
    from arche_magic.llm_providers.storage import Change
    from arche_magic.llm_providers.types import Route

T = TypeVar("T")

HUNDRED = replace(RPM, amount=100)


def several(
    tracker: QuotaTracker, requests: list[Request], path: Path | None = None
) -> BatchLedger:
    """A `BatchLedger` for requests that come one after another."""
    return BatchLedger(tracker, AttemptLog(path), lambda: requests, lambda attempts: None)


def opens_at(ledger: BatchLedger, route: Route, request: Request) -> float:
    """When the request finds the route open."""
    now = ledger.configuration.clock.time()
    return ledger.states_for(request, now)(route).opens_at


def charged(tracker: QuotaTracker) -> float:
    """All requests ever charged to the first model of the first key."""
    route = a_route(tracker.configuration)
    document = tracker.storage.read(f"groq:{route.key.account}")
    return float(document["models"][route.model]["charged"]["requests"])


def on_hold(tracker: QuotaTracker) -> int:
    """The number of calls in progress, as another kernel sees it."""
    route = a_route(tracker.configuration)
    document = tracker.storage.read(f"groq:{route.key.account}")
    holds = document["models"][route.model].get("holds", {})
    return sum(int(hold["amounts"]["requests"]) for hold in holds.values())


def revision(path: Path) -> int:
    """The number of changes of the ledger file."""
    found = parse(path.read_bytes())
    assert found is not None
    return found[1]


def test_eight_requests_change_the_ledger_twice(tmp_path: Path, clock: Clock) -> None:
    """Each has a hold and is charged its usage."""
    path = tmp_path / "ledger.json"
    configuration = custom_configuration([HUNDRED, replace(TPM, amount=100_000)], clock=clock)
    tracker = proven(QuotaTracker(JsonFileStorage(path), configuration))
    route, requests = a_route(configuration), [ask() for _ in range(8)]
    before = revision(path)
    ledger = several(tracker, requests)
    for number, request in enumerate(requests):
        assert opens_at(ledger, route, request) <= clock.now
        hold = ledger.hold(route, request)
        assert isinstance(hold, Hold)
        assert on_hold(tracker) == 8
        ledger.settle(Settlement(hold, Usage(10 * number, 5)))
    ledger.close()
    assert revision(path) == before + 2
    assert on_hold(tracker) == 0
    assert used(tracker) == 8
    assert used(tracker, limit="tokens_per_minute") == sum(10 * n + 5 for n in range(8))


def test_attempts_are_recorded_in_order(tracker_of: Build, tmp_path: Path) -> None:
    """They are written together at the end."""
    tracker, path = tracker_of(HUNDRED), tmp_path / "llm_calls.jsonl"
    ledger = several(tracker, [], path)
    for number in range(3):
        attempt = Attempt("groq", "groq_key_1", "model-a", "served", at=1.0, request=f"r{number}")
        ledger.append([attempt])
    assert not path.exists()
    ledger.book()
    assert [a.request for a in AttemptLog(path).since(0.0)] == ["r0", "r1", "r2"]


def test_a_nearly_spent_limit_is_not_exceeded(tracker_of: Build) -> None:
    """With room for three, the fourth finds the route closed, and the three are charged."""
    tracker = tracker_of(replace(RPM, amount=3))
    route, requests = a_route(tracker.configuration), [ask() for _ in range(8)]
    now, ledger = tracker.configuration.clock.time(), several(tracker, requests)
    for request in requests[:3]:
        assert opens_at(ledger, route, request) <= now
        hold = ledger.hold(route, request)
        assert isinstance(hold, Hold)
        ledger.settle(Settlement(hold, Usage(5, 5)))
    assert on_hold(tracker) == 3
    assert opens_at(ledger, route, requests[3]) > now
    assert used(tracker) == 3
    assert on_hold(tracker) == 0
    assert isinstance(ledger.hold(route, requests[3]), RouteState)


def test_a_failure_releases_the_other_holds(tracker_of: Build) -> None:
    """The failed call closes the route as usual; requests that were not sent are not charged."""
    tracker = tracker_of(HUNDRED)
    route, requests = a_route(tracker.configuration), [ask() for _ in range(8)]
    ledger = several(tracker, requests)
    first, second = (ledger.hold(route, request) for request in requests[:2])
    assert isinstance(first, Hold)
    assert isinstance(second, Hold)
    ledger.settle(Settlement(first, Usage(5, 5)))
    state = ledger.fail(second, ProviderFailure("no credit left", Remedy.TOP_UP_ACCOUNT))
    assert state.opens_at > tracker.configuration.clock.time()
    assert on_hold(tracker) == 0
    assert isinstance(ledger.hold(route, requests[2]), RouteState)
    assert used(tracker) == 1


def test_stopping_early_releases_the_holds(tracker_of: Build) -> None:
    """A job that stops half way leaves only its calls in progress reserved."""
    tracker = tracker_of(HUNDRED)
    route, requests = a_route(tracker.configuration), [ask() for _ in range(8)]
    ledger = several(tracker, requests)
    first, second = (ledger.hold(route, request) for request in requests[:2])
    assert isinstance(first, Hold)
    assert isinstance(second, Hold)
    ledger.settle(Settlement(first, Usage(5, 5)))
    ledger.close()
    assert on_hold(tracker) == 1
    ledger.settle(Settlement(second, Usage(5, 5)))
    assert on_hold(tracker) == 0
    assert used(tracker) == 2


def test_an_unused_hold_is_released(tracker_of: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may need it while the request waits for something else."""
    tracker = tracker_of(HUNDRED)
    route, requests = a_route(tracker.configuration), [ask() for _ in range(8)]
    ledger = several(tracker, requests)
    assert isinstance(ledger.hold(route, requests[0]), Hold)
    assert on_hold(tracker) == 8
    monkeypatch.setattr("arche_magic.llm_providers.batch_ledger._FRESH_SECONDS", 0.0)
    ledger.book()
    assert on_hold(tracker) == 1


def test_a_hold_is_found_by_its_request_with_another_patience(tracker_of: Build) -> None:
    """A job that pays after waiting asks each row with the patience that is left."""
    tracker = tracker_of(HUNDRED)
    route, requests = a_route(tracker.configuration), [ask() for _ in range(8)]
    ledger = several(tracker, requests)
    for request in requests:
        assert isinstance(ledger.hold(route, replace(request, patience=1.0)), Hold)
    assert ledger.held_ahead == 0
    assert on_hold(tracker) == 8


def test_threads_that_wait_for_a_hold_get_it_in_one_change(tmp_path: Path, clock: Clock) -> None:
    """While one thread changes the ledger, requests of the others wait for the next change."""
    path = tmp_path / "ledger.json"
    configuration = custom_configuration([HUNDRED], clock=clock)
    tracker = proven(QuotaTracker(JsonFileStorage(path), configuration))
    route, requests = a_route(configuration), [ask() for _ in range(8)]
    before, ledger = revision(path), several(tracker, [])
    barrier = Barrier(len(requests))

    def hold(request: Request) -> Hold | RouteState:
        barrier.wait()
        return ledger.hold(route, request)

    lock = KernelLock(f"{path}.lock")
    with ThreadPoolExecutor(len(requests)) as pool:
        # As if another kernel were changing the ledger.
        lock.acquire()
        holds = pool.map(hold, requests)
        time.sleep(0.1)
        lock.release()
    assert all(isinstance(found, Hold) for found in holds)
    assert on_hold(tracker) == 8
    assert revision(path) <= before + 2


class OneDocumentRefused(MemoryStorage):
    """Refuses to change one of its documents, as a damaged store might."""

    refused = ""

    def update(self, name: str, change: Change[T], *others: str) -> T:
        if name == self.refused:
            raise OSError
        return super().update(name, change, *others)


def test_an_account_that_cannot_be_booked_does_not_hold_up_the_others(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls of all routes are booked in one go; each must be charged if its own account allows."""
    configuration, storage = custom_configuration([HUNDRED], clock=clock), OneDocumentRefused()
    tracker = QuotaTracker(storage, configuration)
    first, second = (a_route(configuration, key) for key in (1, 2))
    ledger = several(tracker, [])
    holds = [ledger.hold(route, ask()) for route in (first, second)]
    for hold in holds:
        assert isinstance(hold, Hold)
        ledger.settle(Settlement(hold, Usage(5, 5)))
    storage.refused = f"groq:{first.key.account}"
    ledger.close()
    assert "the ledger refused a call (OSError)" in caplog.text
    booked = storage.read(f"groq:{second.key.account}")["models"]["model-a"]
    assert not booked.get("holds")
    assert booked["charged"]["requests"] == 1


def test_another_route_is_reserved_alone(tracker_of: Build) -> None:
    """Holds for a request that goes to another route are released."""
    tracker = tracker_of(HUNDRED)
    route, requests = a_route(tracker.configuration), [ask() for _ in range(3)]
    other = replace(route, model="model-b")
    ledger = several(tracker, requests)
    hold = ledger.hold(route, requests[0])
    assert isinstance(hold, Hold)
    ledger.settle(Settlement(hold, Usage(5, 5)))
    elsewhere = ledger.hold(other, requests[1])
    assert isinstance(elsewhere, Hold)
    assert elsewhere.route == other
    ledger.settle(Settlement(elsewhere, Usage(5, 5)))
    ledger.close()
    assert on_hold(tracker) == 0
    assert used(tracker) == 1


def test_the_holds_of_a_killed_kernel_are_charged(
    tmp_path: Path, tracker_of: Build, clock: Clock
) -> None:
    """It is not known which of them were sent; each hold ends at its time, as usual."""
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


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(0, 300)), min_size=1, max_size=12),
    st.integers(1, 14),
    st.integers(300, 4000),
)
def test_a_batch_has_the_same_effect_as_single_requests(
    calls: list[tuple[int, int]], most_requests: int, most_tokens: int
) -> None:
    """The same requests get a hold, and the same amounts are charged, as for single requests."""
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
        one.settle(Settlement(hold, Usage(5, spent)))
    batch = several(several_, [])
    for hold, (_, spent) in zip(together, calls, strict=False):
        batch.settle(Settlement(hold, Usage(5, spent)))
    batch.close()
    assert one.get_usage_summary() == several_.get_usage_summary()
