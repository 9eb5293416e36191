"""One document as a Redis key holds it, with what tells that others changed or lost it."""

from __future__ import annotations

import json
import uuid
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from .base import Document, Mend


@dataclass
class Stored:
    """What a Redis key holds.

    Attributes:
        document: the document itself.
        revision: counts its changes.
        lineage: a Redis that lost the document gets a new one; "" before there is one.
        basis, basis_revision: what was remembered of it when this lineage began.
        text: how Redis has it; "" while it has not.
        mended: something in the text is wrong, and not in `document` and `basis`.
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
        """What a key holds, without what is wrong in it, and the paths of that.

        None for nothing, or for what somebody else put there.
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
        """The beginning of the text, which is another after each change."""
        return self.text[: self.text.find(",", self.text.find('"revision"'))]

    def document_to_change(self) -> Document:
        """A copy of the document."""
        if not self.text or self.mended:
            return deepcopy(self.document)
        document: Document = json.loads(self.text)["document"]
        return document

    def followed_by(self, document: Document) -> Stored:
        """The same with another document, one revision later."""
        # Lineage and revision come first: they are the stamp.
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
    """What a change starts from, and how it is known that nobody else changed it since.

    Attributes:
        stored: what is remembered of a key, or what it holds by now.
        stamp: the beginning of what Redis has there; "" for nothing.
        lost: Redis does not have all of `stored`, so that it must be written.
    """

    stored: Stored
    stamp: str
    lost: bool = False


def lacks(stored: Stored, seen: Stored) -> bool:
    """Whether Redis lost something of what was seen there."""
    return stored.lineage != seen.lineage and seen.revision > stored.basis_revision
