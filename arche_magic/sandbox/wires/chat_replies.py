"""Replies as chat completions and their chunks, for OpenAI, Groq and Mistral."""

from __future__ import annotations

import json
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

from ..windows import remaining
from . import common

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..types import Breach, Call, Caller, Reply, ToolCall

_PIECE = 6  # the number of characters of arguments in a chunk
_PERIODS = {"second": "S", "minute": "M", "hour": "H", "day": "D", "month": "MO"}
_UNITS = {"requests": "R", "tokens": "T", "input_tokens": "IT", "output_tokens": "OT"}


def limit_headers(
    caller: Caller, shown: Mapping[str, str], *, resets: bool = True
) -> common.Headers:
    """The headers for limits; `shown` has the limit for each name. Mistral has none for resets."""
    headers = []
    for what, name in shown.items():
        if window := caller.limits.get(name):
            headers += [
                (f"x-ratelimit-limit-{what}", str(window.limit)),
                (f"x-ratelimit-remaining-{what}", str(remaining(window, caller.now))),
            ]
            if resets:
                reset = common.go_duration(window.reset(caller.now))
                headers.append((f"x-ratelimit-reset-{what}", reset))
    return headers


def limit_words(breach: Breach, minute: str) -> str:
    """Words like "tokens per minute (TPM)"; `minute` is the provider's word for a minute."""
    period = minute if breach.period == "minute" else breach.period
    short = f"{_UNITS[breach.unit]}P{_PERIODS[breach.period]}"
    return f"{breach.unit.replace('_', ' ')} per {period} ({short})"


def usage_of(reply: Reply) -> dict[str, Any]:
    """The usage object."""
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }


def completion(
    call: Call, reply: Reply, caller: Caller, prefix: str = "chatcmpl"
) -> dict[str, Any]:
    """A chat.completion object."""
    return {
        "id": f"{prefix}-{caller.request_id}",
        "object": "chat.completion",
        "created": int(caller.now),
        "model": call.model,
        "choices": [
            {"index": number, "message": _message(one), "finish_reason": one.finish}
            for number, one in enumerate((reply, *reply.others))
        ],
        "usage": usage_of(reply),
    }


def _message(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.calls:
        message["content"] = reply.text or None
        message["tool_calls"] = [_call_object(made) for made in reply.calls]
    return message


def _call_object(made: ToolCall) -> dict[str, Any]:
    """A tool call in a message."""
    function = {"name": made.name, "arguments": made.arguments}
    return {"id": made.id, "type": "function", "function": function}


def _chunk(call: Call, caller: Caller, choices: list[Any], extra: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{caller.request_id}",
        "object": "chat.completion.chunk",
        "created": int(caller.now),
        "model": call.model,
        "choices": choices,
        **extra,
    }


def events(
    call: Call, reply: Reply, caller: Caller, fields: Mapping[str, dict[str, Any]]
) -> list[bytes]:
    """All events of a streamed reply. Several replies come one after the other.

    `fields` has the provider's own fields of the "first", the "last" and "every" other chunk. The
    "closing" fields are in a separate chunk without choices, at the end.
    """
    every = fields.get("every", {})
    # Whether the last chunk with calls also has the finish reason.
    calls_at_end = call.provider == "mistral"
    result: list[bytes] = []
    for index, one in enumerate((reply, *reply.others)):
        event = partial(_event, call, caller, index)
        content = None if one.calls and not calls_at_end else ""
        result.append(event({"role": "assistant", "content": content}, fields.get("first", {})))
        if call.top_logprobs is None:
            # The thousands of chunks of a long reply differ only in their text.
            before, after = event({"content": "\x00"}, every).split(rb'"\u0000"')
            result += [before + json.dumps(piece).encode() + after for piece in one.pieces]
        else:
            for piece in one.pieces:
                likely = logprobs((piece,), call.top_logprobs)
                result.append(event({"content": piece}, every, logprobs=likely))
        deltas = _DELTAS[call.provider](one.calls)
        end = deltas.pop() if deltas and calls_at_end else {}
        result += [event(delta, every) for delta in deltas]
        result.append(event(end, fields.get("last", {}), finish_reason=one.finish))
    if "closing" in fields:
        result.append(common.event(_chunk(call, caller, [], fields["closing"])))
    return [*result, common.DONE]


def _event(
    call: Call,
    caller: Caller,
    index: int,
    delta: dict[str, Any],
    extra: dict[str, Any],
    **choice: Any,
) -> bytes:
    """A chunk with one choice; `extra` are more fields of the chunk, `choice` of the choice."""
    choices = [{"index": index, "delta": delta, "finish_reason": None, **choice}]
    return common.event(_chunk(call, caller, choices, extra))


def _in_pieces(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Deltas as OpenAI streams them: the name of each call, then its arguments in pieces."""
    deltas: list[dict[str, Any]] = []
    for number, made in enumerate(calls):
        start = _call_object(made)
        start["function"]["arguments"] = ""
        deltas.append({"tool_calls": [{"index": number, **start}]})
        for first in range(0, len(made.arguments), _PIECE):
            piece = {"arguments": made.arguments[first : first + _PIECE]}
            deltas.append({"tool_calls": [{"index": number, "function": piece}]})
    return deltas


def _one_by_one(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Deltas as Groq streams them: one for each call. github.com/ogx-ai/ogx/pull/630, 2024-12."""
    return [
        {"tool_calls": [{"index": number, **_call_object(made)}]}
        for number, made in enumerate(calls)
    ]


def calls_together(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """One delta with all calls, as Mistral streams. github.com/comet-ml/opik/pull/7385, 2026-07."""
    entries = [{**_call_object(made), "index": number} for number, made in enumerate(calls)]
    return [{"content": "", "tool_calls": entries}] if entries else []


_DELTAS = {"openai": _in_pieces, "groq": _one_by_one, "mistral": calls_together}


def logprobs(pieces: Sequence[str], top: int) -> dict[str, Any]:
    """The logarithms of probabilities: of each piece, and of `top` likely ones in its place."""
    content = []
    for piece in pieces:
        likely = -(zlib.crc32(piece.encode("utf-8", "replace")) % 1000) / 2000
        options = [_token(piece, likely)] + [
            _token(f"{piece}~{rank}", likely - rank) for rank in range(1, top)
        ]
        content.append({**_token(piece, likely), "top_logprobs": options[:top]})
    return {"content": content, "refusal": None}


def _token(text: str, likely: float) -> dict[str, Any]:
    return {"token": text, "logprob": likely, "bytes": list(text.encode("utf-8", "replace"))}
