"""Hold, settle, learn: what the ledger guarantees, on every storage."""

from __future__ import annotations

import math
import os
import threading
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from engine_parts import (
    RPD,
    RPM,
    TPM,
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

from arche_magic.llm_providers.config import Configuration
from arche_magic.llm_providers.processes import this_process
from arche_magic.llm_providers.provider_failure import Remedy
from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker, Settlement
from arche_magic.llm_providers.storage import JsonFileStorage
from arche_magic.llm_providers.types import (
    Limit,
    Observation,
    Usage,
)

if TYPE_CHECKING:
    from pathlib import Path

    from arche_magic.llm_providers.storage import Storage

# --- hold and settle


def test_a_hold_reserves_on_every_limit_or_on_none(tracker_of: Build) -> None:
    """If one of several limits has no room, the others are not changed."""
    tracker = tracker_of(RPM, TPM)
    route = a_route(tracker.configuration)
    tracker.settle(Settlement(held(tracker, route), Usage(900, 0)))
    refused = tracker.hold(route, ask(max_tokens=200))
    assert isinstance(refused, RouteState)
    assert "tokens per minute" in refused.reason
    assert used(tracker) == 1
    assert isinstance(tracker.hold(route, ask(max_tokens=20)), Hold)


def test_two_holds_never_exceed_a_limit(tracker_of: Build, clock: Clock) -> None:
    """A reserved amount is not available to the next call, whether settled or not."""
    tracker = tracker_of(RPM)
    route = a_route(tracker.configuration)
    for _ in range(3):
        held(tracker, route)
    refused = tracker.hold(route, ask())
    assert isinstance(refused, RouteState)
    assert refused.opens_at > clock.now
    assert "reserved" in refused.reason


def test_threads_never_get_more_holds_than_the_limit_allows(tracker_of: Build) -> None:
    """Eight threads that ask at the same time share the limit exactly."""
    tracker = tracker_of(replace(RPM, amount=20))
    route = a_route(tracker.configuration)
    granted: list[Hold] = []

    def work() -> None:
        for _ in range(5):
            hold = tracker.hold(route, ask())
            if isinstance(hold, Hold):
                granted.append(hold)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 20


def test_settling_replaces_the_estimate_with_the_providers_count(tracker_of: Build) -> None:
    """A call that reserved 500 tokens and took 40 leaves 40 used."""
    tracker = tracker_of(TPM)
    route = a_route(tracker.configuration)
    tracker.settle(Settlement(held(tracker, route, ask(max_tokens=500)), Usage(10, 30)))
    assert used(tracker, limit="tokens_per_minute") == 40


def test_a_call_without_a_count_is_charged_its_estimate(tracker_of: Build) -> None:
    """If the provider does not state the usage, the reserved amount is charged."""
    tracker = tracker_of(TPM)
    route = a_route(tracker.configuration)
    hold = held(tracker, route, ask(max_tokens=100))
    tracker.settle(Settlement(hold, None))
    assert used(tracker, limit="tokens_per_minute") == hold.amounts["tokens"] > 100


def test_settling_returns_the_tightest_limit(tracker_of: Build) -> None:
    """The receipt names the limit that will run out first."""
    tracker = tracker_of(RPM, RPD)
    assert served(tracker, a_route(tracker.configuration)) == "2 of 3 requests left this minute"


def test_estimates_learn_from_the_providers_counts(tracker_of: Build) -> None:
    """After calls with twice the estimated input, the next estimate is larger."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    request = ask("word " * 200, max_tokens=None)
    first = held(tracker, route, request)
    tracker.settle(Settlement(first, Usage(2 * int(first.plain_tokens), 50)))
    second = held(tracker, route, request)
    assert second.amounts["input_tokens"] > first.amounts["input_tokens"]
    assert second.amounts["output_tokens"] < first.amounts["output_tokens"]


def test_a_request_larger_than_a_limit_is_refused_with_both_sizes(tracker_of: Build) -> None:
    """It closes nothing: a shorter request is accepted immediately."""
    tracker = tracker_of(TPM)
    route = a_route(tracker.configuration)
    refused = tracker.hold(route, ask("word " * 2000))
    assert isinstance(refused, RouteState)
    assert refused.opens_at == math.inf
    assert "too large" in refused.reason
    assert "1,000" in refused.reason
    held(tracker, route)


def test_a_limit_on_output_tokens_does_not_restrict_the_prompt(tracker_of: Build) -> None:
    """A long prompt is accepted."""
    tracker = tracker_of(Limit("output_tokens", "minute", 100, "bucket"))
    held(tracker, a_route(tracker.configuration), ask("word " * 2000))


def test_a_large_max_tokens_does_not_refuse_the_prompt(
    tracker_of: Build,
) -> None:
    """`max_tokens` is only an upper bound, so the call is offered if the limit is unused."""
    tracker = tracker_of(TPM)
    route = a_route(tracker.configuration)
    hold = held(tracker, route, ask(max_tokens=5000))
    assert isinstance(tracker.hold(route, ask()), RouteState)
    tracker.settle(Settlement(hold, Usage(10, 10)))
    held(tracker, route)


# --- kernels that are killed


def test_the_hold_of_a_killed_kernel_is_charged_when_it_expires(
    tracker_of: Build, clock: Clock
) -> None:
    """It counts as reserved while its call may be running, and as used afterwards."""
    tracker = tracker_of(set_by_user(Limit("requests", "day", 2, "calendar")))
    route = a_route(tracker.configuration)
    held(tracker, route, ask(timeout=60))
    held(tracker, route, ask(timeout=60))
    clock.now += 60
    assert isinstance(tracker.hold(route, ask()), RouteState)
    clock.now += 31
    assert used(tracker, limit="requests_per_day") == 2
    assert isinstance(tracker.hold(route, ask()), RouteState)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_the_hold_of_an_ended_process_is_charged_at_once(tmp_path: Path, clock: Clock) -> None:
    """Nobody waits for its expiry. Holds of live processes and of other machines stay reserved."""
    storage = JsonFileStorage(tmp_path / "ledger.json")
    limit = set_by_user(Limit("requests", "day", 9, "calendar"))
    tracker = proven(QuotaTracker(storage, custom_configuration([limit], clock=clock)))
    route = a_route(tracker.configuration)
    name = held(tracker, route).document
    child = os.fork()
    if not child:
        held(tracker, route)
        os._exit(0)

    def makers(*by: str) -> list[str]:
        """The processes with holds after a look; with `by`, after a look by that process."""

        def change(document: dict[str, Any]) -> None:
            found = deepcopy(document)
            for hold in found["models"][route.model]["holds"].values():
                hold["by"] = by[0]
            document.update(found)

        if by:
            storage.update(name, change)
        tracker.standings("groq")
        tracker.state(route, ask(), clock.now)
        entry = storage.read(name)["models"][route.model]
        return [hold["by"] for hold in entry.get("holds", {}).values()]

    # Its parent has not yet waited for it.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert makers() == [this_process()]
    os.waitpid(child, 0)
    assert used(tracker, limit="requests_per_day") == 2
    host, pid, _ = this_process().split(":")
    unknown = [f"elsewhere:{child}:1", f"elsewhere:{pid}:1", "written by an older version"]
    for by in (*unknown, f"{host}:{10**30}:1", f"{host}:²:1", f"{host}:0:1", f"{host}:-1:1"):
        assert makers(by) == [by]
    assert not makers(f"{host}:{child}:1")
    held(tracker, route)
    # Another process had this process id before.
    assert not makers(f"{host}:{pid}:1")
    assert used(tracker, limit="requests_per_day") == 3


def test_settling_after_the_expiry_does_not_charge_twice(tracker_of: Build, clock: Clock) -> None:
    """The call of a machine that was asleep has already been charged."""
    tracker = tracker_of(RPD)
    route = a_route(tracker.configuration)
    hold = held(tracker, route, ask(timeout=60))
    clock.now += 3600
    before = used(tracker, limit="requests_per_day")
    tracker.settle(Settlement(hold, Usage(5, 5)))
    assert used(tracker, limit="requests_per_day") == pytest.approx(before, abs=0.01)


def test_an_old_clock_reading_does_not_expire_newer_holds(tracker_of: Build, clock: Clock) -> None:
    """If the machine sleeps after reading the clock, calls that began since keep their holds."""
    tracker = proven(tracker_of(RPD, TPM))
    route, before = a_route(tracker.configuration), clock.now
    clock.now += 7200.0
    hold = held(tracker, route)
    tracker.state(route, ask(), before)
    tracker.settle(Settlement(hold, Usage(2, 3)))
    assert used(tracker, limit="requests_per_day") == pytest.approx(1, abs=1e-3)
    assert used(tracker, limit="tokens_per_minute") == pytest.approx(5, abs=1e-3)


@pytest.mark.parametrize("set_back", [600.0, 86_400.0 * 400])
def test_a_hold_with_a_time_in_the_future_expires(
    tracker_of: Build, clock: Clock, set_back: float
) -> None:
    """Setting the clock back by minutes or a year does not leave a hold forever."""
    tracker = tracker_of(RPM)
    route = a_route(tracker.configuration)
    clock.now += set_back
    for _ in range(3):
        held(tracker, route)
    clock.now -= set_back
    for _ in range(60):
        if isinstance(tracker.hold(route, ask()), Hold):
            return
        clock.now += 20
    pytest.fail("still on hold after 20 minutes")


def test_a_closure_with_a_time_in_the_future_ends(tracker_of: Build, clock: Clock) -> None:
    """A route closed for a minute by a clock a year ahead is open when the clock is right."""
    tracker = tracker_of(RPM)
    route = a_route(tracker.configuration)
    clock.now += 86_400 * 400
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=60)
    clock.now -= 86_400 * 400
    assert opens_in(tracker, route) == 0


# --- what failed attempts are charged


@pytest.mark.parametrize(
    ("remedy", "spent"),
    [
        (Remedy.WAIT_FOR_LIMIT, 0),
        (Remedy.TOP_UP_ACCOUNT, 0),
        (Remedy.CHANGE_PLAN, 0),
        (Remedy.REPLACE_KEY, 0),
        (Remedy.CHANGE_MODEL, 1),
        (Remedy.SHORTEN_PROMPT, 1),
        (Remedy.FIX_REQUEST, 1),
        (Remedy.ASK_DIFFERENTLY, 1),
        (Remedy.CHECK_ADDRESS, 1),
        (Remedy.RETRY_LATER, 1),
        (Remedy.CHANGE_PROMPT, 1),
    ],
)
def test_a_failed_call_is_charged_if_the_provider_may_have_counted_it(
    tracker_of: Build, remedy: Remedy, spent: int
) -> None:
    """A refusal for a limit or a key frees its hold; every other call counts as a request."""
    tracker = tracker_of(RPD)
    failed(tracker, a_route(tracker.configuration), remedy)
    assert used(tracker, limit="requests_per_day") == spent


def test_a_broken_stream_is_charged_its_reported_usage(tracker_of: Build) -> None:
    """Usage that arrived before the stream broke replaces the estimate."""
    tracker = tracker_of(TPM)
    route = a_route(tracker.configuration)
    failed(tracker, route, Remedy.RETRY_LATER, usage=Usage(7, 5))
    assert used(tracker, limit="tokens_per_minute") == 12


# --- learning


def test_an_unpublished_limit_is_learned_with_the_providers_window(
    tracker_of: Build, clock: Clock
) -> None:
    """A daily limit in a Groq header refills continuously."""
    tracker = tracker_of()
    served(
        tracker,
        a_route(tracker.configuration),
        observations=[Observation("requests_per_day", 1000, 900)],
    )
    assert used(tracker, limit="requests_per_day") == 100
    clock.now += 8640
    assert used(tracker, limit="requests_per_day") == pytest.approx(0, abs=1e-3)


def test_a_limit_in_an_error_body_is_learned(tracker_of: Build) -> None:
    """After `Limit 200000, Used 199000`, the ledger has these figures."""
    tracker = tracker_of()
    seen = Observation("tokens_per_day", 200_000, 1000, None, "error")
    failed(
        tracker,
        a_route(tracker.configuration),
        Remedy.WAIT_FOR_LIMIT,
        retry_after=60,
        observations=[seen],
    )
    row = tracker.get_usage_summary("groq")["groq"]["groq_key_1"]["tokens_per_day"]
    assert (row["limit"], row["used"], row["evidence"]) == (200_000, 199_000, "error")


def test_a_figure_lowers_our_count_only_if_the_call_ran_alone(
    tracker_of: Build, clock: Clock
) -> None:
    """The header of a slow call does not include calls that started and ended meanwhile."""
    tracker = tracker_of(set_by_user(Limit("requests", "day", 100, "calendar")))
    route = a_route(tracker.configuration)
    slow = held(tracker, route)
    clock.now += 1
    served(tracker, route)
    clock.now += 1
    tracker.settle(Settlement(slow, Usage(5, 5), [Observation("requests_per_day", 100, 99)]))
    assert used(tracker, limit="requests_per_day") == 2
    clock.now += 1
    served(tracker, route, observations=[Observation("requests_per_day", 100, 99)])
    assert used(tracker, limit="requests_per_day") == 1


def test_a_call_did_not_run_alone_if_the_clock_was_set_back_meanwhile(
    tracker_of: Build, clock: Clock
) -> None:
    """By that clock, the call in between ended before this one began."""
    tracker = tracker_of(set_by_user(Limit("requests", "day", 100, "calendar")))
    route = a_route(tracker.configuration)
    slow = held(tracker, route)
    clock.now -= 1
    served(tracker, route)
    tracker.settle(Settlement(slow, Usage(5, 5), [Observation("requests_per_day", 100, 99)]))
    assert used(tracker, limit="requests_per_day") == 2


def test_our_count_is_kept_while_another_call_is_running(tracker_of: Build, clock: Clock) -> None:
    """A lower figure may then be an older one."""
    tracker = tracker_of(set_by_user(Limit("requests", "day", 100, "calendar")))
    route = a_route(tracker.configuration)
    for _ in range(2):
        served(tracker, route)
    clock.now += 1
    held(tracker, route)
    served(tracker, route, observations=[Observation("requests_per_day", 100, 99)])
    assert used(tracker, limit="requests_per_day") == 4


@pytest.mark.parametrize(
    "seen",
    [
        Observation("requests_per_day", math.nan, 5),
        Observation("requests_per_day", math.inf, 5),
        Observation("requests_per_day", -1, 0),
        Observation("requests_per_day", 0, 0),
        Observation("requests_per_day", 100, 101),
        Observation("requests_per_day", 100, -1),
        Observation("requests_per_day", None, math.nan),
        Observation("tokens_per_hour", None, 3),
    ],
)
def test_an_absurd_figure_is_not_learned(tracker_of: Build, seen: Observation) -> None:
    """The ledger does not change."""
    tracker = tracker_of(RPD)
    route = a_route(tracker.configuration)
    served(tracker, route, observations=[seen])
    assert used(tracker, limit="requests_per_day") == 1
    assert opens_in(tracker, route) == 0


def test_a_ledger_with_an_absurd_count_can_be_read(tracker_of: Build, clock: Clock) -> None:
    """An earlier version wrote such counts: the bucket counts as full, and refills."""
    tracker = tracker_of(TPM)
    route = a_route(tracker.configuration)
    hold = tracker.hold(route, ask())
    assert isinstance(hold, Hold)
    tracker.settle(Settlement(hold, Usage(10**15, 5)))
    assert tracker.get_usage_summary()
    assert 0 < opens_in(tracker, route) <= 60
    clock.now += 60
    assert opens_in(tracker, route) == 0


def test_a_changed_configuration_applies_at_once(storage: Storage, clock: Clock) -> None:
    """A limit that the user set and removed does not stay in the ledger."""
    own = replace(RPD, amount=1, evidence="configured")
    configured = custom_configuration([RPD], clock=clock)
    first = QuotaTracker(storage, replace(configured, limits={"groq_key_1": (own,)}))
    route = a_route(configured)
    served(first, route)
    assert isinstance(first.hold(route, ask()), RouteState)
    second = QuotaTracker(storage, configured)
    assert isinstance(second.hold(route, ask()), Hold)
    assert used(second, limit="requests_per_day") == 2


def test_a_configuration_without_keys_has_an_empty_summary(storage: Storage) -> None:
    """There is nothing to show."""
    assert QuotaTracker(storage, Configuration(providers={})).get_usage_summary() == {}
