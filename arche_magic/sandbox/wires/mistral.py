"""Mistral's wire: chat completions with its headers and errors (recorded up to 2026-08)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..exchange import Answer, Call, Caller, Refusal, Reply
from ..models import MODELS
from . import base, embedding_requests
from .openai_like import ChatWire, call_object, completion, events, usage_of
from .tool_words import mistral_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..exchange import ToolCall

# The fields of ChatCompletionRequest in mistralai 3.7, which has no stream_options and no seed.
_KNOWN = base.names(
    """model messages temperature top_p max_tokens stream stop random_seed metadata response_format
    tools tool_choice presence_penalty frequency_penalty min_tokens repetition_penalty top_k
    logprobs top_logprobs prompt_logprobs top_prompt_logprobs n prediction parallel_tool_calls
    reasoning_effort prompt_mode guardrails prompt_cache_key service_tier safe_prompt"""
)

# The names in the headers. Limits per other periods have no headers.
_SHOWN = {
    "tokens_per_minute": "tokens-minute",
    "tokens_per_month": "tokens-month",
    "requests_per_minute": "req-minute",
}


class Mistral(ChatWire):
    """Mistral's chat completions."""

    provider = "mistral"
    known = _KNOWN
    roles = ("system", "user", "assistant", "tool")
    seed = "random_seed"
    least_seed = 0
    least_max_tokens = 0
    highest_temperature = 1.5
    most_stops = 16
    strict = False
    most_choices = 128

    def read(self, body: Mapping[str, Any], path: str) -> Call:
        """Read and check a request; the user or a tool must speak last. Raises Refusal."""
        call = super().read(body, path)
        if call.embedding is not None:
            return call
        last = call.messages[-1].role
        if last not in ("user", "tool") and not _is_prefix(body["messages"][-1]):
            raise Refusal("invalid_request", problem="order", value=last)
        return call

    def answer(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The whole reply as one JSON object."""
        value = completion(call, reply, caller, prefix="cmpl")
        for entry, one in zip(value["choices"], (reply, *reply.others), strict=True):
            for delta in _all_calls(one.calls):
                entry["message"].update(delta)
        value["usage"] = usage_of(reply)
        headers = _answer_headers(caller, reply.input_tokens + reply.output_tokens)
        return Answer(200, headers, base.json_bytes(value))

    def read_embeddings(self, body: Mapping[str, Any]) -> Call:
        """Read and check a request for embeddings. Raises Refusal."""
        return embedding_requests.read_mistral(body)

    def embeddings(self, call: Call, vectors: Sequence[list[float]], caller: Caller) -> Answer:
        """The response to a request for embeddings."""
        value = {"id": caller.request_id, **embedding_requests.chat_body(call, vectors)}
        value["usage"]["completion_tokens"] = 0
        headers = _answer_headers(caller, value["usage"]["total_tokens"])
        return Answer(200, headers, base.json_bytes(value))

    def stream(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The reply as server-sent events."""
        # Since mid 2025, streams have no rate-limit headers, and always report usage.
        sent = events(
            call,
            reply,
            caller,
            first={},
            last={"usage": usage_of(reply)},
            every={"p": "abcdef"},  # a padding field that real chunks have too
            closing=[],
            call_deltas=_all_calls,
            calls_at_end=True,
        )
        return Answer(200, _headers(base.EVENT_TYPE, caller), events=sent)

    def broken_off(self) -> list[bytes]:
        """An error in the middle of a stream."""
        # Not recorded: this assumes that Mistral sends its usual error as an event.
        return [base.event(_error("Service unavailable.", "internal_server_error", "1000", 500))]

    def refuse(self, refusal: Refusal, model: str, caller: Caller) -> Answer:
        """The error response for a refusal."""
        headers = _headers(base.JSON_TYPE, caller)
        if refusal.kind in ("limit", "too_large", "no_credit") or refusal.breaches:
            value = _error("Rate limit exceeded", "rate_limited", "1300", 429)
            return Answer(429, headers + _refused_headers(refusal, caller), base.json_bytes(value))
        status, value = _refused(refusal, model, caller.key)
        return Answer(status, headers, base.json_bytes(value))

    def model_fields(self, name: str, window: int) -> dict[str, Any]:
        """What the list of models says about a model."""
        model = MODELS[self.provider][name]
        return {
            "owned_by": "mistralai",
            "capabilities": {
                "completion_chat": not model.dimensions,
                "completion_fim": False,
                "function_calling": model.tools and not model.dimensions,
            },
            "max_context_length": window,
            "type": "base",
        }


def _all_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """One delta with all calls, as in github.com/comet-ml/opik/pull/7385, 2026-07."""
    entries = [{**call_object(made), "index": number} for number, made in enumerate(calls)]
    return [{"content": "", "tool_calls": entries}] if entries else []


def _is_prefix(message: Mapping[str, Any]) -> bool:
    return message.get("role") == "assistant" and bool(message.get("prefix"))


def _headers(content_type: tuple[str, str], caller: Caller) -> base.Headers:
    return [
        content_type,
        ("mistral-correlation-id", caller.request_id),
        ("x-kong-request-id", caller.request_id),
    ]


def _answer_headers(caller: Caller, cost: int) -> base.Headers:
    """The headers of an answer that does not stream; `cost` in tokens."""
    headers = _headers(base.JSON_TYPE, caller)
    for name, shown in _SHOWN.items():
        if name in caller.limits:
            headers += _limit_headers(shown, caller.limits[name].limit, caller, name)
    return [*headers, ("x-ratelimit-tokens-query-cost", str(cost))]


def _limit_headers(shown: str, limit: int, caller: Caller, name: str) -> base.Headers:
    return [
        (f"x-ratelimit-limit-{shown}", str(limit)),
        (f"x-ratelimit-remaining-{shown}", str(caller.limits[name].remaining)),
    ]


def _refused_headers(refusal: Refusal, caller: Caller) -> base.Headers:
    """Recorded 429s have only headers for tokens per minute, whichever limit was hit."""
    if refusal.kind == "no_credit":
        return [
            ("x-ratelimit-limit-tokens-month", "1000000000"),
            ("x-ratelimit-remaining-tokens-month", "0"),
        ]
    never = [b for b in refusal.breaches if b.limit == 0 and b.name in _SHOWN]
    if never:
        return [(f"x-ratelimit-limit-{_SHOWN[b.name]}", "0") for b in never]
    name = "tokens_per_minute"
    if name not in caller.limits:
        return []
    return _limit_headers(_SHOWN[name], caller.limits[name].limit, caller, name)


def _error(message: str, kind: str, code: str, status: int) -> dict[str, Any]:
    return {
        "object": "error",
        "message": message,
        "type": kind,
        "param": None,
        "code": code,
        "raw_status_code": status,
    }


def _refused(refusal: Refusal, model: str, key: str) -> tuple[int, dict[str, Any]]:
    window = refusal.details.get("window", 0)
    tokens = refusal.details.get("tokens", window + 1)
    too_long = (
        f"Prompt contains {tokens} tokens and 0 draft tokens, too large for model with {window} "
        "maximum context length"
    )
    unknown = _error(f"Invalid model: {model}", "invalid_model", "1500", 400)
    plan = "This model is not available in your current tier."
    table: dict[str, tuple[int, dict[str, Any]]] = {
        "no_key": (401, {"detail": "Unauthorized"}),
        "unauthorized": (401, {"detail": "Invalid API Key"}),
        "forbidden": (403, {"detail": "Forbidden"}),
        "not_in_plan": (403, _error(plan, "tier_not_allowed", "1910", 403)),
        "model_not_found": (400, unknown),
        "model_retired": (400, unknown),
        "context_too_long": (400, _error(too_long, "invalid_request_invalid_args", "3051", 400)),
        # Not recorded: worded like its other refusals.
        "no_json_schema": (
            400,
            _error(
                f"response_format of type json_schema is not supported by {model}",
                "invalid_request_error",
                "3000",
                400,
            ),
        ),
        "server_error": (
            500,
            _error("Service unavailable.", "internal_server_error", "1000", 500),
        ),
        "overloaded": (
            503,
            _error(
                "Service tier capacity exceeded for this model.",
                "service_tier_capacity_exceeded",
                "3505",
                503,
            ),
        ),
        "echo_key": (
            500,
            _error(
                f"Service unavailable for key {key}",
                "internal_server_error",
                "1000",
                500,
            ),
        ),
    }
    if refusal.kind in table:
        return table[refusal.kind]
    if refusal.details.get("problem") == "stated":
        kind = "invalid_request_prompt"
        return 400, _error(refusal.details["text"], kind, refusal.details["code"], 400)
    if words := mistral_words(refusal.details):
        return 400, _error(*words, 400)
    if refusal.details.get("problem") == "order":
        text = f"Expected last role User or Tool but got {refusal.details['value']}"
        return 400, _error(text, "invalid_request_message_order", "3230", 400)
    return 422, {"detail": [_validation(refusal.details)]}


def _validation(details: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of the list in a 422, in pydantic's format."""
    bound = details.get("bound")
    texts = {
        "unknown": ("extra_forbidden", "Extra inputs are not permitted"),
        "missing": ("missing", "Field required"),
        "empty": ("too_short", "List should have at least 1 item after validation, not 0"),
        "above": ("less_than_equal", f"Input should be less than or equal to {bound}"),
        "below": ("greater_than_equal", f"Input should be greater than or equal to {bound}"),
        "type": ("type_error", f"Input should be {details.get('expected')}"),
        "value": ("literal_error", f"Input should be one of {list(details.get('known', ()))}"),
        "json": ("json_invalid", "JSON decode error"),
    }
    kind, text = texts.get(str(details.get("problem")), ("value_error", "Value error"))
    place = str(details.get("param", "")).replace("[", ".").replace("]", "").split(".")
    location = ["body", *(int(part) if part.isdigit() else part for part in place if part)]
    return {"type": kind, "loc": location, "msg": text, "input": details.get("value")}
