"""Requests with tools, and the answers of each provider."""

from __future__ import annotations

import base64
import json
from typing import Any

from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.tools import Tool, ToolCall

WEATHER = Tool(
    "get_weather",
    "The weather of a city now.",
    '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}',
)
TIME = Tool("get_time")
ASKED = Request((Message("user", "How is Oslo?"),), tools=(WEATHER, TIME))
SIGNATURE = base64.b64encode(b"a thought").decode()
OSLO = '{"city": "Oslo"}'
# A conversation whose calls another provider made: OpenAI's ids, no signatures.
ANSWERED = Request(
    (
        Message("user", "How is Oslo, and what time is it?"),
        Message(
            "assistant",
            "",
            tool_calls=(
                ToolCall("call_0123456789abcdef", "get_weather", OSLO),
                ToolCall("call_fedcba9876543210", "get_time", "{}"),
            ),
        ),
        Message("tool", "3 degrees", tool_call_id="call_0123456789abcdef"),
        Message("tool", "noon", tool_call_id="call_fedcba9876543210"),
    ),
    tools=(WEATHER, TIME),
)


def chat_call(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    """A call as OpenAI, Groq and Mistral write it."""
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def chat_answer(
    *calls: dict[str, Any], text: str | None = None, ending: str = "tool_calls"
) -> dict[str, Any]:
    """A chat completion with these calls."""
    message = {"role": "assistant", "content": text, "tool_calls": list(calls)}
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": ending}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29},
    }  # fmt: skip


def chat_chunk(*calls: dict[str, Any], ending: str | None = None) -> dict[str, Any]:
    """One event of a streamed chat completion."""
    delta: dict[str, Any] = {"role": "assistant"}
    if calls:
        delta["tool_calls"] = list(calls)
    return {
        "id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": ending}],
    }  # fmt: skip


def google_answer(
    *calls: dict[str, Any], text: str = "", ending: str | None = "STOP"
) -> dict[str, Any]:
    """A response of Gemini with these function calls; the first one is signed."""
    parts: list[dict[str, Any]] = [{"text": text}] if text else []
    for number, call in enumerate(calls):
        parts.append({"functionCall": call})
        if not number:
            parts[-1]["thoughtSignature"] = SIGNATURE
    return {
        "candidates": [
            {"content": {"role": "model", "parts": parts}, "index": 0, "finishReason": ending}
        ],
        "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 9},
    }


def arguments_of(call: ToolCall) -> Any:
    return json.loads(call.arguments)
