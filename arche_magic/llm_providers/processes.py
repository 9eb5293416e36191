"""Names by which other processes see that a process has ended, and what a forked child resets.

A fork copies every lock in its present state but only the thread that forks. A lock that another
thread held would stay locked in the child forever, and what that thread was changing would stay
half changed.
"""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakSet

_locks: WeakSet[Any] = WeakSet()
# Objects with a method `begin_child`.
_parts: WeakSet[Any] = WeakSet()
# How long the state of another process is reused, in seconds.
_SECONDS = 0.5
_looked_at: dict[str, tuple[float, bool]] = {}
_MOST_NAMES = 1000
# A name comes from the ledger file, which may contain anything.
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


def this_process() -> str:
    """`host:pid:started`, a name that no other process has."""
    return _name(os.getpid())


def is_dead(name: str) -> bool:
    """Return whether the process with this name ran here and has ended; False if unknown."""
    place, _, rest = name.partition(":")
    if not rest or name == this_process() or place != _place():
        return False
    now = time.monotonic()
    seen = _looked_at.get(name)
    if seen is None or now >= seen[0] + _SECONDS:
        if len(_looked_at) >= _MOST_NAMES:
            _looked_at.clear()
        seen = _looked_at[name] = now, _has_ended(*rest.split(":")[:2])
    return seen[1]


@lru_cache(maxsize=8)
def _name(pid: int) -> str:
    return f"{_place()}:{pid}:{_started(pid)}"


@lru_cache(maxsize=1)
def _place() -> str:
    """Return the host and its boot id, and the container if it numbers its own processes."""
    # Most imports of this package need no name.
    import socket

    numbers = boot = ""
    with suppress(OSError):
        numbers = str(Path("/proc/self/ns/pid").readlink())
        # Two machines may have the same name.
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()[:8].decode()
    return f"{socket.gethostname()}{numbers[4:]}{boot}".replace(":", "-")


def _has_ended(pid: str, started: str = "") -> bool:
    # On Windows, `os.kill` with 0 ends the process.
    if os.name != "posix" or not _NUMBER.fullmatch(pid):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    now = _started(int(pid))
    # A new process may have the number of one that ended.
    return now == "ended" or bool(started and now and now != started)


def _started(pid: int) -> str:
    """When the process began, in the kernel's ticks; "ended" for a zombie, "" if unknown."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    # The name of the program comes first, in brackets, and may contain anything.
    fields = status.rpartition(b")")[2].split()
    if len(fields) < 20:
        return ""
    return "ended" if fields[0] in (b"Z", b"X") else fields[19].decode()


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


def reset_in_children(part: Any) -> None:
    """Call `begin_child` of an object in every forked child, before anything else runs there."""
    _parts.add(part)


def _begin_child() -> None:
    for lock in list(_locks):
        # The standard library resets its own locks in the same way.
        lock._at_fork_reinit()
    for part in list(_parts):
        part.begin_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_child)
