"""Resets state that a forked child must not inherit from its parent.

A fork copies every lock in its present state but only the thread that forks. A lock that another
thread held would stay locked in the child forever, and what that thread was changing would stay
half changed.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Protocol
from weakref import WeakSet

_locks: WeakSet[Any] = WeakSet()
_registered: WeakSet[ForkAware] = WeakSet()


class ForkAware(Protocol):
    """Objects that must reset more than their locks after a fork."""

    def begin_child(self) -> None:
        """Reset the state that must not be inherited; called in the child."""
        ...


def new_lock() -> threading.Lock:
    """Return a lock like `threading.Lock()` that is released in a forked child."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def new_rlock() -> threading.RLock:
    """Return a lock like `threading.RLock()` that is released in a forked child."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def register_for_forks(thing: ForkAware) -> None:
    """Call the object's `begin_child` in every forked child, before anything else runs there."""
    _registered.add(thing)


def _begin_child() -> None:
    for lock in list(_locks):
        # The standard library does the same with its own locks.
        lock._at_fork_reinit()
    for thing in list(_registered):
        thing.begin_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_child)
