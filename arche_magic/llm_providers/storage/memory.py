"""Documents in memory, for `memory://`, for tests, and while a storage cannot be used."""

from __future__ import annotations

from copy import deepcopy

from ..processes import new_rlock
from .documents import Change, Document, T


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

    def put(self, name: str, document: Document) -> None:
        """Set a document as a whole."""
        with self._lock:
            self._documents[name] = deepcopy(document)
