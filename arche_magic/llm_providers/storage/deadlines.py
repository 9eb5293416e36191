"""How long storage calls of a thread may wait for locks, and whether a disk can hang."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

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


def may_hang(path: Path) -> bool:
    """Whether a file may be on a network drive, where each step can take minutes.

    On Linux, a file system on a disk of the machine has the number of its device; NFS, SMB and
    FUSE have none (and neither has the root of a container). Elsewhere this cannot be told.
    """
    if sys.platform != "linux":
        return True
    for folder in path.parents:
        try:
            return os.major(folder.stat().st_dev) == 0
        except OSError:
            continue
    return True
