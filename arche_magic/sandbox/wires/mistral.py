"""Mistral's wire: chat completions with its headers and errors (recorded up to 2026-08).

Texts on tools are from github.com/nearai/ironclaw/issues/1241 (ids), mistralai/client-ts/issues/106
and datapizza-labs/datapizza-ai/issues/98 (order); texts marked "assumed" follow Mistral's style.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..models import MODELS
from ..types import Answer, Call, Caller, Refusal, Reply
from . import chat_replies, common, embeddings
from .chat_requests import read_chat
from .common import Error
from .openai import OpenAI

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The fields of ChatCompletionRequest in mistralai 3.7, which has no stream_options and no seed.
_KNOWN = common.names(
    """model messages temperature top_p max_tokens stream stop random_seed metadata response_format
    tools tool_choice presence_penalty frequency_penalty min_tokens repetition_penalty top_k
    logprobs top_logprobs prompt_logprobs top_prompt_logprobs n prediction parallel_tool_calls
    reasoning_effort prompt_mode guardrails prompt_cache_key service_tier safe_prompt"""
)
# By their names in headers. Limits per other periods have no headers.
_SHOWN = {
    "tokens-minute": "tokens_per_minute",
    "tokens-month": "tokens_per_month",
    "req-minute": "requests_per_minute",
}
_INTERNAL = "internal_server_error"
_ARGUMENTS = "invalid_request_invalid_args"
_ORDER = "invalid_request_message_order"
_LIMIT = Error("Rate limit exceeded", "1300", 429, "rate_limited")
_NO_MODEL = Error("Invalid model: {model}", "1500", 400, "invalid_model")
_VALUE = Error("Input should be one of {known}", None, 422, "literal_error")
# Those with status 422 become entries of the list in pydantic's format, with the type given here.
_ERRORS = {
    "no_key": Error("Unauthorized", status=401),
    "unauthorized": Error("Invalid API Key", status=401),
    "forbidden": Error("Forbidden", status=403),
    "limit": _LIMIT,
    "too_large": _LIMIT,
    "limit_zero": _LIMIT,
    "no_credit": _LIMIT,
    "not_in_plan": Error(
        "This model is not available in your current tier.", "1910", 403, "tier_not_allowed"
    ),
    "model_not_found": _NO_MODEL,
    "model_retired": _NO_MODEL,
    "not_for_chat": _NO_MODEL,
    "not_for_embeddings": _NO_MODEL,
    "context_too_long": Error(
        "Prompt contains {tokens} tokens and 0 draft tokens, too large for model with {window} "
        "maximum context length",
        "3051",
        type=_ARGUMENTS,
    ),
    # Not recorded: worded like its other refusals.
    "no_json_schema": Error(
        "response_format of type json_schema is not supported by {model}", "3000"
    ),
    "server_error": Error("Service unavailable.", "1000", 500, _INTERNAL),
    "echo_key": Error("Service unavailable for key {key}", "1000", 500, _INTERNAL),
    "overloaded": Error(
        "Service tier capacity exceeded for this model.",
        "3505",
        503,
        "service_tier_capacity_exceeded",
    ),
    # Problems of a request.
    "stated": Error("{text}", type="invalid_request_prompt"),
    "order": Error("Expected last role User or Tool but got {value}", "3230", type=_ORDER),
    "json": Error("JSON decode error", None, 422, "json_invalid"),
    "unknown": Error("Extra inputs are not permitted", None, 422, "extra_forbidden"),
    "missing": Error("Field required", None, 422, "missing"),
    "empty": Error(
        "List should have at least 1 item after validation, not 0", None, 422, "too_short"
    ),
    "above": Error("Input should be less than or equal to {bound}", None, 422, "less_than_equal"),
    "below": Error(
        "Input should be greater than or equal to {bound}", None, 422, "greater_than_equal"
    ),
    "type": Error("Input should be {expected}", None, 422, "type_error"),
    "value": _VALUE,
    "other": Error("Value error", None, 422, "value_error"),
    # Problems with tools.
    "no_tools": Error(  # assumed
        "Function calling is not enabled for this model", "3051", type=_ARGUMENTS
    ),
    "tool_name": Error(
        "Function name was {value} but must be a-z, A-Z, 0-9, or contain underscores and dashes, "
        "with a maximum length of 64.",
        "3280",
        type="invalid_function_call",
    ),
    "tool_schema": Error(  # assumed
        "Invalid tool schema for function {tool}: the type must be object", "3051", type=_ARGUMENTS
    ),
    "choice_alone": Error("tool_choice requires tools", "3051", type=_ARGUMENTS),
    "choice_unknown": Error(  # assumed
        "tool_choice names {tool}, which is not among the tools", "3051", type=_ARGUMENTS
    ),
    "choice_value": _VALUE,
    "call_id": Error(
        "Tool call id was {value} but must be a-z, A-Z, 0-9, with a length of 9.",
        "3280",
        type="invalid_function_call",
    ),
    "result_alone": Error("Unexpected role 'tool' after role '{value}'", "3230", type=_ORDER),
    "result_unknown": Error("Unexpected tool call id {value} in tool results", "3230", type=_ORDER),
    "calls_count": Error(
        "Not the same number of function calls and responses", "3230", type=_ORDER
    ),
    "order_after_tool": Error("Unexpected role '{value}' after role 'tool'", "3230", type=_ORDER),
}


class Mistral(OpenAI):
    """Mistral's chat completions and embeddings."""

    provider = "mistral"
    errors = _ERRORS
    roles = ("system", "user", "assistant", "tool")
    seed = "random_seed"
    least_seed = 0
    least_max_tokens = 0
    highest_temperature = 1.5
    most_stops = 16
    strict = False

    def read(self, body: Mapping[str, Any], path: str) -> Call:
        """Read and check a request, whose last message must not be a model's. Raises Refusal."""
        if path == "embeddings":
            return embeddings.read_mistral(body)
        call = read_chat(body, common.read_model(body, _KNOWN), self)
        last, message = call.messages[-1].role, body["messages"][-1]
        if last == "system" or (last == "assistant" and not message.get("prefix")):
            raise Refusal("order", value=last)
        return call

    def _headers(self, caller: Caller) -> common.Headers:
        """The headers of a stream. They have not stated limits since mid 2025."""
        return [
            ("mistral-correlation-id", caller.request_id),
            ("x-kong-request-id", caller.request_id),
        ]

    def _headers_with_limits(self, caller: Caller, cost: int) -> common.Headers:
        """The headers of an answer that does not stream; `cost` in tokens."""
        limits = chat_replies.limit_headers(caller, _SHOWN, resets=False)
        return [*self._headers(caller), *limits, ("x-ratelimit-tokens-query-cost", str(cost))]

    def answer(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The response to a call that does not stream."""
        value = chat_replies.completion(call, reply, caller, prefix="cmpl")
        for entry, one in zip(value["choices"], (reply, *reply.others), strict=True):
            for delta in chat_replies.calls_together(one.calls):
                entry["message"].update(delta)
        cost = value["usage"]["total_tokens"]
        return common.json_answer(value, self._headers_with_limits(caller, cost))

    def _chunk_fields(self, call: Call, reply: Reply, caller: Caller) -> dict[str, dict[str, Any]]:
        # Streams always report the usage. "p" is a padding field that real chunks have too.
        return {"every": {"p": "abcdef"}, "last": {"usage": chat_replies.usage_of(reply)}}

    def embeddings(self, call: Call, vectors: Sequence[list[float]], caller: Caller) -> Answer:
        """The response to a request for embeddings."""
        value = {"id": caller.request_id, **embeddings.chat_body(call, vectors)}
        value["usage"]["completion_tokens"] = 0
        cost = value["usage"]["total_tokens"]
        return common.json_answer(value, self._headers_with_limits(caller, cost))

    def _model_fields(self, name: str) -> dict[str, Any]:
        model = MODELS["mistral"][name]
        return {
            "owned_by": "mistralai",
            "capabilities": {
                "completion_chat": not model.dimensions,
                "completion_fim": False,
                "function_calling": model.tools and not model.dimensions,
            },
            "max_context_length": model.context_window,
            "type": "base",
        }

    def _error_headers(self, refusal: Refusal, caller: Caller) -> common.Headers:
        """Recorded 429s have only headers for tokens per minute, whichever limit was hit."""
        headers = self._headers(caller)
        if refusal.kind == "no_credit":
            headers.append(("x-ratelimit-limit-tokens-month", "1000000000"))
            headers.append(("x-ratelimit-remaining-tokens-month", "0"))
        elif refusal.breaches:
            zero = {breach.name for breach in refusal.breaches if breach.limit == 0}
            never = [what for what, name in _SHOWN.items() if name in zero]
            headers += [(f"x-ratelimit-limit-{what}", "0") for what in never]
            if not never:
                minute = {"tokens-minute": "tokens_per_minute"}
                headers += chat_replies.limit_headers(caller, minute, resets=False)
        return headers

    def _error_body(self, error: Error, details: Mapping[str, Any]) -> dict[str, Any]:
        """The body of an error, which has one of three forms."""
        text = error.words(details)
        if error.status == 422:
            place = str(details.get("param") or "").replace("[", ".").replace("]", "").split(".")
            location = ["body", *(int(part) if part.isdigit() else part for part in place if part)]
            value = details.get("value")
            return {"detail": [{"type": error.type, "loc": location, "msg": text, "input": value}]}
        code = details.get("code") or error.code
        if code is None:
            return {"detail": text}
        return {
            "object": "error",
            "message": text,
            "type": error.type,
            "param": None,
            "code": code,
            "raw_status_code": error.status,
        }

    def error_events(self, kind: str) -> list[bytes]:
        """The events of an error in the middle of a stream, if there is one of this kind."""
        # Not recorded: this assumes that Mistral sends its usual error as an event.
        return super().error_events(kind)[:1]
