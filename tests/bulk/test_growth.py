"""The number of threads of a job: the measured one compared with pools of fixed sizes."""

from __future__ import annotations

import heapq
from itertools import count

import pytest

from arche_magic.bulk.growth import MOST_THREADS, THREADS, Growth

TICK = 0.05


def seconds_of(
    rows: int,
    latency: float,
    cpu: float,
    threads: int | None = None,
    slots: int | None = None,
    worked: float = 0.0,
) -> tuple[float, int]:
    """How long a pool takes for so many rows, and its threads in the end.

    Each row takes `cpu` seconds, one row at a time, and then `latency` seconds at the service,
    which works on `slots` rows at the same time. Without `threads`, `Growth` says how many there
    are. Before all rows, the process has computed for `worked` seconds.
    """
    growth = Growth(0.0, worked)
    now = idle_at = 0.0
    tick = TICK
    order = count()
    busy: list[float] = []
    under_way: list[tuple[float, int, float]] = []
    while rows or under_way:
        wanted = threads or growth.threads
        while rows and len(under_way) < wanted:
            rows -= 1
            worked += cpu
            idle_at = begin = max(now, idle_at) + cpu
            if slots and len(busy) >= slots:
                begin = max(begin, heapq.heappop(busy))
            heapq.heappush(busy, begin + latency)
            heapq.heappush(under_way, (begin + latency, next(order), now))
        if under_way[0][0] > tick:
            now = tick
            tick += TICK
            growth.adjust(now, worked - max(0.0, idle_at - now))
            continue
        now, _, began = heapq.heappop(under_way)
        growth.note_reply(began, now)
    return now, growth.threads


@pytest.mark.parametrize("latency", [0.0, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("cpu", [0.0015, 0.004])
def test_it_is_nearly_as_fast_as_the_best_fixed_pool(latency: float, cpu: float) -> None:
    """This holds for any latency, over 15 seconds of work or six rounds of the largest pool."""
    rows = max(1500, int(min(15 / cpu, 15 * MOST_THREADS / max(latency, 1e-3))))
    best = min(seconds_of(rows, latency, cpu, n)[0] for n in (4, 16, 64, 128, MOST_THREADS))
    assert best / seconds_of(rows, latency, cpu)[0] >= 0.8


def test_threads_that_bring_no_gain_are_given_up() -> None:
    """A job that Python holds back, or a service that answers four rows at a time, needs few."""
    _, of_python = seconds_of(20_000, 0.0, 0.002)
    assert of_python <= 16
    _, of_service = seconds_of(4_000, 0.1, 0.0, slots=4)
    assert of_service <= 16


def test_what_was_computed_before_the_job_does_not_matter() -> None:
    """A notebook may have computed for minutes."""
    assert seconds_of(2_000, 0.02, 0.002, worked=100.0) == seconds_of(2_000, 0.02, 0.002)


def test_a_limit_reduces_the_threads_to_a_few() -> None:
    """Threads that wait for a limit do not help."""
    growth, now = Growth(0.0, 0.0), 0.0
    for _ in range(8):
        for _ in range(MOST_THREADS):
            growth.note_reply(now, now + 1.0)
        now += 1.0
        growth.adjust(now, 0.0)
    assert growth.threads == MOST_THREADS
    for _ in range(10):
        now += 1.0
        growth.note_limit(now)
        growth.adjust(now, 0.0)
    assert growth.threads == THREADS
