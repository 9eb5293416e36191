"""Documents in memory."""

from __future__ import annotations

import json
import threading

from .base import Change, Document, T


class MemoryStorage:
    """Documents of this process only."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def read(self, name: str) -> Document:
        """The document, empty if there is none yet."""
        document: Document = json.loads(self._texts.get(name, "{}"))
        return document

    def update(self, name: str, change: Change[T]) -> T:
        """Run `change` on the document, alone and atomically; return what it returns."""
        with self._lock:
            document = self.read(name)
            result = change(document)
            self._texts[name] = json.dumps(document)
            return result

    def put(self, name: str, document: Document) -> None:
        """Set a document as a whole."""
        with self._lock:
            self._texts[name] = json.dumps(document)
