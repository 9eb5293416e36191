"""Threads that wait for the same routes continue in the order in which they came."""

from __future__ import annotations

import gc
import threading
import time
import weakref

from arche_magic.llm_providers.loop import waiting_line
from arche_magic.llm_providers.quota_tracker import SpendingBounds
from arche_magic.llm_providers.storage import MemoryStorage


def test_a_new_thread_cannot_go_ahead_of_waiting_ones() -> None:
    """It cannot go ahead of the threads that wait."""
    with waiting_line("routes", "waiting") as line:
        line.join("waiting")
        with waiting_line("routes", "newcomer") as same:
            assert not same.may_go("newcomer")


def test_lines_for_different_routes_are_independent() -> None:
    """A thread that waits for Groq does not delay one that wants Mistral."""
    with waiting_line("groq", "a") as groq, waiting_line("mistral", "b") as mistral:
        groq.join("a")
        assert mistral.may_go("b")


def test_a_place_is_freed_after_any_error() -> None:
    """An interrupt or an error while waiting leaves no entry in the line."""
    try:
        with waiting_line("routes", "gone") as line:
            line.join("gone")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    with waiting_line("routes", "next") as line:
        assert line.may_go("next")


def test_a_line_is_dropped_with_its_last_request() -> None:
    """Each job with bounds has lines of its own, and a kernel may run many jobs."""
    bounds = SpendingBounds(MemoryStorage(), max_cost=1.0)
    gone = weakref.ref(bounds)
    with waiting_line(bounds, "a") as line:
        line.join("a")
    del bounds, line
    gc.collect()
    assert gone() is None


def test_a_waiting_thread_is_woken_when_its_turn_comes() -> None:
    """It is woken immediately, without polling."""
    with waiting_line("routes", "first") as line:
        line.join("first")
        line.join("second")
        began = time.monotonic()
        line.await_turn("second", 0.05)
        assert not line.may_go("second")
        threading.Timer(0.05, line.leave, ["first"]).start()
        line.await_turn("second", 30)
        assert line.may_go("second")
        assert 0.1 <= time.monotonic() - began < 5


def test_many_threads_are_served_in_order() -> None:
    """Forty threads that joined one after another continue in that order."""
    order: list[int] = []
    joined = threading.Semaphore(0)

    def wait_for_turn(number: int) -> None:
        with waiting_line("many", number) as line:
            line.join(number)
            joined.release()
            line.await_turn(number, 10)
            order.append(number)

    with waiting_line("many", "gate") as gate:
        gate.join("gate")
        threads = []
        for number in range(40):
            threads.append(threading.Thread(target=wait_for_turn, args=(number,)))
            threads[-1].start()
            joined.acquire()
    for thread in threads:
        thread.join(timeout=20)
    assert order == list(range(40))
