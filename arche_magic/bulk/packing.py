"""Several prompts in one request, for services that count requests more strictly than tokens.

Prompts and replies are JSON lists with ids. An id is made from the text of its prompt, and an entry
of the reply belongs to the prompt whose id it repeats. If a model counts, shifts or skips entries,
the ids are wrong. So no row gets its neighbour's reply, and missing rows are asked again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.options import python_number, shown
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Message, Request, Schema
from arche_magic.llm_providers.text.reasoning import after_reasoning
from arche_magic.llm_providers.types import PERIOD_SECONDS, Standing, Usage

from .rows import MOST_PACKED

_INSTRUCTION = (
    "Below are {count} separate prompts as a JSON list. Answer each of them on its own, as if it "
    "had been sent alone, and none of them twice. Reply with JSON alone: "
    '{{"replies": [{{"id": "{first}", "reply": …}}, …]}}, one entry for every prompt, with '
    "its id copied exactly."
)
# Additional tokens of a prompt and of a reply in a packed request.
_AROUND_PROMPT, _AROUND_REPLY = 17, 14
# Maximum tokens of a packed reply. In longer ones, models make mistakes, and services cut them.
_LONGEST_REPLY = 8000
# The highest share of a token limit, or of the model's window, for one request.
_SHARE = 0.5
_TEXT = {"type": "string", "description": "the reply to the prompt of that id"}
# Only consonants: ids are not words, and not numbers that a model could count up.
_LETTERS = "bcdfghjkmnpqrstvwxz"
_SHORTEST_ID = 4
# Maximum number of broken objects to try, because each takes time in proportion to the text after
# it.
_MOST_BROKEN = 200
_DECODER = json.JSONDecoder(strict=False)

Entries = dict[str, dict[str, Any]]


def rows_per_request(pack: int | str, sample: Request) -> int | None:
    """Maximum rows in one request, up to `MOST_PACKED`; None if the limits decide.

    Raises:
        InvalidRequest: `pack` is neither 'auto' nor a whole number from 1 on.
    """
    if isinstance(pack, str) and pack == "auto":
        # A stop text would cut the list, and extra fields may only make sense for a single reply.
        return 1 if sample.stop or sample.extra else None
    most = python_number(pack)
    if not isinstance(most, int) or most < 1:
        raise InvalidRequest(
            f"pack is {shown(pack)}; it must be 'auto', or a number of rows from 1 on"
        )
    if most > 1 and sample.stop:
        raise InvalidRequest("stop cannot be combined with packing; leave it out, or use pack=1")
    return min(most, MOST_PACKED)


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


def pack_size(
    standings: Iterable[Standing], row: Usage, window: float, most: int, *, always: bool = False
) -> int:
    """The number of rows in one request to a model: as many as its token limits allow.

    Args:
        standings: the limits of its routes.
        row: tokens of one row.
        window: maximum tokens of a request and its reply; inf if unknown.
        most: the maximum.
        always: pack as many as fit, even if requests are not scarce.
    """
    one = needs_packed(row, 1)
    needs = {"input_tokens": one.input_tokens, "output_tokens": one.output_tokens}
    needs["tokens"] = one.total_tokens
    requests, by_tokens = math.inf, math.inf
    room = min(most, _SHARE * window / needs["tokens"], _LONGEST_REPLY / needs["output_tokens"])
    for limit in standings:
        rate = limit.amount / PERIOD_SECONDS[limit.period]
        if limit.metric == "requests":
            requests = min(requests, rate)
        else:
            by_tokens = min(by_tokens, rate / needs[limit.metric])
            room = min(room, _SHARE * limit.amount / needs[limit.metric])
    if always:
        return max(1, math.floor(room))
    if not 0 < requests < math.inf:
        return 1
    return max(1, math.floor(min(room, by_tokens / requests)))


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


def read_entries(text: str, ids: Sequence[str]) -> Entries:
    """The readable entries of a reply, by their ids.

    An entry counts if its id is one of `ids` and occurs once. Prose, fences and reasoning around
    entries are ignored. Entries may be in a list, under a name, or keyed by their ids.
    """
    for place in dict.fromkeys((after_reasoning(text), text)):
        found: Entries = {}
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
