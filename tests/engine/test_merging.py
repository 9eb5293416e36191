"""Merging two copies or documents of the ledger never counts less than the server did."""

from __future__ import annotations

import math
from typing import Any

import pytest
from engine_parts import (
    NOON,
    Clock,
    a_route,
    ask,
    custom_configuration,
    failed,
    opens_in,
    proven,
    served,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_interleavings import ExactServer

from arche_magic.llm_providers.provider_failure import ProviderFailure, Remedy
from arche_magic.llm_providers.quota import codec
from arche_magic.llm_providers.quota.budget import Expected, SpendingBounds
from arche_magic.llm_providers.quota.merging import merge_documents
from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker, Settlement
from arche_magic.llm_providers.storage import MemoryStorage
from arche_magic.llm_providers.types import (
    MOST_UNITS,
    Budget,
    Limit,
    Observation,
    Usage,
    WindowRule,
)

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["one", "two"]),
        st.sampled_from([0.0, 1 / 16, 3.0, 15.0, 61.0, 900.0]),  # seconds before
        st.sampled_from([1, 40, 150]),  # tokens
    ),
    max_size=30,
)


@pytest.mark.parametrize("window", ["bucket", "calendar", "rolling"])
@settings(max_examples=80)
@given(common=EVENTS, separate=EVENTS, wait=st.sampled_from([0.0, 2.0, 61.0, 4000.0]))
def test_a_merge_never_counts_less_than_the_server(
    window: WindowRule,
    common: list[tuple[str, float, int]],
    separate: list[tuple[str, float, int]],
    wait: float,
) -> None:
    """Two copies of a ledger each count their own calls; one server counted all of them."""
    clock = Clock(NOON)
    limits = [
        Limit("requests", "minute", 4, window),
        Limit("tokens", "minute", 300, window),
        Limit("requests", "hour", 25, window),
    ]
    server = ExactServer(limits)
    configuration = custom_configuration(limits, clock=clock)
    route = a_route(configuration)
    name = f"groq:{route.key.account}"

    def run(events: list[tuple[str, float, int]], *storages: MemoryStorage) -> None:
        """Send each call through the storage it names; the server refuses if its limit is full."""
        for who, seconds, tokens in events:
            clock.now += seconds
            storage = storages[-1] if who == "two" else storages[0]
            tracker = QuotaTracker(storage, configuration)
            hold = tracker.hold(route, ask("word", 1))
            amounts = {"requests": 1.0, "tokens": float(tokens)}
            full = any(server.used(x, clock.now) + amounts[x.metric] > x.amount for x in limits)
            if isinstance(hold, Hold) and full:
                tracker.fail(hold, ProviderFailure("429", Remedy.WAIT_FOR_LIMIT, retry_after=1))
            elif isinstance(hold, Hold):
                server.log.append((clock.now, amounts))
                tracker.settle(Settlement(hold, Usage(tokens, 0)))

    one, two = MemoryStorage(), MemoryStorage()
    run(common, one)
    before = one.read(name)
    two.update(name, lambda document: document.update(before))
    run(separate, one, two)
    clock.now += wait
    two.update(
        name, lambda theirs: merge_documents(name, before, one.read(name), theirs, clock.now)
    )
    summary = QuotaTracker(two, configuration).get_usage_summary("groq")["groq"]["groq_key_1"]
    for limit in limits:
        assert summary[limit.name]["used"] >= server.used(limit, clock.now) - 1e-2


class AccountServer(ExactServer):
    """One account with two keys; it refuses calls that do not fit."""

    def admits(self, tokens: float, now: float) -> bool:
        amounts = {"requests": 1.0, "tokens": tokens}
        if any(self.used(x, now) + amounts[x.metric] > x.amount for x in self.limits):
            return False
        self.log.append((now, amounts))
        return True


CALLS = st.tuples(
    st.sampled_from([1, 2]),  # key
    st.sampled_from([0.0, 1 / 16, 3.0, 15.0, 61.0, 900.0]),  # seconds before
    st.sampled_from([1, 40, 150]),  # max_tokens
    st.sampled_from([0.0, 0.5, 1.0]),  # the part of it that is used
    st.sampled_from([0, 0, 1, 3]),  # calls that begin before it is settled
)


@pytest.mark.parametrize("window", ["bucket", "calendar", "rolling"])
@settings(max_examples=80)
@given(calls=st.lists(CALLS, min_size=4, max_size=60), found=st.integers(0, 59))
def test_a_merged_account_counts_at_least_what_the_server_counted(
    window: WindowRule, calls: list[tuple[Any, ...]], found: int
) -> None:
    """The account may be named by a reply or a refusal, while any calls are in progress."""
    clock = Clock()
    limits = [
        Limit("requests", "minute", 4, window),
        Limit("tokens", "minute", 300, window),
        Limit("requests", "hour", 25, window),
    ]
    server = AccountServer(limits)
    storage = MemoryStorage()
    configuration = custom_configuration(limits, clock=clock)
    trackers = [QuotaTracker(storage, configuration) for _ in range(2)]
    under_way: list[tuple[int, QuotaTracker, Hold, Usage | None]] = []

    def end(tracker: QuotaTracker, hold: Hold, spent: Usage | None, account: str | None) -> None:
        if spent is None:
            refusal = ProviderFailure("429", Remedy.WAIT_FOR_LIMIT, retry_after=2.0)
            tracker.fail(hold, refusal, account)
        else:
            tracker.settle(Settlement(hold, spent, (), account))

    for number, (key, seconds, max_tokens, share, later) in enumerate(calls):
        clock.now += seconds
        account = "org_1" if number >= found else None
        for entry in [entry for entry in under_way if entry[0] <= number]:
            under_way.remove(entry)
            end(*entry[1:], account)
        tracker = trackers[number % 2]
        hold = tracker.hold(a_route(configuration, key), ask("word " * 10, max_tokens))
        if isinstance(hold, RouteState):
            continue
        spent = Usage(
            int(hold.amounts["input_tokens"] * share), int(hold.amounts["output_tokens"] * share)
        )
        admitted = server.admits(float(spent.total_tokens), clock.now)
        under_way.append((number + later, tracker, hold, spent if admitted else None))
    for entry in under_way:
        end(*entry[1:], "org_1")
    for key in (1, 2):
        # The last event for both keys is a refusal, which the server does not count.
        clock.now += 3
        state = trackers[0].hold(a_route(configuration, key), ask("Hi", 1))
        if isinstance(state, Hold):
            end(trackers[0], state, None, "org_1")
    if not trackers[0].shared_keys():
        return
    summary = trackers[1].get_usage_summary("groq")["groq"]
    for limit in limits:
        for rows in summary.values():
            assert rows[limit.name]["used"] >= server.used(limit, clock.now) - 1e-2


