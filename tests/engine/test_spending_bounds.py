"""Bounds on cost and tokens hold for any order of calls."""

from __future__ import annotations

import math
from functools import partial

from engine_parts import NOON
from hypothesis import given
from hypothesis import strategies as st

from arche_magic.llm_providers.quota.budget import Expected, SpendingBounds
from arche_magic.llm_providers.storage import MemoryStorage
from arche_magic.llm_providers.types import MOST_UNITS, Budget, Usage

PLAIN = 10


def price(usd: float, usage: Usage) -> float:
    return usd * usage.total_tokens


def expected(kind: int, longest: int | None, usd: float) -> Expected:
    return Expected(
        kind=f"kind {kind}", usual=Usage(PLAIN, 300), plain=PLAIN, longest_reply=longest,
        window=math.inf, scale=1.0, price=partial(price, usd),
    )  # fmt: skip


@given(
    st.data(),
    st.integers(1, 60_000),
    st.sampled_from([0.0, 0.0001, 0.01, 1.0]),
    st.booleans(),
)
def test_calls_exceed_a_bound_by_one_reply_at_most(
    data: st.DataObject, bound: int, usd: float, of_a_budget: bool
) -> None:
    """Whatever starts while other calls run, if no reply is far longer than all others."""
    storage = MemoryStorage()
    if of_a_budget:
        bounds = SpendingBounds(storage, Budget(per_day=bound * usd))
    else:
        bounds = SpendingBounds(
            storage, max_cost=bound * usd or math.inf, max_tokens=bound, job="one"
        )
    under_way: list[tuple[str, int | None]] = []
    spent = largest = 0
    for _ in range(data.draw(st.integers(1, 40))):
        if under_way and data.draw(st.booleans()):
            hold, longest = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            tokens = data.draw(st.integers(0, longest or 8192))
            usage = Usage(PLAIN, tokens)
            bounds.settle(hold, usage, price(usd, usage), NOON)
            spent += usage.total_tokens
            largest = max(largest, usage.total_tokens)
        else:
            longest = data.draw(st.none() | st.integers(1, 9000))
            taken = bounds.hold(
                expected(data.draw(st.integers(0, 1)), longest, usd), NOON, NOON + 9
            )
            if isinstance(taken, str):
                under_way.append((taken, longest))
    if not of_a_budget or usd:
        assert spent <= bound + largest
        # The same rule admitted the calls that are still running.
        assert spent - largest <= bound


def test_a_call_that_fits_runs_beside_others() -> None:
    """Once the length of replies is known, twelve of the highest length and a usual one fit."""
    bounds = SpendingBounds(MemoryStorage(), max_tokens=100_000, job="one")
    first = bounds.hold(expected(0, None, 0.0), NOON, NOON + 9)
    assert isinstance(first, str)
    waiting = bounds.hold(expected(0, None, 0.0), NOON, NOON + 9)
    assert not isinstance(waiting, str)
    assert waiting.on_trial
    bounds.settle(first, Usage(PLAIN, 100), 0.0, NOON)
    taken = [bounds.hold(expected(0, None, 0.0), NOON, NOON + 9) for _ in range(20)]
    assert sum(isinstance(hold, str) for hold in taken) == 13


def test_a_finished_job_is_removed_after_a_week() -> None:
    """The week starts with its last call."""
    storage, week = MemoryStorage(), 7 * 86_400.0
    SpendingBounds(storage, max_tokens=1000, job="old").hold(expected(0, 5, 0.0), NOON, NOON + 9)
    SpendingBounds(storage, max_tokens=1000, job="new").hold(
        expected(0, 5, 0.0), NOON + week + 1, NOON
    )
    assert list(storage.read("bounds of jobs")["jobs"]) == ["new"]


def test_a_daily_budget_holds_between_clocks_that_differ() -> None:
    """Around midnight UTC, one machine counts for the old day and another for the new one."""
    bounds, midnight = SpendingBounds(MemoryStorage(), Budget(per_day=3.0)), 1_764_115_200.0
    sent = 0
    for number in range(20):
        now = midnight + (5 if number % 2 else -5)
        hold = bounds.hold(expected(0, 90, 0.01), now, now + 9)
        if isinstance(hold, str):
            bounds.settle(hold, Usage(PLAIN, 90), 1.0, now)
            sent += 1
    assert sent == 6


def test_absurd_counts_keep_the_bound_closed() -> None:
    """The total never exceeds the largest valid count of a document."""
    bounds = SpendingBounds(MemoryStorage(), max_tokens=100, job="one")
    for _ in range(2):
        first = bounds.hold(expected(0, 50, 0.0), NOON, NOON + 9)
        bounds.settle(str(first), Usage(0, int(MOST_UNITS)), 0.0, NOON)
    assert bounds.refusal(expected(0, 50, 0.0), NOON)
