"""Several prompts in one request, for services that count requests more strictly than tokens.

Prompts and replies are JSON lists with ids. An id is made from the text of its prompt, and an entry
of the reply belongs to the prompt whose id it repeats. If a model counts, shifts or skips entries,
the ids are wrong. So no row gets its neighbour's reply, and missing rows are asked again.

Replies that are swapped within a request look correct one by one. So random rows are also asked
alone. A model whose packed replies disagree too often gets no more packed requests in the job, and
its packed replies are discarded.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, count, pairwise
from typing import Any

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import Reply, fields_of
from arche_magic.llm_providers.request import Message, Request, Schema
from arche_magic.llm_providers.text.reasoning import after_reasoning
from arche_magic.llm_providers.types import Usage

Model = tuple[str, str]
"""Provider and model."""


class PackingWarning(UserWarning):
    """A model's packed replies disagreed with those to the same rows asked alone."""


_INSTRUCTION = (
    "Below are {count} separate prompts as a JSON list. Answer each of them on its own, as if it "
    "had been sent alone, and none of them twice. Reply with JSON alone: "
    '{{"replies": [{{"id": "{first}", "reply": …}}, …]}}, one entry for every prompt, with '
    "its id copied exactly."
)
# Additional tokens of a prompt and of a reply in a packed request.
_AROUND_PROMPT, _AROUND_REPLY = 17, 14
_TEXT = {"type": "string", "description": "the reply to the prompt of that id"}
# Only consonants: ids are not words, and not numbers that a model could count up.
_LETTERS = "bcdfghjkmnpqrstvwxz"
_SHORTEST_ID = 4
# Maximum number of broken objects to try, because each takes time in proportion to the text after
# it.
_MOST_BROKEN = 200
_DECODER = json.JSONDecoder(strict=False)

# Rows checked in the first packed requests of a model; after those, one in every tenth request.
_FIRST_CHECKS, _CHECK_EVERY = (2, 1, 1, 1), 10
# Packed replies of a model are discarded if more than this share, and at least two, disagree.
_MOST_DISAGREEING = 0.25
_LEAST_DISAGREEING = 2
# The kinds of fields that are compared. No model writes free text the same way twice.
_ONE_RIGHT_ANSWER = ("choice", "boolean", "integer")
# The similarity of texts is the share of three-letter pieces that both have. A difference in
# similarity below `_CLEAR` decides nothing.
_PIECE, _CLEAR = 3, 0.1


def packed(requests: Sequence[Request], reply_tokens: float) -> Request:
    """One request that packs all of these, which differ only in their last message.

    `reply_tokens` is the expected length of one reply.
    """
    first = requests[0]
    texts = [request.messages[-1].content for request in requests]
    ids = ids_of(texts)
    prompts = [{"id": id_, "prompt": text} for id_, text in zip(ids, texts, strict=True)]
    instruction = _INSTRUCTION.format(count=len(requests), first=ids[0])
    text = f"{instruction}\n\n{json.dumps(prompts, ensure_ascii=False)}"
    most = first.max_tokens
    return replace(
        first,
        messages=(*first.messages[:-1], Message("user", text)),
        schema=_schema(first.schema, ids),
        max_tokens=most and most * len(requests) + _AROUND_REPLY * (len(requests) + 1),
        expected_tokens=math.ceil((reply_tokens + _AROUND_REPLY) * len(requests)),
    )


def needs_packed(row: Usage, size: int) -> Usage:
    """The tokens of a request with `size` rows."""
    return Usage(
        (row.input_tokens + _AROUND_PROMPT) * size, (row.output_tokens + _AROUND_REPLY) * size
    )


