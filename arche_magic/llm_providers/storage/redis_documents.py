"""One document as a Redis key holds it, with what shows that others changed or lost it."""

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
        lineage: changes when Redis lost the document and it began again; "" before the first.
        basis, basis_revision: the document and revision with which this lineage began.
        text: the text in Redis; "" before it is written.
        mended: something in the text is wrong, and was removed from `document` and `basis`.
    """

    document: Document = field(default_factory=dict)
    revision: int = 0
    lineage: str = ""
    basis: Document = field(default_factory=dict)
    basis_revision: int = 0
    text: str = ""
    mended: bool = False

    @classmethod
    def of(cls, text: str | None, name: str, mend: Mend) -> tuple[Stored | None, list[str]]:
        """What a key holds, without its wrong values, and the paths of those.

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
        # With the comma, because revision 5 begins like revision 50. Where it is not near the
        # beginning, as after a change by hand, the whole text.
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


@dataclass(frozen=True)
class Base:
    """What a change starts from, and what shows that nobody changed it meanwhile.

    Attributes:
        stored: what this process remembers of a key, or what the key holds now.
        stamp: the beginning of the text in Redis; "" if there is none.
        lost: Redis does not have all of `stored`, so it must be written.
    """

    stored: Stored
    stamp: str
    lost: bool = False


def has_lost(stored: Stored, seen: Stored) -> bool:
    """Whether Redis lost part of what was read there before."""
    return stored.lineage != seen.lineage and seen.revision > stored.basis_revision
