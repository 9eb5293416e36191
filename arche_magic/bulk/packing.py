"""Several prompts in one request, where requests are scarcer than tokens.

The prompts travel as a JSON list with ids, and so do the replies. A reply counts only if its id was
asked for and came once, and if it is what was asked; whatever is missing is asked again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from arche_magic.llm_providers.reasoning import after_reasoning
from arche_magic.llm_providers.reply import Reply, fields_of
from arche_magic.llm_providers.types import (
    PERIOD_SECONDS,
    Message,
    Request,
    Schema,
    Standing,
    Usage,
)

_INSTRUCTION = (
    "Below are {count} separate prompts as a JSON list. Answer each of them on its own, as if it "
    "had been sent alone, and none of them twice. Reply with JSON alone: "
    '{{"replies": [{{"id": 1, "reply": …}}, …]}}, one entry for every id.'
)
# Tokens that a prompt and a reply take more in a list than alone.
_AROUND_PROMPT, _AROUND_REPLY = 15, 12
# Of a longer reply models lose the thread, and some are cut.
_LONGEST_REPLY = 8000
# One request takes no more than this of a limit on tokens, or of the model's window.
_SHARE = 0.5
_LIST = re.compile(r"\[(?=\s*\{)")
_REPLIES = re.compile(r"\"replies\"\s*:\s*\[")
_TEXT = {"type": "string", "description": "the reply to the prompt of that id"}


@dataclass(frozen=True)
class Check:
    """A reply that came packed, to be compared with one that was asked for alone.

    `fields` are those in which alike means equal.
    """

    reply: Reply
    fields: tuple[str, ...]

    def agrees(self, alone: Reply) -> bool:
        """Whether both say the same."""
        one, other = fields_of(self.reply.parsed), fields_of(alone.parsed)
        return all(one.get(name) == other.get(name) for name in self.fields)


def fields_to_compare(schema: Schema | None) -> tuple[str, ...]:
    """The fields of a schema that have one right answer: choices, truths and whole numbers."""
    if schema is None:
        return ()
    fields = schema.definition.get("properties", {})
    return tuple(
        name
        for name, field in fields.items()
        if "enum" in field or field.get("type") in ("boolean", "integer")
    )


def packed(requests: Sequence[Request], reply_tokens: float) -> Request:
    """One request for all of these, which differ in their last message alone.

    `reply_tokens` are those of one reply, as expected.
    """
    first = requests[0]
    prompts = [
        {"id": number, "prompt": request.messages[-1].content}
        for number, request in enumerate(requests, 1)
    ]
    text = (
        f"{_INSTRUCTION.format(count=len(requests))}\n\n{json.dumps(prompts, ensure_ascii=False)}"
    )
    most = first.max_tokens
    return replace(
        first,
        messages=(*first.messages[:-1], Message("user", text)),
        schema=_schema(first.schema),
        max_tokens=most and most * len(requests) + _AROUND_REPLY * (len(requests) + 1),
        expected_tokens=math.ceil((reply_tokens + _AROUND_REPLY) * len(requests)),
    )


def unpacked(reply: Reply, requests: Sequence[Request]) -> list[Reply | None]:
    """The reply to each of the requests, in their order; None where there is no good one.

    What the whole reply spent is shared out among them.
    """
    found: list[tuple[str, Any] | None] = [
        _read(reply.parsed.get(number), request.schema)
        for number, request in enumerate(requests, 1)
    ]
    good = [
        (request.messages[-1].tokens, len(entry[0]))
        for request, entry in zip(requests, found, strict=True)
        if entry
    ]
    inputs = iter(_shares(reply.usage.input_tokens, [tokens for tokens, _ in good]))
    outputs = iter(_shares(reply.usage.output_tokens, [length + 1.0 for _, length in good]))
    total = reply.usage.total_tokens
    replies: list[Reply | None] = []
    for entry in found:
        if entry is None:
            replies.append(None)
            continue
        usage = Usage(next(inputs), next(outputs))
        cost = reply.cost
        if cost and total:
            cost *= usage.total_tokens / total
        single = Reply(entry[0], **{**reply.__dict__, "usage": usage, "cost": cost})
        replies.append(single.changed(parsed=entry[1], finish_reason="stop"))
    return replies


def pack_size(
    standings: Iterable[Standing], row: Usage, window: float, most: int, *, always: bool = False
) -> int:
    """How many rows one request of a model is to carry: what its tokens allow per request.

    Args:
        standings: the limits of its routes.
        row: tokens of one row.
        window: most tokens of a request and its reply; inf if unknown.
        most: never more than that.
        always: so many as fit, also where requests are not scarce.
    """
    needs = {
        "input_tokens": row.input_tokens + _AROUND_PROMPT,
        "output_tokens": row.output_tokens + _AROUND_REPLY,
    }
    needs["tokens"] = sum(needs.values())
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
    """Tokens of a request that carries so many rows."""
    return Usage(
        (row.input_tokens + _AROUND_PROMPT) * size, (row.output_tokens + _AROUND_REPLY) * size
    )


def _schema(row: Schema | None) -> Schema:
    """What the reply to a packed request must look like; its value is a dict by id."""
    inner = dict(row.definition) if row else dict(_TEXT)
    shared = {name: inner.pop(name) for name in ("$defs", "definitions") if name in inner}
    entry = {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "reply": inner},
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
    return Schema("replies", text, row.strict if row else True, _entries)


def _entries(text: str) -> dict[int, Any]:
    """Replies by id, as far as they can be read: what was cut off or is broken is not there."""
    found: dict[int, Any] = {}
    twice = set()
    for entry in _objects(text):
        number = entry.get("id")
        if isinstance(number, str) and number.isdigit():
            number = int(number)
        if not isinstance(number, int) or "reply" not in entry:
            continue
        if number in found:
            twice.add(number)
        found[number] = entry["reply"]
    return {number: value for number, value in found.items() if number not in twice}


def _objects(text: str) -> Iterable[dict[str, Any]]:
    """The entries of the list of replies, one after the other, up to where it breaks off."""
    answer = after_reasoning(text)
    text = answer if _LIST.search(answer) else text
    # Prose before the list may have brackets of its own.
    found = _REPLIES.search(text) or _LIST.search(text)
    at = found.end() if found else 0
    decoder = json.JSONDecoder(strict=False)
    while at and (at := text.find("{", at)) >= 0:
        try:
            entry, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return
        if isinstance(entry, dict):
            yield entry


def _read(value: Any, schema: Schema | None) -> tuple[str, Any] | None:
    """A reply out of a list as the text and the value it would have had alone."""
    if schema is None:
        return (value, None) if isinstance(value, str) and value.strip() else None
    text = json.dumps(value, ensure_ascii=False)
    try:
        return text, schema.read(text)
    except ValueError:
        return None


def _shares(total: int, weights: Sequence[float]) -> list[int]:
    """A whole number shared out by weight, exactly."""
    whole, given, shares = sum(weights) or 1.0, 0, []
    reached = 0.0
    for weight in weights:
        reached += weight
        share = round(total * reached / whole) - given
        given += share
        shares.append(share)
    return shares
