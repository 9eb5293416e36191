"""What every storage offers, and how it says that it cannot.

Storage is dumb: it reads named JSON documents, and it changes one, or some together, alone and
atomically. What the documents mean is the ledger's business.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import LLMProviderError
from ..safe_files import NotOurs

T = TypeVar("T")
Document = dict[str, Any]
Change = Callable[..., T]
Upgrade = Callable[[Document], "dict[str, Document] | None"]
# mend(name, document) gives the document without what is wrong in it, and the paths of that.
Mend = Callable[[str, Any], "tuple[Document, list[str]]"]
# merge(name, before, ours, theirs) adds to `theirs`, the document of that name, what happened
# between `before` and `ours`.
Merge = Callable[[str, Document, Document, Document], None]


class LedgerWarning(UserWarning):
    """The ledger, or replies, cannot be kept where they should be; calls go on all the same."""


def only_mappings(name: str, document: Any) -> tuple[Document, list[str]]:
    """Mend documents of unknown content: they are mappings, or empty."""
    return (document, []) if isinstance(document, dict) else ({}, [name])


class StorageTimeout(LLMProviderError):
    """Another process or thread kept the storage's lock until the deadline; nothing was changed."""


class Storage(Protocol):
    """Named JSON documents."""

    @property
    def trouble(self) -> str:
        """Why the documents are kept in this process's memory for now; "" where they should be."""
        ...

    @property
    def refusal(self) -> str:
        """Why the place of the documents, though it answers, takes no changes; "" if it does."""
        ...

    @property
    def findings(self) -> list[str]:
        """What was wrong with stored documents that this process read, and how it went on."""
        ...

    def read(self, name: str) -> Document:
        """The document, empty if there is none yet. It is not to be changed.

        Reading never waits for a change that another process or thread is making.
        """
        ...

    def read_all(self, *names: str) -> list[Document]:
        """Several documents as of one moment."""
        ...

    def update(self, name: str, change: Change[T], *others: str) -> T:
        """Run `change` on the document and the others, alone and atomically; return its result.

        It gets one argument per name, and what it changes in any of them is written. If it raises,
        nothing is. It may run more than once, and not to its end.

        Raises:
            StorageTimeout: the `lock_deadline` of this thread passed before it had the lock.
        """
        ...


_refusing: set[Path] = set()
_said: set[str] = set()


def warn_of_file(path: Path, error: OSError, message: str) -> None:
    """Warn that a file cannot be used, once per process and cause.

    A full or read-only disk is one cause for all files of a folder. A link in the place of a file
    concerns that file alone.
    """
    cause = Path(error.filename) if isinstance(error, NotOurs) else path.parent
    if cause not in _refusing:
        _refusing.add(cause)
        warn(message)


def warn(message: str) -> None:
    """Warn of the ledger."""
    warnings.warn(message, LedgerWarning, stacklevel=2)


def warn_once(message: str) -> None:
    """Warn of the ledger, once per process."""
    if message not in _said:
        _said.add(message)
        warn(message)
