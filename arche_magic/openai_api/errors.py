"""Errors in OpenAI's shape: status, type, code, and when to ask again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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

from .replies import HttpReply, json_reply

TIMED_OUT = 504
"""The status of a request that was not answered within its timeout; no other error has it."""


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


def problem_of(error: LLMProviderError, now: float) -> Problem:
    """Return an error of the engine in OpenAI's shape.

    Args:
        error: what the request ended with.
        now: epoch seconds, for `retry-after`.
    """
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

    def problem(status: int, kind: str, code: str | None, param: str | None = None) -> Problem:
        return Problem(status, str(error), kind, param, code, headers, details)

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
