"""A lock that keeps other kernels of the machine out, and goes with its process."""

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import suppress
from typing import Any

from ..safe_files import check_ours, open_ours

_FIRST_NAP_SECONDS, _LONGEST_NAP_SECONDS = 0.0002, 0.005

if sys.platform == "win32":

    class _KernelLock:
        """A lock by filelock."""

        def __init__(self, path: str) -> None:
            from filelock import FileLock

            self._path = path
            self._lock = FileLock(path, poll_interval=0.001, thread_local=False)

        def acquire(self, seconds: float = math.inf) -> bool:
            """Wait until no other kernel has it, `seconds` at most; False if one still has."""
            from filelock import Timeout

            check_ours(self._path)
            try:
                self._lock.acquire(timeout=-1 if math.isinf(seconds) else seconds)
            except Timeout:
                return False
            return True

        def release(self) -> None:
            """Let the next one in."""
            self._lock.release()

else:
    import fcntl

    class _KernelLock:
        """Keeps other kernels out, as filelock does by the same call, in a tenth of its time.

        Threads queue on a lock of their own before. Opened anew each time, so that neither a fork
        nor a deleted lock file lets two in for long.
        """

        def __init__(self, path: str) -> None:
            self._path = path
            self._descriptor = -1

        def acquire(self, seconds: float = math.inf) -> bool:
            """Wait until no other kernel has it, `seconds` at most; False if one still has."""
            descriptor = open_ours(self._path, os.O_RDWR | os.O_CREAT)
            taken = False
            try:
                taken = _lock(descriptor, seconds)
            finally:  # an interrupt while waiting, too, must leave nothing open
                if not taken:
                    os.close(descriptor)
            if taken:
                self._descriptor = descriptor
            return taken

        def release(self) -> None:
            """Let the next one in."""
            # A share that is gone has dropped the lock, too.
            with suppress(OSError):
                # A child forked meanwhile has the descriptor too, so closing alone would not do.
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            with suppress(OSError):
                os.close(self._descriptor)

    def _lock(descriptor: int, seconds: float) -> bool:
        if math.isinf(seconds):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return True
        # flock takes no timeout, so a wait with a deadline is a poll.
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


def kernel_lock(path: str) -> Any:
    """The lock of a lock file."""
    return _KernelLock(path)
