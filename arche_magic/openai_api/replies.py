"""HTTP replies: chat completions and errors of the engine, in OpenAI's format."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from arche_magic.llm_providers.errors import (
    ConfigurationError,
    ContentFiltered,
    IncompleteReply,
    InvalidRequest,
    LLMProviderError,
    NoKeys,
    NoRouteAvailable,
    NotKept,
    SchemaMismatch,
)
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.secrets import without_key_like
from arche_magic.llm_providers.text.characters import whole_characters
from arche_magic.llm_providers.types import RouteId

ROUTE_HEADER = "x-arche-route"
TIMED_OUT = 504
"""The status of a request that was not answered within its timeout; no other error has it."""
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


@dataclass(frozen=True)
class HttpReply:
    """One HTTP response.

    Attributes:
        body: bytes, or an iterator of server-sent events. Closing the iterator (a generator) stops
            the request: the connection to the provider is dropped and the usage is counted.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes | Iterator[bytes]


def json_reply(
    value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> HttpReply:
    """Return a response with a JSON body."""
    # A text may quote a lone surrogate of the request, which cannot be encoded in UTF-8.
    text = whole_characters(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    body = text.encode()
    return HttpReply(status, {"content-type": "application/json", **(headers or {})}, body)


def event(value: Mapping[str, Any]) -> bytes:
    """Return one server-sent event with a JSON object."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def route_header(route: RouteId) -> dict[str, str]:
    """Return the header that names the route: provider, key label and model.

    A header is ASCII, so other characters are percent-encoded.
    """
    return {ROUTE_HEADER: quote(" ".join(route), safe=_PRINTABLE, errors="replace")}


def completion(reply: Reply) -> dict[str, Any]:
    """Return a reply as a `chat.completion`."""
    return {
        **_head("chat.completion", reply.model),
        "choices": _choices(reply),
        "usage": _usage(reply),
        "arche": route_details(reply),
    }


class Chunks:
    """Builds the events of one streamed completion; `include_usage` puts the usage at its end."""

    def __init__(self, model: str, include_usage: bool) -> None:
        self._head = _head("chat.completion.chunk", model)
        # If the usage is sent at the end, all other chunks have `usage: null`.
        self._usage = {"usage": None} if include_usage else {}

    def end(self, reply: Reply) -> Iterator[bytes]:
        """Yield what follows the text of a reply: tool calls, the finish reason, and the usage."""
        if calls := _tool_calls(reply):
            yield self.chunk({"tool_calls": _numbered(calls)})
        yield self.chunk({}, {"finish_reason": reply.finish_reason}, arche=route_details(reply))
        yield from self._close(reply)

    def whole(self, reply: Reply) -> Iterator[bytes]:
        """Yield all chunks of a reply that has arrived: one per choice, its end, and the usage."""
        for choice in _choices(reply):
            message, index = dict(choice["message"]), choice["index"]
            if calls := message.pop("tool_calls", None):
                message["tool_calls"] = _numbered(calls)
            yield self.chunk(message, {"index": index, "logprobs": choice["logprobs"]})
            end = {"index": index, "finish_reason": choice["finish_reason"]}
            yield self.chunk({}, end, arche=route_details(reply))
        yield from self._close(reply)

    def _close(self, reply: Reply) -> Iterator[bytes]:
        if self._usage:
            yield event(self._head | {"choices": [], "usage": _usage(reply)})
        yield b"data: [DONE]\n\n"

    def chunk(
        self, delta: Mapping[str, Any], choice: Mapping[str, Any] | None = None, **more: Any
    ) -> bytes:
        """Return a part of a message; `choice` has fields of the choice, `more` of the chunk."""
        whole = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return event(self._head | {"choices": [whole | dict(choice or {})]} | self._usage | more)


def _tool_calls(reply: Reply) -> list[dict[str, Any]]:
    """Return the tool calls of a reply in OpenAI's format."""
    shown = []
    for call in reply.tool_calls:
        function = {"name": call.name, "arguments": call.arguments}
        entry: dict[str, Any] = {"id": call.id, "type": "function", "function": function}
        if call.signature:
            # Google's own service for OpenAI's clients puts it here; `thought_signature` reads it.
            entry["extra_content"] = {"google": {"thought_signature": call.signature}}
        shown.append(entry)
    return shown


def _numbered(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return tool calls in the format of a stream."""
    return [{"index": index, **call} for index, call in enumerate(calls)]


def _head(kind: str, model: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def _choices(reply: Reply) -> list[dict[str, Any]]:
    if reply.choices:
        # Some services leave out what the official client expects.
        return [
            {"index": index, "logprobs": None, "finish_reason": reply.finish_reason, **choice}
            for index, choice in enumerate(reply.choices)
        ]
    message: dict[str, Any] = {"role": "assistant", "content": str(reply), "refusal": None}
    if calls := _tool_calls(reply):
        message |= {"content": str(reply) or None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "logprobs": None}
    return [choice | {"finish_reason": reply.finish_reason}]


def _usage(reply: Reply) -> dict[str, int]:
    return {
        "prompt_tokens": reply.usage.input_tokens,
        "completion_tokens": reply.usage.output_tokens,
        "total_tokens": reply.usage.total_tokens,
    }


def route_details(reply: Reply) -> dict[str, Any]:
    """Return our part of a completion: the route, all attempts, USD, and seconds of waiting."""
    return {
        "route": reply.route._asdict(),
        "attempts": [attempt.to_dict() for attempt in reply.attempts],
        "cost": reply.cost,
        "waited": max((attempt.waited_s for attempt in reply.attempts), default=0.0),
        "from_memory": reply.from_memory.isoformat() if reply.from_memory else None,
    }


@dataclass(eq=False)
class ApiError(Exception):
    """Why a request gets no answer, in the fields of OpenAI's errors.

    Attributes:
        status: the HTTP status.
        message: one line for the user.
        kind: OpenAI's `type`, such as `invalid_request_error`.
        param: the field of the request that is wrong, if one is.
        code: OpenAI's `code`, such as `model_not_found`.
        headers: further headers, such as `retry-after`.
        details: our part of the error, as in the `arche` field of replies.
    """

    status: int
    message: str
    kind: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        """Return the error as the body of a response, or as the last event of a stream."""
        error: dict[str, Any] = {
            # A key in place of a value is replaced, as in the errors of the engine.
            "message": without_key_like(self.message),
            "type": self.kind, "param": self.param, "code": self.code,
        }  # fmt: skip
        if self.details:
            error["arche"] = self.details
        return {"error": error}

    def reply(self) -> HttpReply:
        """Return the error as a response."""
        return json_reply(self.body(), self.status, self.headers)


def missing(name: str) -> ApiError:
    """Return the error for a field that must be given."""
    return ApiError(400, f"{name} is missing", param=name, code="missing_required_parameter")


def json_type(value: object) -> str:
    """Return the JSON type of a value, in words."""
    names = {type(None): "null", bool: "a boolean", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def api_error_of(error: LLMProviderError, now: float) -> ApiError:
    """Return the error of a request in OpenAI's format; `now` is in epoch seconds."""
    opens_at = error.next_available_at
    # Tells official clients not to retry, because the engine has already waited and tried every
    # route (openai 2.0 to 3.57, `_base_client.py`).
    headers = {"x-should-retry": "false"}
    details: dict[str, Any] = {}
    if error.attempts:
        # One line each: official clients print the whole body as the error.
        details["attempts"] = [str(attempt) for attempt in error.attempts]
    if opens_at is not None:
        details["next_available_at"] = opens_at.isoformat()
        headers["retry-after"] = str(max(1, math.ceil(opens_at.timestamp() - now)))

    def problem(status: int, kind: str, code: str | None, param: str | None = None) -> ApiError:
        return ApiError(status, str(error), kind, param, code, headers, details)

    match error:
        case NoKeys():
            return problem(401, "authentication_error", "invalid_api_key")
        case ConfigurationError():
            return problem(400, "invalid_request_error", "configuration_error")
        case ContentFiltered():
            return problem(400, "invalid_request_error", "content_filter")
        case NotKept():
            return problem(400, "invalid_request_error", "not_kept")
        case InvalidRequest():
            return problem(400, "invalid_request_error", None, error.option or None)
        case SchemaMismatch():
            return problem(502, "server_error", "schema_mismatch", "response_format")
        case IncompleteReply() if not error.partial:
            return problem(400, "invalid_request_error", "incomplete_reply", "max_tokens")
        case NoRouteAvailable() if error.too_large:
            return problem(413, "invalid_request_error", "context_length_exceeded", "messages")
        case NoRouteAvailable() if error.timed_out:
            return problem(TIMED_OUT, "timeout_error", "timeout")
        case NoRouteAvailable() if opens_at is not None:
            return problem(429, "rate_limit_error", "rate_limit_exceeded")
    return problem(503, "server_error", "no_route_available")
