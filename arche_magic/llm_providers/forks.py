"""What a forked child must not take over from its parent.

A fork copies every lock as it is, and only the thread that forks: a lock that another thread held
would stay shut in the child for ever, and what it was changing half changed.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Protocol
from weakref import WeakSet

_locks: WeakSet[Any] = WeakSet()
_told: WeakSet[ToldOfForks] = WeakSet()


class ToldOfForks(Protocol):
    """What has more to put right in a child than its locks."""

    def begin_child(self) -> None:
        """The process is a new child."""
        ...


def new_lock() -> threading.Lock:
    """A lock like `threading.Lock()` that a child finds open."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def new_rlock() -> threading.RLock:
    """A lock like `threading.RLock()` that a child finds open."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def tell_of_forks(thing: ToldOfForks) -> None:
    """Call its `begin_child` in every forked child, before anything else happens there."""
    _told.add(thing)


def _begin_child() -> None:
    for lock in list(_locks):
        # As the standard library does with its own.
        lock._at_fork_reinit()
    for thing in list(_told):
        thing.begin_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_child)
