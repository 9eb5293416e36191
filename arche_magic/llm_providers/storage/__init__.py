"""Storages for JSON documents: in memory, in one file per machine, or in Redis for several."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ..files import absolute
from ..processes import new_lock
from ..types import Location
from .documents import (
    Change,
    Document,
    LedgerWarning,
    Mend,
    Merge,
    Storage,
    StorageTimeout,
    T,
    Upgrade,
    only_mappings,
    take_ours,
    warn,
    warn_of_file,
    warn_once,
    works_again,
)
from .json_file import JsonFileStorage
from .ledger_file import FILE_VERSION
from .locks import lock_deadline
from .memory import MemoryStorage

__all__ = [
    "FILE_VERSION",
    "Change",
    "Document",
    "JsonFileStorage",
    "LedgerWarning",
    "MemoryStorage",
    "Storage",
    "StorageTimeout",
    "T",
    "lock_deadline",
    "open_storage",
    "warn",
    "warn_of_file",
    "warn_once",
    "works_again",
]

_REDIS_SCHEMES = ("redis", "rediss", "unix")

_opened: dict[str, Storage] = {}
_opening = new_lock()
# Each storage keeps its file open. A storage that is dropped here can still be used by its owners.
_MOST_FILES = 32


def open_storage(
    location: str,
    upgrade: Upgrade | None = None,
    merge: Merge = take_ours,
    mend: Mend = only_mappings,
) -> Storage:
    """The storage of this process for a location: a path, `memory://NAME`, or a Redis URL.

    Opening a location again returns the same storage.

    Args:
        location: where the documents are.
        upgrade: turns a file in another layout into documents.
        merge: adds what was counted while the file or Redis could not be used. Without it,
            documents that were changed meanwhile replace those of others.
        mend: removes wrong values from what is read.

    Raises:
        ValueError: a URL of another kind, or one that redis-py does not accept.
        ConfigurationError: redis-py is missing.
    """
    location = Location(location)
    scheme = location.partition("://")[0] if "://" in location else ""
    if not scheme and location.partition(":")[0] in _REDIS_SCHEMES:
        raise ValueError("a Redis URL begins with redis:// and a host")
    if not scheme and location.startswith("memory:"):
        raise ValueError("a ledger in memory is memory:// or memory://NAME")
    if scheme not in ("", "memory", *_REDIS_SCHEMES):
        raise ValueError(
            f"{scheme}:// is not supported; use a path, redis:// (one server: Sentinel and Cluster "
            "are not supported) or memory://"
        )
    path = absolute(Path(location))
    name = f"{location} {location.fingerprint}" if scheme else str(path)
    with _opening:
        if name not in _opened:
            if scheme == "memory":
                _opened[name] = MemoryStorage()
            elif scheme:
                # Imported when needed, because few users have a ledger in Redis.
                redis_storage = import_module(".redis", __package__)
                _opened[name] = redis_storage.RedisStorage(location, merge, mend)
            else:
                files = [n for n, s in _opened.items() if isinstance(s, JsonFileStorage)]
                for old in files[: 1 - _MOST_FILES]:
                    del _opened[old]
                _opened[name] = JsonFileStorage(path, upgrade, mend, merge)
        return _opened[name]
