"""Locks between threads and kernels, and how long storage calls of a thread wait for them."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from ..files import check_ours, open_ours

_FIRST_NAP_SECONDS, _LONGEST_NAP_SECONDS = 0.0002, 0.005
_local = threading.local()


class lock_deadline:  # noqa: N801  # used like a function, as `contextlib.suppress` is
    """Within the `with`, storage calls of this thread wait at most `seconds` for locks, in total.

    A call that does not get its lock in time changes nothing and raises `StorageTimeout`. Without a
    deadline, a change waits until it has the lock. Of nested deadlines, the earliest counts.
    """

    # This is not a generator, which would take three times as long, four times per request.
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._before: float = getattr(_local, "ends", math.inf)
        _local.ends = min(self._before, time.monotonic() + self._seconds)

    def __exit__(self, *_: object) -> None:
        _local.ends = self._before


def seconds_left() -> float:
    """Seconds until this thread's deadline: 0 if it has passed, inf if there is none."""
    return max(0.0, getattr(_local, "ends", math.inf) - time.monotonic())


def acquire(lock: Any) -> bool:
    """Acquire a thread lock before this thread's deadline; False if another thread holds it."""
    left = seconds_left()
    if math.isinf(left):
        return bool(lock.acquire())
    return bool(lock.acquire(timeout=min(left, threading.TIMEOUT_MAX)))


if sys.platform == "win32":

    class KernelLock:
        """The lock for the lock file at a path, by filelock."""

        def __init__(self, path: str) -> None:
            from filelock import FileLock

            self._path = path
            self._lock = FileLock(path, poll_interval=0.001, thread_local=False)

        def acquire(self, seconds: float = math.inf) -> bool:
            """Take the lock, waiting `seconds` at most; False if another kernel still holds it."""
            from filelock import Timeout

            check_ours(self._path)
            try:
                self._lock.acquire(timeout=-1 if math.isinf(seconds) else seconds)
            except Timeout:
                return False
            return True

        def release(self) -> None:
            """Release the lock."""
            self._lock.release()

else:
    import fcntl

    class KernelLock:
        """The lock for the lock file at a path.

        It makes the same system call as filelock, in a tenth of the time. The caller holds a lock
        between threads. The lock file is opened each time, so that two kernels cannot both hold
        the lock for long after a fork or after the file was deleted.
        """

        def __init__(self, path: str) -> None:
            self._path = path
            self._descriptor = -1

        def acquire(self, seconds: float = math.inf) -> bool:
            """Take the lock, waiting `seconds` at most; False if another kernel still holds it."""
            descriptor = open_ours(self._path, os.O_RDWR | os.O_CREAT)
            taken = False
            try:
                taken = _lock(descriptor, seconds)
            finally:  # an interrupt while waiting must not leave the file open either
                if not taken:
                    os.close(descriptor)
            if taken:
                self._descriptor = descriptor
            return taken

        def release(self) -> None:
            """Release the lock."""
            # If the network share has disappeared, so has the lock.
            with suppress(OSError):
                try:
                    # Closing is not enough, because a child process that was forked meanwhile also
                    # has the file open.
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                finally:
                    os.close(self._descriptor)

    def _lock(descriptor: int, seconds: float) -> bool:
        if math.isinf(seconds):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return True
        # flock has no timeout, so a wait with a deadline polls.
        ends, nap = time.monotonic() + seconds, _FIRST_NAP_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                left = ends - time.monotonic()
                if left <= 0:
                    return False
                time.sleep(min(nap, left))
                nap = min(2 * nap, _LONGEST_NAP_SECONDS)
            else:
                return True
