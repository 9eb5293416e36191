"""What a process counts in memory while its storage cannot be used, to be added to it later."""

from __future__ import annotations

import atexit
import time
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import Protocol
from weakref import WeakSet

from ..bounded import TookTooLong, within
from .documents import Document, Merge
from .memory import MemoryStorage

TRIED_AGAIN_SECONDS = 1.0
# The end of a process waits this long for a storage that does not have all counts yet.
_FAREWELL_SECONDS = 2.0


class Away(MemoryStorage):
    """The documents of a process while their storage cannot be used.

    Args:
        before: the documents as they were in the storage last.
        documents: the same with what this process has changed since. The storage may have them
            all the same, if only the end of writing them failed.
    """

    def __init__(self, before: Mapping[str, Document], documents: Mapping[str, Document]) -> None:
        super().__init__()
        self._before, self._documents = dict(before), dict(documents)
        # What was tried to be written last, and how much of it was ours.
        self._attempts: dict[str, tuple[Document, Document]] = {}
        self.note_attempt(documents)

    @property
    def names(self) -> list[str]:
        """The names of all documents."""
        return sorted(self._documents)

    @property
    def changed(self) -> list[str]:
        """The names of the documents that the storage does not have as they are here."""
        # A document that changes is replaced, so these are compared without their contents.
        return [name for name in self.names if self.read(name) is not self._before.get(name)]

    def note_attempt(self, documents: Mapping[str, Document]) -> None:
        """Note the documents that could not be written completely."""
        self._attempts = {n: (documents[n], self.read(n)) for n in self.changed if n in documents}

    def add_to(self, name: str, theirs: Document, merge: Merge) -> None:
        """Add to `theirs`, the document in the storage, what was changed here."""
        written, ours = self._attempts.get(name, ({}, {}))
        before = ours if theirs and theirs == written else self._before.get(name, {})
        merge(name, deepcopy(before), self.read(name), theirs)

    def put(self, name: str, document: Document) -> None:
        """Set a document as it is in the storage by now."""
        super().put(name, document)
        self._before[name] = self.read(name)

    def begin_child(self) -> None:
        """Leave to the parent process what was counted before the fork."""
        self._before = dict(self._documents)


class _Part(Protocol):
    def part(self, until: float) -> None:
        """Try to come back until that time (by `time.monotonic`), if anything was counted."""


absent: WeakSet[_Part] = WeakSet()
"""The storages that cannot be used now."""


@atexit.register
def _part() -> None:
    until = time.monotonic() + _FAREWELL_SECONDS
    for storage in list(absent):
        # A network drive may hang.
        with suppress(TookTooLong):
            within(until - time.monotonic(), partial(storage.part, until))
