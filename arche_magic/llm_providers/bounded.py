"""Work in a helper thread: what may hang is left to itself, what must not be torn is let finish.

A name lookup, a lock or a disk may hang and take no timeout. An import must not be interrupted in
its middle. Helpers are kept for the next work: a hop to one and back takes ten microseconds.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from queue import SimpleQueue
from typing import Any, TypeVar

logger = logging.getLogger("arche_magic.bounded")

T = TypeVar("T")

_MOST_IDLE = 32
# How soon it is noticed that another thread has stopped the waiting.
_WATCH_SECONDS = 0.1
_idle: list[_Helper] = []


class TookTooLong(Exception):
    """The time is up. The work goes on, and nobody waits for it."""


def within(
    seconds: float,
    work: Callable[[], T],
    unclaimed: Callable[[T], object] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> T:
    """What `work` returns or raises, if it does so within `seconds` and before `stopped()`.

    A result that comes when nobody waits any more, because the time was up or the caller was
    interrupted, goes to `unclaimed`.

    Raises:
        TookTooLong: it did not.
    """
    job = _Job(work, unclaimed)
    try:
        helper = _idle.pop()
    except IndexError:
        helper = _Helper()
        try:
            helper.start()
        except RuntimeError:
            # No more threads: the process is at its limit, or at its end.
            return work()
    helper.jobs.put(job)
    result: T = job.wait(seconds, stopped)
    return result


def apart(work: Callable[[], T]) -> T:
    """What `work` returns or raises, untouched by an interrupt of the caller.

    Ctrl-C and Kernel -> Interrupt reach the main thread alone. In the middle of an import they
    leave half a package behind, which fails ever after (seen: `module 'openai' has no attribute
    'lib'`), or are swallowed by a bare `except`. Here they end the waiting at once, and the work
    goes on to its end, of use to the next call.
    """
    return within(math.inf, work)


def library(name: str) -> Any:
    """A library, imported `apart`; raises what its import raises.

    An `import` right after it finds the library whole.
    """
    return apart(partial(import_module, name))


class _Job:
    """One piece of work; its result goes to whoever waits, or to `unclaimed`."""

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
        except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
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
        except BaseException:  # an interrupt: what was begun is not to be lost
            if not self._leave():
                self._drop()
            raise
        if not self._finished and self._leave():
            raise TookTooLong
        if self._error is not None:
            raise self._error
        return self._result

    def _leave(self) -> bool:
        """Wait no longer; False if the result has come at the last moment."""
        with self._handover:
            self._left = True
            return not self._finished

    def _drop(self) -> None:
        if self._error is not None:
            logger.warning("work left to itself failed (%s)", type(self._error).__name__)
        elif self._unclaimed is not None:
            self._unclaimed(self._result)


class _Helper(threading.Thread):
    """Does one piece of work after another; ends with its process, whatever it is at."""

    def __init__(self) -> None:
        super().__init__(name="arche-helper", daemon=True)
        self.jobs: SimpleQueue[_Job] = SimpleQueue()

    def run(self) -> None:
        while True:
            self.jobs.get().run()
            if len(_idle) >= _MOST_IDLE:
                return
            _idle.append(self)


if hasattr(os, "register_at_fork"):
    # A child has the list, and none of the threads.
    os.register_at_fork(after_in_child=_idle.clear)
