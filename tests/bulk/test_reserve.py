"""A job leaves part of every limit for the user of the notebook."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from bulk_parts import WaitingClock

import arche_magic
from arche_magic.bulk import Job
from arche_magic.llm_providers import NoRouteAvailable, get_llm_provider

if TYPE_CHECKING:
    from datetime import datetime

    from provider_parts import Clock, Start

TEXTS = [f"Row {n}" for n in range(40)]


@pytest.mark.parametrize(("reserve", "fits"), [(0.1, 18), (0.5, 10), (0.0, 20)])
def test_a_job_stops_short_of_the_limit(
    start: Start, clock: Clock, reserve: float, fits: int
) -> None:
    """A cell can use the rest immediately."""
    sandbox = start(clock=clock, limits={"groq": {"requests_per_day": 20}})
    result = arche_magic.map(TEXTS, patience=0, reserve=reserve, pack=1)
    assert result.error.isna().sum() == fits
    llm = get_llm_provider()
    for number in range(20 - fits):
        llm.generate(f"From a cell: {number}", patience=0)
    with pytest.raises(NoRouteAvailable):
        llm.generate("One too many", patience=0)
    assert not any(request.status == 429 for request in sandbox.requests)


@pytest.mark.parametrize(
    ("provider", "used", "seconds"),
    [
        # A request can be sent when 11 of 20 are left. The bucket gets one back every 3 s.
        ("groq", 20, 39),
        ("groq", 15, 24),
        ("mistral", 20, 60),
        ("google", 20, 60),
        ("google", 15, 60),
    ],
)
def test_plan_and_run_wait_until_the_reserve_is_left(
    start: Start, provider: str, used: int, seconds: float
) -> None:
    """This holds for buckets, rolling windows and calendar windows, and for the finish time."""
    clock = WaitingClock()
    start({provider: 1}, {provider: {"requests_per_minute": 20}}, clock=clock)
    arche_magic.map(TEXTS[:used], reserve=0, pack=1)
    options: dict[str, Any] = {"reserve": 0.5, "pack": 1}
    planned = arche_magic.plan(TEXTS[-3:], **options).finish_at
    assert planned is not None
    began = clock.time()
    assert planned.timestamp() - began == pytest.approx(seconds, abs=4)
    job = Job(TEXTS[-3:], **options)
    with ThreadPoolExecutor() as pool:
        run = pool.submit(lambda: list(job))
        shown: set[datetime] = set()
        while not run.done():
            shown.update(filter(None, [job.progress().finish_at]))
            time.sleep(0.01)
    assert all(row.error is None for row in run.result())
    assert clock.time() - began == pytest.approx(seconds, abs=4)
    assert shown
    assert all(end.timestamp() - began == pytest.approx(seconds, abs=4) for end in shown)


def test_a_request_larger_than_what_may_be_spent_waits_for_an_unspent_limit(
    start: Start, clock: Clock
) -> None:
    """It does not wait forever."""
    start(clock=clock, limits={"groq": {"tokens_per_minute": 1000}})
    llm = get_llm_provider()
    assert llm.generate("Hi", max_tokens=900, reserve=0.5)
    with pytest.raises(NoRouteAvailable, match="opens in"):
        llm.generate("Ho", max_tokens=900, reserve=0.5, patience=0)
    assert llm.generate("Ho", max_tokens=900, reserve=0.5, patience=120)


def test_the_reserve_is_not_part_of_an_address(start: Start) -> None:
    """A kept reply is found with any reserve."""
    sandbox = start()
    llm = get_llm_provider()
    llm.generate("Hi", keep=True, reserve=0.3)
    assert llm.generate("Hi", keep=True).from_memory
    assert len(sandbox.requests) == 1
