"""Several prompts in one request, for services that count requests more strictly than tokens.

Prompts and replies are JSON lists with ids; `unpacking` reads the replies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from arche_magic.llm_providers.request import Message, Request, Schema
from arche_magic.llm_providers.types import PERIOD_SECONDS, Standing, Usage

from .unpacking import ids_of, read_entries

_INSTRUCTION = (
    "Below are {count} separate prompts as a JSON list. Answer each of them on its own, as if it "
    "had been sent alone, and none of them twice. Reply with JSON alone: "
    '{{"replies": [{{"id": "{first}", "reply": …}}, …]}}, one entry for every prompt, with '
    "its id copied exactly."
)
# Additional tokens of a prompt and of a reply in a list.
_AROUND_PROMPT, _AROUND_REPLY = 17, 14
# In longer replies models lose track, and some replies are cut.
_LONGEST_REPLY = 8000
# One request takes no more than this of a limit on tokens, or of the model's window.
_SHARE = 0.5
_TEXT = {"type": "string", "description": "the reply to the prompt of that id"}


def packed(requests: Sequence[Request], reply_tokens: float) -> Request:
    """One request for all of these, which differ only in their last message.

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
    """How many rows to put in one request to a model: as many as its token limits allow.

    Args:
        standings: the limits of its routes.
        row: tokens of one row.
        window: most tokens of a request and its reply; inf if unknown.
        most: upper bound.
        always: as many as fit, even if requests are not scarce.
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
    """Tokens of a request that carries `size` rows."""
    return Usage(
        (row.input_tokens + _AROUND_PROMPT) * size, (row.output_tokens + _AROUND_REPLY) * size
    )


def _schema(row: Schema | None, ids: Sequence[str]) -> Schema:
    """What the reply to a packed request must look like; its value is a dict by id."""
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
