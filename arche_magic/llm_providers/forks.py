"""Locks that a forked child finds open.

A fork copies every lock as it is, and only the thread that forks: one that another thread held
would stay shut in the child for ever. What such a lock guards is either left behind by the child or
changed in one step, so it may be opened there.
"""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakSet

_locks: WeakSet[Any] = WeakSet()


def new_lock() -> threading.Lock:
    """A lock like `threading.Lock()`."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def new_rlock() -> threading.RLock:
    """A lock like `threading.RLock()`, which its holder may take again."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def _open_all() -> None:
    for lock in list(_locks):
        # As the standard library does with its own.
        lock._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_all)
