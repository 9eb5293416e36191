"""What Groq, OpenAI and Mistral share: chat completions and their chunks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .base import DONE, event

if TYPE_CHECKING:
    from ..exchange import Breach, Call, Caller, Reply

_PERIODS = {"second": "S", "minute": "M", "hour": "H", "day": "D", "month": "MO"}
_UNITS = {"requests": "R", "tokens": "T", "input_tokens": "IT", "output_tokens": "OT"}


def usage_of(reply: Reply) -> dict[str, Any]:
    """The usage object of the OpenAI format."""
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }


def completion(
    call: Call, reply: Reply, caller: Caller, prefix: str = "chatcmpl"
) -> dict[str, Any]:
    """A chat.completion object without usage."""
    return {
        "id": f"{prefix}-{caller.request_id}",
        "object": "chat.completion",
        "created": int(caller.now),
        "model": call.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": reply.text},
                "finish_reason": reply.finish,
            }
        ],
    }


def chunk(call: Call, caller: Caller, choices: list[Any], **more: Any) -> dict[str, Any]:
    """A chat.completion.chunk object."""
    return {
        "id": f"chatcmpl-{caller.request_id}",
        "object": "chat.completion.chunk",
        "created": int(caller.now),
        "model": call.model,
        "choices": choices,
        **more,
    }


def choice(delta: dict[str, Any], finish: str | None = None) -> list[Any]:
    """The choices of a chunk."""
    return [{"index": 0, "delta": delta, "finish_reason": finish}]


def events(
    call: Call,
    reply: Reply,
    caller: Caller,
    *,
    first: dict[str, Any],
    last: dict[str, Any],
    every: dict[str, Any],
    closing: list[bytes],
) -> list[bytes]:
    """All events of a streamed reply; `first`, `last` and `every` are more fields of chunks."""
    result = [event(chunk(call, caller, choice({"role": "assistant", "content": ""}), **first))]
    # One long reply has thousands of chunks that differ in their text only.
    mark = "\x00"
    frame = json.dumps(chunk(call, caller, choice({"content": mark}), **every))
    before, after = frame.split(json.dumps(mark))
    result += [f"data: {before}{json.dumps(p)}{after}\n\n".encode() for p in reply.pieces]
    result.append(event(chunk(call, caller, choice({}, reply.finish), **last)))
    return [*result, *closing, DONE]


def limit_words(breach: Breach, minute: str) -> str:
    """Words like "tokens per minute (TPM)"; `minute` is the provider's word for a minute."""
    period = minute if breach.period == "minute" else breach.period
    short = f"{_UNITS[breach.unit]}P{_PERIODS[breach.period]}"
    return f"{breach.unit.replace('_', ' ')} per {period} ({short})"
