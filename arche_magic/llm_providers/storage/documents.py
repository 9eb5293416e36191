"""The interface of storages, which read and change named JSON documents, and their warnings.

Only the ledger knows what the documents mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import LLMProviderError
from ..files import NotOurs

T = TypeVar("T")
Document = dict[str, Any]
Change = Callable[..., T]
# upgrade(content) returns the documents in a file of another layout, or None if it cannot.
Upgrade = Callable[[Document], "dict[str, Document] | None"]
# mend(name, document) returns the document without its wrong values, and the paths of those.
Mend = Callable[[str, Any], "tuple[Document, list[str]]"]
# merge(name, before, ours, theirs) adds to `theirs`, the document of that name, what happened
# between `before` and `ours`.
Merge = Callable[[str, Document, Document, Document], None]

_refusing: set[Path] = set()
_said: set[str] = set()


def only_mappings(name: str, document: Any) -> tuple[Document, list[str]]:
    """Repair documents of unknown content: replace anything but a mapping by an empty document."""
    return (document, []) if isinstance(document, dict) else ({}, [name])


def take_ours(name: str, before: Document, ours: Document, theirs: Document) -> None:
    """Replace `theirs` by `ours`."""
    theirs.clear()
    theirs.update(ours)


class StorageTimeout(LLMProviderError):
    """Another process or thread held the storage's lock until the deadline; nothing was changed."""


class Storage(Protocol):
    """Named JSON documents."""

    @property
    def may_hang(self) -> bool:
        """Whether a call can take minutes without waiting for a lock, as on a network drive."""
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
        """Several documents, in their states at the same time."""
        ...

    def update(self, name: str, change: Change[T], *others: str) -> T:
        """Run `change` on the document and the others, atomically; return its result.

        `change` gets one document per name, and its changes to them are written. It may replace
        their values, but must not change values in place: only the documents are copied. If it
        raises, nothing is written. It may run more than once, and may be interrupted.

        Raises:
            StorageTimeout: the `lock_deadline` of this thread passed while it waited for the lock.
        """
        ...


class LedgerWarning(UserWarning):
    """The ledger or replies cannot be stored in their place; requests are still sent."""


def warn_of_file(path: Path, error: OSError, message: str) -> None:
    """Warn that a file cannot be used, once per process and cause until it `works_again`.

    A full or read-only disk is the same cause for all files of a folder. A link in place of a file
    concerns only that file.
    """
    cause = Path(error.filename) if isinstance(error, NotOurs) else path.parent
    if cause not in _refusing:
        _refusing.add(cause)
        warn(message)


def works_again(path: Path) -> None:
    """Let the next failure of a file be a new cause, because the file was just written."""
    for cause in list(_refusing):
        if path.parent in (cause, cause.parent):
            _refusing.discard(cause)


def warn(message: str) -> None:
    """Warn about the ledger."""
    # Without a place in our code, whose line would be printed below the message.
    warnings.warn_explicit(message, LedgerWarning, "arche_magic", 0)


def warn_once(message: str) -> None:
    """Warn about the ledger, once per process and message."""
    if message not in _said:
        _said.add(message)
        warn(message)
