"""Documents in memory: for `memory://`, for tests, and while another storage cannot be used."""

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
from ..processes import new_rlock
from .documents import Change, Document, Merge, T

RETRY_SECONDS = 1.0
"""The shortest time between two tries to use a storage again."""

# The end of a process waits this long for a storage that does not have all counts yet.
_LAST_RETRY_SECONDS = 2.0


class MemoryStorage:
    """Documents of this process only."""

    may_hang = False
    trouble = refusal = ""

    def __init__(self) -> None:
        self.findings: list[str] = []
        # Each document is replaced and never changed, because readers keep the object that they
        # got.
        self._documents: dict[str, Document] = {}
        self._lock = new_rlock()

    def read(self, name: str) -> Document:
        """The document, empty if there is none yet. Callers must not change it."""
        return self._documents.get(name, {})

    def read_all(self, *names: str) -> list[Document]:
        """Several documents, in their states at the same time."""
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


class OfflineDocuments(MemoryStorage):
    """The documents of a process while their storage cannot be used.

    Args:
        before: the documents in the storage, as this process knew them last.
        documents: the same documents with the changes of this process. The storage may contain
            them too, if writing them failed only at the end.
    """

    def __init__(self, before: Mapping[str, Document], documents: Mapping[str, Document]) -> None:
        super().__init__()
        self._before, self._documents = dict(before), dict(documents)
        # By name: the document that could not be written completely, and our version of it.
        self._attempts: dict[str, tuple[Document, Document]] = {}
        self.note_attempt(documents)

    @property
    def names(self) -> list[str]:
        """The names of all documents."""
        return sorted(self._documents)

    @property
    def changed(self) -> list[str]:
        """The names of the documents that differ from those in the storage."""
        # A changed document is a new object, so the contents need not be compared.
        return [name for name in self.names if self.read(name) is not self._before.get(name)]

    def note_attempt(self, documents: Mapping[str, Document]) -> None:
        """Note the documents that could not be written completely; the storage may have them."""
        self._attempts = {n: (documents[n], self.read(n)) for n in self.changed if n in documents}

    def add_to(self, name: str, theirs: Document, merge: Merge) -> None:
        """Add the changes of this process to `theirs`, the document in the storage."""
        written, ours = self._attempts.get(name, ({}, {}))
        before = ours if theirs and theirs == written else self._before.get(name, {})
        merge(name, deepcopy(before), self.read(name), theirs)

    def put(self, name: str, document: Document) -> None:
        """Set a document to its present state in the storage."""
        self._before[name] = self._documents[name] = deepcopy(document)

    def begin_child(self) -> None:
        """Leave the changes from before the fork to the parent process."""
        self._before = dict(self._documents)
        self._attempts.clear()


class _Retrying(Protocol):
    def last_retry(self, until: float) -> None:
        """Until that time (`time.monotonic`), try to add the counts in memory to the storage."""


offline_storages: WeakSet[_Retrying] = WeakSet()
"""The storages that cannot be used now."""


@atexit.register
def _retry_last() -> None:
    until = time.monotonic() + _LAST_RETRY_SECONDS
    for storage in list(offline_storages):
        # A network drive may hang.
        with suppress(TookTooLong):
            within(until - time.monotonic(), partial(storage.last_retry, until))