def _schema(row: Schema | None, ids: Sequence[str]) -> Schema:
    """The schema of the reply to a packed request; its value is a dict by id."""
    inner = dict(row.definition) if row else dict(_TEXT)
    shared = {name: inner.pop(name) for name in ("$defs", "definitions") if name in inner}
    entry = {
        "type": "object",
        "properties": {"id": {"type": "string"}, "reply": inner},
        "required": ["id", "reply"],
        "additionalProperties": False,
    }
    definition = {
        "type": "object",
        "properties": {"replies": {"type": "array", "items": entry}},
        "required": ["replies"],
        "additionalProperties": False,
        **shared,
    }
    text = json.dumps(definition, separators=(",", ":"), ensure_ascii=False)
    return Schema("replies", text, row.strict if row else True, partial(read_entries, ids=ids))


def ids_of(prompts: Sequence[str]) -> list[str]:
    """An id for each of some different prompts, as short as possible but unique."""
    digests = [hashlib.sha256(prompt.encode("utf-8", "replace")).digest() for prompt in prompts]
    length = _SHORTEST_ID
    while True:
        ids = [
            "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:length])
            for digest in digests
        ]
        if len(set(ids)) == len(ids) or length == len(digests[0]):
            return ids
        length += 1


def read_entries(text: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The readable entries of a reply, by their ids.

    An entry counts if its id is one of `ids` and occurs once. Prose, fences and reasoning around
    entries are ignored. Entries may be in a list, under a name, or keyed by their ids.
    """
    for place in dict.fromkeys((after_reasoning(text), text)):
        found: dict[str, dict[str, Any]] = {}
        twice = set()
        for id_, entry in _entries_in(place, frozenset(ids)):
            if id_ in found:
                twice.add(id_)
            found[id_] = entry
        if found:
            return {id_: entry for id_, entry in found.items() if id_ not in twice}
    return {}


def unpacked(reply: Reply, requests: Sequence[Request]) -> list[Reply | None]:
    """Return a reply for each request, in order; None if the reply is missing or invalid.

    The tokens and cost of the whole reply are divided among them.
    """
    ids = ids_of([request.messages[-1].content for request in requests])
    found = [
        _read(reply.parsed.get(id_), request.schema)
        for id_, request in zip(ids, requests, strict=True)
    ]
    good = {number: entry for number, entry in enumerate(found) if entry}
    prompts = [requests[number].messages[-1].tokens for number in good]
    inputs = _shares(reply.usage.input_tokens, prompts)
    outputs = _shares(reply.usage.output_tokens, [len(text) + 1.0 for text, _ in good.values()])
    total = reply.usage.total_tokens
    replies: list[Reply | None] = [None] * len(requests)
    for (number, (text, parsed)), *tokens in zip(good.items(), inputs, outputs, strict=True):
        usage = Usage(*tokens)
        cost = reply.cost * usage.total_tokens / total if reply.cost and total else reply.cost
        replies[number] = reply.changed(
            text, usage=usage, cost=cost, parsed=parsed, finish_reason="stop"
        )
    return replies


def _entries_in(text: str, ids: frozenset[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ids and entries from every complete JSON object, even inside an object that is cut off."""
    at = text.find("{")
    broken = 0
    while at >= 0 and broken < _MOST_BROKEN:
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            broken += 1
            end = at + 1
        else:
            yield from _walk(value, ids)
        at = text.find("{", end)


def _walk(value: Any, ids: frozenset[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, list):
        for inner in value:
            yield from _walk(inner, ids)
    if not isinstance(value, dict):
        return
    id_ = value.get("id")
    if isinstance(id_, str) and id_.strip() in ids:
        yield id_.strip(), {name: inner for name, inner in value.items() if name != "id"}
    elif keyed := [name for name in value if name in ids]:
        for name in keyed:
            yield name, {"reply": value[name]}
    else:
        for inner in value.values():
            yield from _walk(inner, ids)


def _read(entry: Mapping[str, Any] | None, schema: Schema | None) -> tuple[str, Any] | None:
    """A reply from its entry: the text and the value that the row would get alone."""
    if entry is None:
        return None
    if schema is None:
        # Some models give the reply another name.
        value = entry.get("reply", next(iter(entry.values())) if len(entry) == 1 else None)
        text = "" if value is None else _as_text(value)
        return (text, None) if text.strip() else None
    candidates = [entry["reply"]] if "reply" in entry else []
    fields = list(schema.definition.get("properties", {}))
    if candidates and len(fields) == 1 and not isinstance(candidates[0], dict):
        candidates.append({fields[0]: candidates[0]})
    if entry.keys() != {"reply"}:
        # Some models leave out the level "reply": {"id": …, "mood": "good"}.
        candidates.append(entry)
    for value in candidates:
        text = _as_text(value)
        try:
            return text, schema.read(text)
        except ValueError:
            continue
    return None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shares(total: int, weights: Sequence[float]) -> list[int]:
    """Divide an integer by weight, so that the parts add up to it."""
    whole = sum(weights) or 1.0
    ends = [0, *(round(total * reached / whole) for reached in accumulate(weights))]
    return [end - start for start, end in pairwise(ends)]


@dataclass(frozen=True)
class Check:
    """A packed reply, to be compared with the reply to the same row when it is asked alone.

    `others` are the texts of the other replies to its request.
    """

    reply: Reply
    others: tuple[str, ...]
    schema: Schema | None
    model: Model

    def agrees(self, alone: Reply) -> bool | None:
        """Whether both replies agree; None if this cannot be decided.

        Fields with one right answer must be equal. Free text disagrees only if it is clearly more
        similar to the reply to another row.
        """
        fields = self.schema.fields if self.schema else {}
        if fixed := [name for name, field in fields.items() if field.kind in _ONE_RIGHT_ANSWER]:
            try:
                one, other = fields_of(self.reply.parsed), fields_of(alone.parsed)
            except InvalidRequest:
                return None
            return all(one.get(name) == other.get(name) for name in fixed)
        own = _likeness(self.reply, alone)
        if not self.others and own < 1.0:
            # No other reply to compare it with.
            return None
        best = max((_likeness(text, alone) for text in self.others), default=0.0)
        if own == 1.0 or own > best + _CLEAR:
            return True
        return False if best > own + _CLEAR else None


@dataclass
class PackedReplies:
    """The packed replies of one model in a job, and how those that were checked agree.

    Attributes:
        addresses: where they are kept.
        compared: rows that were also asked alone, and could be compared.
        disagreed: those of them with another answer.
        is_refuted: whether the packed replies are not trusted any more.
    """

    addresses: set[str] = field(default_factory=set)
    compared: int = 0
    disagreed: int = 0
    is_refuted: bool = False
    # Several threads count requests; `next` needs no lock.
    _requests: count[int] = field(default_factory=count)
    _random: random.Random = field(default_factory=random.Random)

    def rows_to_check(self, answered: Sequence[int]) -> list[int]:
        """Choose at random which answered rows of a packed request to ask alone too."""
        number = next(self._requests)
        if number < len(_FIRST_CHECKS):
            checks = _FIRST_CHECKS[number]
        else:
            checks = 1 if number % _CHECK_EVERY == 0 else 0
        return self._random.sample(answered, min(checks, len(answered)))

    def note_check(self, agrees: bool) -> bool:
        """Count a comparison; True, at most once, if the packed replies must be discarded."""
        self.compared += 1
        self.disagreed += not agrees
        often = self.disagreed > self.compared * _MOST_DISAGREEING
        if self.is_refuted or not often or self.disagreed < _LEAST_DISAGREEING:
            return False
        self.is_refuted = True
        return True


def _likeness(one: str, other: str) -> float:
    """From 0 to 1: the share of the pieces of two texts that both have."""
    first, second = _pieces(one), _pieces(other)
    return len(first & second) / len(first | second) if first | second else 1.0


def _pieces(text: str) -> set[str]:
    plain = f" {' '.join(text.casefold().split())} "
    return {plain[at : at + _PIECE] for at in range(len(plain) - _PIECE + 1)}