def test_an_inferred_limit_is_still_inferred_after_a_merge(clock: Clock) -> None:
    """A call beyond it disproves it there too; a limit stated by a reply stays."""
    configuration = custom_configuration(clock=clock)
    route, name = a_route(configuration), ""
    before, one, two = MemoryStorage(), MemoryStorage(), MemoryStorage()
    tracker = QuotaTracker(one, configuration)
    seen = [
        Observation("requests_per_day", 50, 49, inferred=True),
        Observation("requests_per_minute", 5, 4),
    ]
    served(tracker, route, observations=seen)
    name = f"groq:{route.key.account}"
    two.update(
        name,
        lambda theirs: merge_documents(name, before.read(name), one.read(name), theirs, clock.now),
    )
    merged = QuotaTracker(two, configuration)
    limits = {row.limit for row in merged.standings() if row.key == route.key.label}
    assert limits == {"requests_per_day", "requests_per_minute"}
    clock.now += 1
    served(merged, route)
    limits = {row.limit for row in merged.standings() if row.key == route.key.label}
    assert limits == {"requests_per_minute"}


def merged(before: MemoryStorage, ours: MemoryStorage, now: float, *names: str) -> MemoryStorage:
    """The storage that both copies had, with what happened in one of them since."""
    for name in names:
        before.update(
            name,
            lambda theirs, name=name: merge_documents(  # type: ignore[misc]
                name, before.read(name), ours.read(name), theirs, now
            ),
        )
    return before


def copied(storage: MemoryStorage, *names: str) -> MemoryStorage:
    copy = MemoryStorage()
    for name in names:
        copy.update(name, lambda document, name=name: document.update(storage.read(name)))  # type: ignore[misc]
    return copy


@pytest.mark.parametrize("job", ["", "one"])
def test_a_call_of_one_copy_is_charged_to_a_bound_after_the_merge(job: str) -> None:
    """Its share of a budget, or of a job's bounds, is held there too until it ends."""

    def bounds_in(storage: MemoryStorage) -> SpendingBounds:
        budget = None if job else Budget(per_day=10.0)
        return SpendingBounds(storage, budget, max_cost=10.0 if job else math.inf, job=job)

    name = codec.JOBS if job else codec.BUDGET
    expected = Expected("kind", Usage(10, 90), 10, 90, math.inf, 1.0, lambda usage: 0.1)
    both = MemoryStorage()
    bounds_in(both).settle(str(bounds_in(both).hold(expected, NOON, NOON + 9)), Usage(), 1.0, NOON)
    ours = copied(both, name)
    hold = bounds_in(ours).hold(expected, NOON, NOON + 9)
    bounds_in(merged(both, ours, NOON, name)).settle(str(hold), Usage(10, 90), 2.0, NOON)
    document = both.read(name)
    state = document["jobs"][job] if job else document
    assert set(state["spent"].values()) == ({3.0, 100.0} if job else {3.0})
    assert "held" not in state


def test_what_the_user_does_in_one_copy_is_in_the_merge(clock: Clock) -> None:
    """Limits that were set or removed, and a key that was reopened with its models."""
    configuration = custom_configuration(clock=clock)
    route, names = a_route(configuration), [f"groq:{a_route(configuration).key.account}", "groq"]
    both = MemoryStorage()
    tracker = proven(QuotaTracker(both, configuration))
    tracker.set_limits("groq", tokens_per_day=50)
    failed(tracker, route, Remedy.REPLACE_KEY)
    failed(tracker, a_route(configuration, 2, "model-b"), Remedy.CHANGE_MODEL)
    ours = copied(both, *names)
    copy = QuotaTracker(ours, configuration)
    copy.reopen("groq_key_1")
    copy.set_limits("groq_key_1", requests_per_day=7)
    tracker = QuotaTracker(merged(both, ours, clock.now, *names), configuration)
    assert {row.limit: row.amount for row in tracker.standings()} == {"requests_per_day": 7}
    assert opens_in(tracker, route) == opens_in(tracker, a_route(configuration, 2, "model-b")) == 0


def test_a_merge_never_exceeds_the_largest_valid_count(clock: Clock) -> None:
    """A larger figure would be dropped as invalid, with everything counted before."""
    most = {"2026-11-24": MOST_UNITS, "2026-11": MOST_UNITS}
    account = {
        "version": 3,
        "models": {"model-a": {"charged": {"requests": MOST_UNITS, "tokens": MOST_UNITS}}},
    }
    for name, document in (("groq:one", account), (codec.BUDGET, {"spent": most})):
        theirs = codec.mend(name, document)[0]
        copy = {**theirs}
        merge_documents(name, {}, document, copy, clock.now)
        assert codec.mend(name, copy) == (document, [])
