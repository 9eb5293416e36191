"""Documents in memory."""

from __future__ import annotations

import json

from ..forks import new_rlock
from .base import Change, Document, T


class MemoryStorage:
    """Documents of this process only."""

    trouble = refusal = ""

    def __init__(self) -> None:
        self.findings: list[str] = []
        self._texts: dict[str, str] = {}
        self._lock = new_rlock()

    def read(self, name: str) -> Document:
        """The document, empty if there is none yet."""
        document: Document = json.loads(self._texts.get(name, "{}"))
        return document

    def read_all(self, *names: str) -> list[Document]:
        """Several documents as of one moment."""
        with self._lock:
            return [self.read(name) for name in names]

    def update(self, name: str, change: Change[T], *others: str) -> T:
        """Run `change` on the documents, alone and atomically; return what it returns."""
        with self._lock:
            documents = {name: self.read(name) for name in (name, *others)}
            result = change(*documents.values())
            self._texts.update({name: json.dumps(found) for name, found in documents.items()})
            return result

    def put(self, name: str, document: Document) -> None:
        """Set a document as a whole."""
        with self._lock:
            self._texts[name] = json.dumps(document)
