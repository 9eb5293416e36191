"""Answers as HTTP carries them: JSON, server-sent events, and errors in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from arche_magic.llm_providers.text.characters import whole_characters

DONE = b"data: [DONE]\n\n"
"""The last event of every complete stream."""


@dataclass(frozen=True)
class HttpReply:
    """One HTTP response.

    Attributes:
        body: bytes, or an iterator of server-sent events. Closing the iterator (it is a generator)
            stops the request: the connection to the provider is dropped and the call is booked.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes | Iterator[bytes]


@dataclass(eq=False)
class Problem(Exception):
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
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code
        }  # fmt: skip
        if self.details:
            error["arche"] = self.details
        return {"error": error}

    def reply(self) -> HttpReply:
        """Return the error as a response."""
        return json_reply(self.body(), self.status, self.headers)


def json_reply(
    value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> HttpReply:
    """Return a response with a JSON body."""
    # A text may quote a lone surrogate of the request, which UTF-8 does not have.
    text = whole_characters(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    body = text.encode()
    return HttpReply(status, {"content-type": "application/json", **(headers or {})}, body)


def event(value: Mapping[str, Any]) -> bytes:
    """Return one server-sent event with a JSON object."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
