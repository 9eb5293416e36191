"""Groq's wire: the OpenAI format with Groq's headers and errors (recorded up to 2026-10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..exchange import Answer, Call, Caller, Refusal, Reply
from . import base
from .openai_like import (
    ChatWire,
    chunk,
    completion,
    events,
    limit_headers,
    limit_words,
    usage_of,
    whole_calls,
)
from .tool_words import groq_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The parameters of chat.completions.create in groq 1.7, and stream_options, which Groq accepts.
_KNOWN = base.names(
    """citation_options compound_custom disable_tool_validation documents exclude_domains
    frequency_penalty function_call functions include_domains include_reasoning logit_bias logprobs
    max_completion_tokens max_tokens messages metadata model n parallel_tool_calls presence_penalty
    reasoning_effort reasoning_format response_format search_settings seed service_tier stop store
    stream stream_options temperature tool_choice tools top_logprobs top_p user"""
)
# By the maker of the model, from console.groq.com/docs/reasoning.
_EFFORTS = {"openai": ("low", "medium", "high"), "qwen": ("none", "default")}


class Groq(ChatWire):
    """Groq's chat completions."""

    provider = "groq"
    known = _KNOWN
    roles = ("system", "user", "assistant", "tool", "function", "developer")

    def read(self, body: Mapping[str, Any], path: str) -> Call:
        """Read and check a request; JSON cannot be streamed. Raises Refusal."""
        call = super().read(body, path)
        for name in ("logprobs", "top_logprobs", "logit_bias"):
            # Refused by console.groq.com/docs/openai, as are several choices.
            if body.get(name):
                raise Refusal("invalid_request", param=name, problem="unknown")
        efforts = _EFFORTS.get(call.model.partition("/")[0], ())
        effort = body.get("reasoning_effort")
        if effort is not None and effort not in efforts:
            raise Refusal(
                "invalid_request",
                param="reasoning_effort",
                problem="value",
                value=effort,
                known=efforts,
            )
        if call.json_wanted and call.tools:
            raise Refusal("invalid_request", param="response_format", problem="json_with_tools")
        if call.json_wanted and call.stream:
            raise Refusal("invalid_request", param="response_format", problem="no_stream_format")
        return call

    def _headers(self, caller: Caller, content_type: tuple[str, str]) -> base.Headers:
        return [
            content_type,
            ("x-request-id", caller.request_id),
            ("x-groq-region", "sandbox"),
            *limit_headers(caller, {"requests": "requests_per_day", "tokens": "tokens_per_minute"}),
        ]

    def _usage(self, reply: Reply) -> dict[str, Any]:
        return {
            "queue_time": 0.001,
            "prompt_time": 0.001,
            "completion_time": 0.01,
            "total_time": 0.011,
            **usage_of(reply),
        }

    def answer(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The whole reply as one JSON object."""
        value = completion(call, reply, caller)
        value["usage"] = self._usage(reply)
        value["x_groq"] = {"id": caller.request_id}
        value["service_tier"] = "on_demand"
        headers = self._headers(caller, base.JSON_TYPE)
        return Answer(200, headers, base.json_bytes(value))

    def embeddings(self, call: Call, vectors: Sequence[list[float]], caller: Caller) -> Answer:
        """Groq has no embeddings: `read` refuses the request before."""
        return Answer(404, [])

    def stream(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The reply as server-sent events."""
        usage = self._usage(reply)
        closing = []
        if call.usage_wanted:
            final = {"usage": usage, "x_groq": {"id": caller.request_id}}
            closing = [base.event(chunk(call, caller, [], **final))]
        return Answer(
            200,
            self._headers(caller, base.EVENT_TYPE),
            events=events(
                call,
                reply,
                caller,
                first={"x_groq": {"id": caller.request_id}},
                last={"x_groq": {"id": caller.request_id, "usage": usage}},
                every={},
                closing=closing,
                call_deltas=whole_calls,
            ),
        )

    def broken_off(self) -> list[bytes]:
        """An error in the middle of a stream."""
        value = _error("Internal server error", "internal_server_error", "internal_server_error")
        value["error"]["status_code"] = 500
        return [b"event: error\n" + base.event(value)]

    def failed_call(self) -> list[bytes]:
        """The error in a stream whose call of a tool cannot be read, as recorded."""
        value = _failed_call("")
        value["error"]["status_code"] = 400
        return [b"event: error\n" + base.event(value)]

    def refuse(self, refusal: Refusal, model: str, caller: Caller) -> Answer:
        """The error response for a refusal."""
        headers = self._headers(caller, base.JSON_TYPE)
        breach = refusal.breaches[0] if refusal.breaches else None
        if breach is not None and refusal.kind in ("limit", "too_large"):
            return _limit(breach, model, caller, headers)
        status, value = _refused(refusal, model, caller)
        if status == 401:
            headers = [base.JSON_TYPE, ("x-request-id", caller.request_id)]
        return Answer(status, headers, base.json_bytes(value))

    def model_fields(self, name: str, window: int) -> dict[str, Any]:
        """What the list of models says about a model."""
        return {"owned_by": "sandbox", "active": True, "context_window": window}


def _error(message: str, kind: str, code: str | None = None, **more: Any) -> dict[str, Any]:
    error = {"message": message, "type": kind, **more}
    return {"error": {**error, "code": code} if code else error}


def _failed_call(generation: str) -> dict[str, Any]:
    return _error(
        "Failed to call a function. Please adjust your prompt. See 'failed_generation' for more "
        "details.",
        "invalid_request_error",
        "tool_use_failed",
        failed_generation=generation,
    )


def _limit(breach: Any, model: str, caller: Caller, headers: base.Headers) -> Answer:
    """A 429, or a 413 if the request alone is larger than the limit."""
    where = (
        f"model `{model}` in organization `org_sandbox_{caller.account}` service tier `on_demand` "
        f"on {limit_words(breach, 'minute')}: Limit {breach.limit}"
    )
    kind = "requests" if breach.unit == "requests" else "tokens"
    upgrade = (
        "Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing"
    )
    if breach.too_large:
        text = (
            f"Request too large for {where}, Requested {breach.requested}, "
            f"please reduce your message size and try again. {upgrade}"
        )
        # Recorded 413s have a retry-after header too, although waiting does not help.
        wait = (breach.requested - breach.limit) / breach.limit * 60
        status = 413
    else:
        wait = breach.wait_seconds
        text = (
            f"Rate limit reached for {where}, Used {breach.used}, Requested {breach.requested}. "
            f"Please try again in {base.go_duration(wait)}. {upgrade}"
        )
        status = 429
    body = base.json_bytes(_error(text, kind, "rate_limit_exceeded"))
    return Answer(status, [*headers, ("retry-after", base.whole_seconds(wait))], body)


def _refused(refusal: Refusal, model: str, caller: Caller) -> tuple[int, dict[str, Any]]:
    invalid = "invalid_request_error"
    no_model = f"The model `{model}` does not exist or you do not have access to it."
    internal = "internal_server_error"
    table: dict[str, tuple[int, dict[str, Any]]] = {
        "no_key": (401, _error("Invalid API Key", invalid, "invalid_api_key")),
        "unauthorized": (401, _error("Invalid API Key", invalid, "invalid_api_key")),
        "forbidden": (403, _error("Access denied. Please check your network settings.", invalid)),
        "no_credit": (
            400,
            _error(
                "Organization has been restricted. Please reach out to support if you believe this "
                "was in error.",
                invalid,
                "organization_restricted",
            ),
        ),
        "not_in_plan": (404, _error(no_model, invalid, "model_not_found")),
        "model_not_found": (404, _error(no_model, invalid, "model_not_found")),
        "unknown_url": (
            404,
            _error(
                "Unknown request URL: POST /openai/v1/embeddings. Please check the URL for typos, "
                "or see the docs at https://console.groq.com/docs/",
                invalid,
                "unknown_url",
            ),
        ),
        "model_retired": (
            400,
            _error(
                f"The model `{model}` has been decommissioned and is no longer supported. Please "
                "refer to https://console.groq.com/docs/deprecations for a recommendation on which "
                "model to use instead.",
                invalid,
                "model_decommissioned",
            ),
        ),
        "context_too_long": (
            400,
            _error(
                "Please reduce the length of the messages or completion.",
                invalid,
                param="messages",
            ),
        ),
        "no_json_schema": (
            400,
            _error(
                "This model does not support response format `json_schema`. See supported models "
                "at https://console.groq.com/docs/structured-outputs#supported-models",
                invalid,
                param="response_format",
            ),
        ),
        "tool_use_failed": (400, _failed_call(refusal.details.get("generation", ""))),
        "server_error": (500, _error("Internal Server Error", internal)),
        "overloaded": (
            503,
            _error(f"{model} is currently over capacity. Please try again.", internal),
        ),
        "echo_key": (500, _error(f"Internal Server Error for key {caller.key}", internal)),
    }
    if refusal.kind in table:
        return table[refusal.kind]
    details = refusal.details or {"param": "messages", "problem": "other"}
    more = {"param": details["param"]} if "param" in details else {}
    return 400, _error(groq_words(details) or base.explain(details), invalid, **more)
