"""Work in a helper thread, with a time limit."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from arche_magic.llm_providers.bounded import TookTooLong, shielded, uninterrupted, within


def test_the_caller_gets_the_result_or_the_error() -> None:
    """The effect is that of a direct call of the function."""
    assert within(5, lambda: 6 * 7) == 42
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


def test_work_that_takes_too_long_continues() -> None:
    """It continues in the background, and its result is not lost."""
    release, left = threading.Event(), []

    def work() -> str:
        release.wait(10)
        return "late"

    began = time.monotonic()
    done = threading.Event()
    with pytest.raises(TookTooLong):
        within(0.1, work, lambda result: (left.append(result), done.set()))
    assert time.monotonic() - began < 5
    release.set()
    assert done.wait(5)
    assert left == ["late"]


def test_an_interrupt_ends_the_wait_but_not_the_work() -> None:
    """Ctrl-C during an import must not leave a half-imported package."""
    release, finished = threading.Event(), threading.Event()

    def work() -> None:
        release.wait(10)
        finished.set()

    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        uninterrupted(work)
    assert not finished.is_set()
    release.set()
    assert finished.wait(5)


def test_shielded_work_ends_before_an_interrupt_takes_effect() -> None:
    """A change of the ledger is whole, and a hold that nobody will use is given back."""
    given_back: list[str] = []

    def work() -> str:
        signal.raise_signal(signal.SIGINT)
        return "a hold"

    with pytest.raises(KeyboardInterrupt):
        shielded(work, given_back.append)
    assert given_back == ["a hold"]

    def failing() -> None:
        signal.raise_signal(signal.SIGINT)
        raise ValueError

    with pytest.raises(KeyboardInterrupt):
        shielded(failing)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert shielded(lambda: 6 * 7, given_back.append) == 42
    assert given_back == ["a hold"]


def test_helper_threads_are_reused() -> None:
    """A thousand calls, one after another, do not need a thousand threads."""
    within(5, int)
    before = threading.active_count()
    for _ in range(1000):
        within(5, int)
    assert threading.active_count() <= before + 1


def test_concurrent_calls_do_not_wait_for_each_other() -> None:
    """Each has its own helper; surplus ones end afterwards."""
    barrier = threading.Barrier(50)
    threads = [threading.Thread(target=within, args=(10, barrier.wait)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not barrier.broken
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        helpers = [thread for thread in threading.enumerate() if thread.name == "arche-helper"]
        if len(helpers) <= 40:
            break
        time.sleep(0.01)
    assert len(helpers) <= 40
