"""Threads that wait for the same routes continue in the order in which they came."""

from __future__ import annotations

import gc
import threading
import time
import weakref

from arche_magic.llm_providers.loop import PlaceInLine
from arche_magic.llm_providers.quota_tracker import SpendingBounds
from arche_magic.llm_providers.storage import MemoryStorage


def test_a_new_thread_cannot_go_ahead_of_waiting_ones() -> None:
    """It cannot go ahead of the threads that wait."""
    with PlaceInLine("routes") as waiting, PlaceInLine("routes") as newcomer:
        waiting.join()
        assert not newcomer.may_go()


def test_lines_for_different_routes_are_independent() -> None:
    """A thread that waits for Groq does not delay one that wants Mistral."""
    with PlaceInLine("groq") as groq, PlaceInLine("mistral") as mistral:
        groq.join()
        assert mistral.may_go()


def test_a_place_is_freed_after_any_error() -> None:
    """An interrupt or an error while waiting leaves no entry in the line."""
    try:
        with PlaceInLine("routes") as gone:
            gone.join()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert PlaceInLine("routes").may_go()


def test_a_line_is_dropped_with_its_last_request() -> None:
    """Each job with bounds has lines of its own, and a kernel may run many jobs."""
    bounds = SpendingBounds(MemoryStorage(), max_cost=1.0)
    gone = weakref.ref(bounds)
    with PlaceInLine(bounds) as place:
        place.join()
    del bounds, place
    gc.collect()
    assert gone() is None


def test_an_abandoned_stream_leaves_another_line_while_a_request_joins_one() -> None:
    """Garbage collection can end the stream at any moment, in the thread that joins."""

    class Abandoned:
        def __init__(self) -> None:
            self.itself, self.place = self, PlaceInLine("others")
            self.place.join()

        def __del__(self) -> None:
            self.place.leave()

    class Collecting:
        def __hash__(self) -> int:
            gc.collect()
            return 1

    def join() -> None:
        Abandoned()
        with PlaceInLine(Collecting()) as place:
            place.join()

    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


def test_a_waiting_thread_is_woken_when_its_turn_comes() -> None:
    """It is woken immediately, without polling."""
    with PlaceInLine("routes") as first, PlaceInLine("routes") as second:
        first.join()
        second.join()
        began = time.monotonic()
        second.await_turn(0.05)
        assert not second.may_go()
        threading.Timer(0.05, first.leave).start()
        second.await_turn(30)
        assert second.may_go()
        assert 0.1 <= time.monotonic() - began < 5


def test_many_threads_are_served_in_order() -> None:
    """Forty threads that joined one after another continue in that order."""
    order: list[int] = []
    joined = threading.Semaphore(0)

    def wait_for_turn(number: int) -> None:
        with PlaceInLine("many") as place:
            place.join()
            joined.release()
            place.await_turn(10)
            order.append(number)

    with PlaceInLine("many") as gate:
        gate.join()
        threads = []
        for number in range(40):
            threads.append(threading.Thread(target=wait_for_turn, args=(number,)))
            threads[-1].start()
            joined.acquire()
    for thread in threads:
        thread.join(timeout=20)
    assert order == list(range(40))
