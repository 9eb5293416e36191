"""Checks packed replies: some packed rows are also asked alone, and the replies are compared.

Replies that are swapped within a request look correct one by one. So random rows are also asked
alone. A model whose packed replies disagree too often gets no more packed requests in the job, and
its packed replies are discarded.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import Reply, fields_of
from arche_magic.llm_providers.request import Schema

Model = tuple[str, str]
"""Provider and model."""


class PackingWarning(UserWarning):
    """A model's packed replies disagreed with those to the same rows asked alone."""


# Rows checked in the first packed requests of a model; after those, one in every tenth request.
_FIRST_CHECKS, _CHECK_EVERY = (2, 1, 1, 1), 10
# Packed replies of a model are discarded if more than this share, and at least two, disagree.
MOST_DISAGREEING = 0.25
_LEAST_DISAGREEING = 2
# The similarity of texts is the share of three-letter pieces that both have. A difference in
# similarity below `_CLEAR` decides nothing.
_PIECE, _CLEAR = 3, 0.1


@dataclass(frozen=True)
class Check:
    """A packed reply, to be compared with the reply to the same row when it is asked alone.

    `others` are the texts of the other replies to its request; for `fields` see
    `fields_to_compare`.
    """

    reply: Reply
    others: tuple[str, ...]
    fields: tuple[str, ...]
    model: Model

    def agrees(self, alone: Reply) -> bool | None:
        """Whether both replies agree; None if this cannot be decided.

        Fields with one right answer must be equal. No model writes free text the same way twice, so
        free text disagrees only if it is clearly more similar to the reply to another row.
        """
        if self.fields:
            try:
                one, other = fields_of(self.reply.parsed), fields_of(alone.parsed)
            except InvalidRequest:
                return None
            return all(one.get(name) == other.get(name) for name in self.fields)
        own = _likeness(self.reply, alone)
        if not self.others and own < 1.0:
            # No other reply to compare it with.
            return None
        best = max((_likeness(text, alone) for text in self.others), default=0.0)
        if own == 1.0 or own > best + _CLEAR:
            return True
        return False if best > own + _CLEAR else None


def fields_to_compare(schema: Schema | None) -> tuple[str, ...]:
    """The fields of a schema that have one right answer: choices, booleans and integers."""
    if schema is None:
        return ()
    comparable = ("choice", "boolean", "integer")
    return tuple(name for name, field in schema.fields.items() if field.kind in comparable)


@dataclass
class _Record:
    """What is known about one model's packed replies."""

    requests: int = 0
    compared: int = 0
    disagreed: int = 0
    is_refuted: bool = False
    addresses: set[str] = field(default_factory=set)


class Agreement:
    """Counts a job's packed replies, and how the checked ones agree.

    Attributes:
        refutations: the number of models whose packed replies were discarded.
    """

    def __init__(self) -> None:
        self.refutations = 0
        self._records: defaultdict[Model, _Record] = defaultdict(_Record)
        self._lock = threading.Lock()
        self._random = random.Random()

    def rows_to_check(self, model: Model, answered: Sequence[int]) -> list[int]:
        """Choose at random which answered rows of a packed request to ask alone too."""
        with self._lock:
            record = self._records[model]
            number = record.requests
            record.requests += 1
        if number < len(_FIRST_CHECKS):
            count = _FIRST_CHECKS[number]
        else:
            count = 1 if number % _CHECK_EVERY == 0 else 0
        return self._random.sample(answered, min(count, len(answered)))

    def note_packed(self, model: Model, addresses: Iterable[str]) -> None:
        """Record packed replies, by the addresses under which they are kept."""
        with self._lock:
            self._records[model].addresses.update(addresses)

    def note_check(self, model: Model, agrees: bool) -> bool:
        """Count a comparison; True, at most once, if the packed replies must be discarded."""
        with self._lock:
            record = self._records[model]
            record.compared += 1
            record.disagreed += not agrees
            often = record.disagreed > record.compared * MOST_DISAGREEING
            refutes = often and record.disagreed >= _LEAST_DISAGREEING and not record.is_refuted
            record.is_refuted |= refutes
            self.refutations += refutes
        return refutes

    def is_refuted(self, model: Model) -> bool:
        """Whether the model's packed replies are no longer trusted."""
        with self._lock:
            return self._records[model].is_refuted

    def addresses(self, model: Model) -> set[str]:
        """The addresses of the packed replies of a model."""
        with self._lock:
            return set(self._records[model].addresses)

    def words(self, model: Model) -> str:
        """How many of the compared rows disagreed."""
        with self._lock:
            record = self._records[model]
            return f"{record.disagreed} of {record.compared} rows"


def _likeness(one: str, other: str) -> float:
    """From 0 to 1: the share of the pieces of two texts that both have."""
    first, second = _pieces(one), _pieces(other)
    return len(first & second) / len(first | second) if first | second else 1.0


def _pieces(text: str) -> set[str]:
    plain = f" {' '.join(text.casefold().split())} "
    return {plain[at : at + _PIECE] for at in range(len(plain) - _PIECE + 1)}
