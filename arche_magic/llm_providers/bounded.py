"""Runs work that may hang or must not be interrupted, mostly in a helper thread.

A name lookup, a lock or a disk may hang and takes no timeout. An interrupt in the middle of an
import leaves half a package behind. Idle helpers are kept for the next call, but switching to one
and back costs 0.1 to 0.2 ms, most of it because the other core has nothing in its caches.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from queue import SimpleQueue
from typing import Any, TypeVar

from .stopping import handle_interrupts, interrupt_handler, is_main_thread

logger = logging.getLogger("arche_magic.bounded")

T = TypeVar("T")

_MOST_IDLE = 32
# How often a waiting caller checks whether another thread has stopped it.
_WATCH_SECONDS = 0.1
# The queues of helpers that wait for work.
_idle: list[SimpleQueue[_Job]] = []
# The threads that import. A child that is forked meanwhile would have half a module, or wait for
# the module's lock without end. So a fork waits for these threads, and no thread starts an import
# while another forks.
_importing: set[int] = set()
_forking = threading.Condition()
_LONGEST_IMPORT_SECONDS = 10.0


class TookTooLong(Exception):
    """The time is up. The work continues in its thread without a caller."""


def within(
    seconds: float,
    work: Callable[[], T],
    unclaimed: Callable[[T], object] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> T:
    """Return what `work` returns, or raise what it raises, within `seconds`.

    If the caller stops waiting, because the time is up, `stopped()` is true or an interrupt came, a
    later result is passed to `unclaimed`.

    Raises:
        TookTooLong: the work did not end in time, or the caller was stopped.
    """
    if sys.is_finalizing():
        # At the end of Python no other thread runs, and Python 3.11 would wait forever for a new
        # one.
        return work()
    job = _Job(work, unclaimed)
    try:
        jobs = _idle.pop()
    except IndexError:
        jobs = SimpleQueue()
        helper = threading.Thread(target=_help, args=(jobs,), name="arche-helper", daemon=True)
        try:
            helper.start()
        except RuntimeError:
            # The process has reached its limit of threads, or is about to end.
            return work()
    jobs.put(job)
    result: T = job.wait(seconds, stopped)
    return result


def uninterrupted(work: Callable[[], T]) -> T:
    """Return what `work` returns, or raise what it raises; an interrupt does not reach the work.

    An interrupt ends the wait immediately, and the work continues to its end. In the middle of an
    import, an interrupt would leave half a package behind, which fails from then on (seen: `module
    'openai' has no attribute 'lib'`), or a bare `except` would swallow it.
    """
    return within(math.inf, partial(_between_forks, work))


def library(name: str) -> Any:
    """Import a module with `uninterrupted`; raises what its import raises."""
    return uninterrupted(partial(import_module, name))


def shielded(work: Callable[[], T], unclaimed: Callable[[T], object] | None = None) -> T:
    """Return what `work` returns, or raise what it raises; an interrupt waits until it has ended.

    Use it for work that takes a moment; it runs in this thread. If an interrupt came, the result is
    passed to `unclaimed`.
    """
    handler = interrupt_handler() if is_main_thread() else None
    if not callable(handler):  # an interrupt is ignored, or ends the process
        return work()
    came: list[tuple[int, Any]] = []
    results: list[T] = []
    try:
        handle_interrupts(lambda *interrupt: came.append(interrupt))
        results.append(work())
    finally:
        handle_interrupts(handler)
        if came:
            try:
                handler(*came[0])
            except BaseException:
                if results and unclaimed is not None:
                    unclaimed(results[0])
                raise
    return results[0]


class _Job:
    """One piece of work; its result goes to the caller, or to `unclaimed`."""

    def __init__(self, work: Callable[[], Any], unclaimed: Callable[[Any], object] | None) -> None:
        self._work, self._unclaimed = work, unclaimed
        self._done = threading.Lock()
        self._done.acquire()
        self._handover = threading.Lock()
        self._left = self._finished = False
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001  # raised again in the caller
            self._error = error
        with self._handover:
            self._finished = True
            left = self._left
        if left:
            self._drop()
        self._done.release()

    def wait(self, seconds: float, stopped: Callable[[], bool] | None) -> Any:
        ends = time.monotonic() + seconds
        pace = threading.TIMEOUT_MAX if stopped is None else _WATCH_SECONDS
        try:
            while not self._done.acquire(timeout=min(max(ends - time.monotonic(), 0.0), pace)):
                if stopped is None or stopped() or time.monotonic() >= ends:
                    break
        except BaseException:  # an interrupt: the result must not be lost
            if not self._leave():
                self._drop()
            raise
        if not self._finished and self._leave():
            raise TookTooLong
        if self._error is not None:
            raise self._error
        return self._result

    def _leave(self) -> bool:
        """Stop waiting; False if the result arrived at the last moment."""
        with self._handover:
            self._left = True
            return not self._finished

    def _drop(self) -> None:
        if self._error is not None:
            logger.warning(
                "work in a helper thread failed after its caller left (%s)",
                type(self._error).__name__,
            )
        elif self._unclaimed is not None:
            self._unclaimed(self._result)


def _between_forks(work: Callable[[], T]) -> T:
    with _forking:
        _importing.add(threading.get_ident())
    try:
        return work()
    finally:
        with _forking:
            _importing.discard(threading.get_ident())
            _forking.notify_all()


def _begin_fork() -> None:
    _forking.acquire()
    me = {threading.get_ident()}  # an import may fork
    _forking.wait_for(lambda: _importing <= me, _LONGEST_IMPORT_SECONDS)


def _begin_child() -> None:
    """Forget the threads, which a child does not have."""
    _idle.clear()
    _importing.intersection_update({threading.get_ident()})
    _forking.release()


def _help(jobs: SimpleQueue[_Job]) -> None:
    """Do one job after another, in a thread that ends with its process."""
    while True:
        jobs.get().run()
        if len(_idle) >= _MOST_IDLE:
            return
        _idle.append(jobs)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_begin_fork, after_in_parent=_forking.release, after_in_child=_begin_child
    )
