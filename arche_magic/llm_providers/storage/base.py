"""What all storages share: their interface, the simplest one, deadlines, warnings and errors.

A storage reads named JSON documents, and changes one or several of them atomically. It does not
know what they mean; the ledger does.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import LLMProviderError
from ..files import NotOurs
from ..processes import new_rlock

T = TypeVar("T")
Document = dict[str, Any]
Change = Callable[..., T]
Upgrade = Callable[[Document], "dict[str, Document] | None"]
# mend(name, document) returns the document without its wrong values, and the paths of those.
Mend = Callable[[str, Any], "tuple[Document, list[str]]"]
# merge(name, before, ours, theirs) adds to `theirs`, the document of that name, what happened
# between `before` and `ours`.
Merge = Callable[[str, Document, Document, Document], None]


class LedgerWarning(UserWarning):
    """The ledger or replies cannot be stored in their place; requests are still sent."""


def only_mappings(name: str, document: Any) -> tuple[Document, list[str]]:
    """Repair documents of unknown content: replace anything but a mapping by an empty document."""
    return (document, []) if isinstance(document, dict) else ({}, [name])


class StorageTimeout(LLMProviderError):
    """Another process or thread held the storage's lock until the deadline; nothing was changed."""


class Storage(Protocol):
    """Named JSON documents."""

    @property
    def may_hang(self) -> bool:
        """Whether a call can take minutes although no lock is in its way, as in a network."""
        ...

    @property
    def trouble(self) -> str:
        """Why the documents are in memory for now; "" if they are in their storage."""
        ...

    @property
    def refusal(self) -> str:
        """Why a storage that answers accepts no changes; "" if it accepts them."""
        ...

    @property
    def findings(self) -> list[str]:
        """Problems with documents that this process read, and what it used instead."""
        ...

    def read(self, name: str) -> Document:
        """The document, empty if there is none yet. Callers must not change it.

        Reading never waits for a change that another process or thread is making.
        """
        ...

    def read_all(self, *names: str) -> list[Document]:
        """Several documents, all as they were at one moment."""
        ...

    def update(self, name: str, change: Change[T], *others: str) -> T:
        """Run `change` on the document and the others, atomically; return its result.

        `change` gets one document per name, and what it puts into them is written. It may replace
        their values, but not change these in place: only the documents themselves are copies. If
        it raises, nothing is written. It may run more than once, and may be interrupted.

        Raises:
            StorageTimeout: the `lock_deadline` of this thread passed while it waited for the lock.
        """
        ...


class MemoryStorage:
    """Documents of this process only."""

    may_hang = False
    trouble = refusal = ""

    def __init__(self) -> None:
        self.findings: list[str] = []
        # Each document is replaced and never changed, since readers keep what they got.
        self._documents: dict[str, Document] = {}
        self._lock = new_rlock()

    def read(self, name: str) -> Document:
        """The document, empty if there is none yet. Callers must not change it."""
        return self._documents.get(name, {})

    def read_all(self, *names: str) -> list[Document]:
        """Several documents, all as they were at one moment."""
        with self._lock:
            return [self.read(name) for name in names]

    def update(self, name: str, change: Change[T], *others: str) -> T:
        """Run `change` on the documents, atomically; return its result."""
        with self._lock:
            documents = {each: dict(self.read(each)) for each in (name, *others)}
            result = change(*documents.values())
            for each, document in documents.items():
                if document != self.read(each):
                    self._documents[each] = document
            return result

    def put(self, name: str, document: Document) -> None:
        """Set a document as a whole."""
        with self._lock:
            self._documents[name] = deepcopy(document)


_local = threading.local()


@contextmanager
def lock_deadline(seconds: float) -> Iterator[None]:
    """Within the `with`, storage calls of this thread wait at most `seconds` for locks, in total.

    A call that does not get its lock in time changes nothing and raises `StorageTimeout`. Without a
    deadline, a change waits until it has the lock. Of nested deadlines, the earliest counts.
    """
    before: float = getattr(_local, "ends", math.inf)
    _local.ends = min(before, time.monotonic() + seconds)
    try:
        yield
    finally:
        _local.ends = before


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


_refusing: set[Path] = set()
_said: set[str] = set()


def warn_of_file(path: Path, error: OSError, message: str) -> None:
    """Warn that a file cannot be used, once per process and cause.

    A full or read-only disk is the same cause for all files of a folder. A link in place of a file
    concerns only that file.
    """
    cause = Path(error.filename) if isinstance(error, NotOurs) else path.parent
    if cause not in _refusing:
        _refusing.add(cause)
        warn(message)


def warn(message: str) -> None:
    """Warn about the ledger."""
    # Without a place in our code, whose line would be printed below the message.
    warnings.warn_explicit(message, LedgerWarning, "arche_magic", 0)


def warn_once(message: str) -> None:
    """Warn about the ledger, once per process and message."""
    if message not in _said:
        _said.add(message)
        warn(message)
