"""The contents of a Redis key: a document, and the data that shows whether others changed or lost
it.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from .documents import Document, Mend


@dataclass
class Stored:
    """The contents of a Redis key.

    Attributes:
        document: the document itself.
        revision: the number of its changes.
        lineage: an id that changes when Redis has lost the document and it is created again; ""
            before the first.
        basis, basis_revision: the document and revision with which this lineage began.
        text: the text in Redis; "" before it is written.
        must_write: the text differs, because wrong values were removed or lost amounts added.
    """

    document: Document = field(default_factory=dict)
    revision: int = 0
    lineage: str = ""
    basis: Document = field(default_factory=dict)
    basis_revision: int = 0
    text: str = ""
    must_write: bool = False

    @classmethod
    def of(cls, text: str | None, name: str, mend: Mend) -> tuple[Stored | None, list[str]]:
        """The contents of a key without wrong values, and the paths of these.

        None if the key is empty or holds something else.
        """
        if not text:
            return None, []
        try:
            content = json.loads(text)
            lineage, basis = content["lineage"], content["basis"]
            counts = content["revision"], content["basis_revision"]
            document, wrong = mend(name, content["document"])
            basis, wrong_basis = mend(name, basis)
        except (ValueError, TypeError, KeyError, RecursionError):
            return None, [name]
        if not isinstance(lineage, str) or not all(type(n) is int and n >= 0 for n in counts):
            return None, [name]
        wrong += wrong_basis
        return cls(document, counts[0], lineage, basis, counts[1], text, bool(wrong)), wrong

    @property
    def stamp(self) -> str:
        """The beginning of the text, which differs after each change."""
        # The stamp ends with the comma, because revision 5 begins like revision 50. If the comma is
        # not near the beginning, as after a change by hand, the stamp is the whole text.
        end = self.text.find(",", self.text.find('"revision"')) + 1
        return self.text[:end] if end else self.text

    def followed_by(self, document: Document) -> Stored:
        """The next revision, with this document."""
        # Lineage and revision come first, because they are the stamp.
        content: dict[str, Any] = {
            "lineage": self.lineage or uuid.uuid4().hex[:12],
            "revision": self.revision + 1,
            "basis_revision": self.basis_revision,
            "basis": self.basis,
            "document": document,
        }
        return Stored(**content, text=json.dumps(content))


def has_lost(stored: Stored, seen: Stored) -> bool:
    """Whether Redis lost part of what was read there before."""
    return stored.lineage != seen.lineage and seen.revision > stored.basis_revision
