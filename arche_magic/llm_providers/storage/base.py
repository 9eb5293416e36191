"""What every storage offers, and how it says that it cannot.

Storage is dumb: it reads a named JSON document, and it changes one alone and atomically. What the
documents mean is the ledger's business.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Document = dict[str, Any]
Change = Callable[[Document], T]
Upgrade = Callable[[Document], "dict[str, Document] | None"]
# merge(before, ours, theirs) adds to `theirs` what happened between `before` and `ours`.
Merge = Callable[[Document, Document, Document], None]


class LedgerWarning(UserWarning):
    """The ledger, or replies, cannot be kept where they should be; calls go on all the same."""


class Storage(Protocol):
    """Named JSON documents."""

    def read(self, name: str) -> Document:
        """The document, empty if there is none yet. It is not to be changed."""
        ...

    def update(self, name: str, change: Change[T]) -> T:
        """Run `change` on the document, alone and atomically; return what it returns.

        If `change` raises, nothing is written.
        """
        ...


_refusing_folders: set[Path] = set()


def warn_of_folder(folder: Path, message: str) -> None:
    """Warn that a folder takes no files, once per process: its files share the one cause."""
    if folder not in _refusing_folders:
        _refusing_folders.add(folder)
        warn(message)


def warn(message: str) -> None:
    """Warn of the ledger."""
    warnings.warn(message, LedgerWarning, stacklevel=2)
