"""Groq's wire: OpenAI's with Groq's headers and errors (recorded up to 2026-10).

Texts on tools are from BerriAI/litellm/issues/11001 and julep-ai/julep/issues/885; texts marked
"assumed" follow Groq's style.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..models import MODELS
from ..types import Answer, Call, Caller, Refusal, Reply
from . import chat_replies, common
from .chat_requests import read_chat
from .common import Error
from .openai import NO_JSON_WORD, NO_MODEL, OpenAI

if TYPE_CHECKING:
    from collections.abc import Mapping

# The parameters of chat.completions.create in groq 1.7, and stream_options, which Groq accepts.
_KNOWN = common.names(
    """citation_options compound_custom disable_tool_validation documents exclude_domains
    frequency_penalty function_call functions include_domains include_reasoning logit_bias logprobs
    max_completion_tokens max_tokens messages metadata model n parallel_tool_calls presence_penalty
    reasoning_effort reasoning_format response_format search_settings seed service_tier stop store
    stream stream_options temperature tool_choice tools top_logprobs top_p user"""
)
# By the maker of the model, from console.groq.com/docs/reasoning.
_EFFORTS = {"openai": ["low", "medium", "high"], "qwen": ["none", "default"]}
_INTERNAL = "internal_server_error"
_NO_STRICT = "invalid JSON schema for response_format: '{name}': {path}"
_ERRORS = {
    "no_key": Error("Invalid API Key", "invalid_api_key", 401),
    "unauthorized": Error("Invalid API Key", "invalid_api_key", 401),
    "forbidden": Error("Access denied. Please check your network settings.", status=403),
    "no_credit": Error(
        "Organization has been restricted. Please reach out to support if you believe this was in "
        "error.",
        "organization_restricted",
    ),
    "limit": Error(
        "Rate limit reached for model `{model}` in organization `org_sandbox_{account}` service "
        "tier `on_demand` on {what}: Limit {limit}, Used {used}, Requested {requested}. Please "
        "try again in {wait}. Need more tokens? Upgrade to Dev Tier today at "
        "https://console.groq.com/settings/billing",
        "rate_limit_exceeded",
        429,
    ),
    "too_large": Error(
        "Request too large for model `{model}` in organization `org_sandbox_{account}` service "
        "tier `on_demand` on {what}: Limit {limit}, Requested {requested}, please reduce your "
        "message size and try again. Need more tokens? Upgrade to Dev Tier today at "
        "https://console.groq.com/settings/billing",
        "rate_limit_exceeded",
        413,
    ),
    "limit_zero": NO_MODEL,
    "not_in_plan": NO_MODEL,
    "model_not_found": NO_MODEL,
    "unknown_url": Error(
        "Unknown request URL: POST /openai/v1/embeddings. Please check the URL for typos, or see "
        "the docs at https://console.groq.com/docs/",
        "unknown_url",
        404,
    ),
    "model_retired": Error(
        "The model `{model}` has been decommissioned and is no longer supported. Please refer to "
        "https://console.groq.com/docs/deprecations for a recommendation on which model to use "
        "instead.",
        "model_decommissioned",
    ),
    "context_too_long": Error(
        "Please reduce the length of the messages or completion.", param="messages"
    ),
    "no_json_schema": Error(
        "This model does not support response format `json_schema`. See supported models at "
        "https://console.groq.com/docs/structured-outputs#supported-models",
        param="response_format",
    ),
    "tool_use_failed": Error(
        "Failed to call a function. Please adjust your prompt. See 'failed_generation' for more "
        "details.",
        "tool_use_failed",
    ),
    "server_error": Error("Internal Server Error", None, 500, _INTERNAL),
    "echo_key": Error("Internal Server Error for key {key}", None, 500, _INTERNAL),
    "overloaded": Error(
        "{model} is currently over capacity. Please try again.", None, 503, _INTERNAL
    ),
    # Problems of a request.
    **{problem: Error(text) for problem, text in common.PLAIN.items()},
    "json": Error("We could not parse the JSON body of your request."),
    "missing": Error("'{param}' : property is missing"),
    "empty": Error("'{param}' : minimum number of items is 1"),
    "unknown": Error("property '{param}' is unsupported"),
    "no_json_word": NO_JSON_WORD,
    "json_with_tools": Error("json mode cannot be combined with tool/function calling"),
    "no_stream_format": Error("`response_format` does not support streaming"),
    # As reported in 2026.
    "schema_closed": Error(
        f"{_NO_STRICT}: `additionalProperties:false` must be set on every object"
    ),
    "schema_required": Error(
        f"{_NO_STRICT}/required: `required` is required to be supplied and to be an array "
        "including every key in properties. The following properties must be listed in "
        "`required`: {broken}"
    ),
    "schema_keyword": Error(f"{_NO_STRICT}: {{broken}} is not supported"),
    # Problems with tools.
    "no_tools": Error("`tool calling` is not supported with this model"),
    "too_many": Error("'tools' : maximum number of items is {bound}"),
    "tool_name": Error("'{param}' : value does not match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"),
    "tool_schema": Error(
        'invalid JSON schema for tool {tool}, {param}: `/type`: value must be "object"'
    ),
    "choice_alone": Error("'tool_choice' is set, but no tools were provided"),  # assumed
    "choice_unknown": Error("requested tool does not exist"),
    "choice_value": Error(
        "Only allowed string values for 'tool_choice' are none, auto, and required"
    ),
    "result_alone": Error(  # assumed; the text of the chat template of gpt-oss
        "Message has tool role, but there was no previous assistant message with a tool call!"
    ),
    "result_unknown": Error("'{param}' : no tool call has the id '{value}'"),  # assumed
}


class Groq(OpenAI):
    """Groq's chat completions."""

    provider = "groq"
    errors = _ERRORS
    minute = "minute"
    roles = ("system", "user", "assistant", "tool", "function", "developer")
    most_choices = 1

    def read(self, body: Mapping[str, Any], path: str) -> Call:
        """Read and check a request; JSON cannot be streamed. Raises Refusal."""
        if path == "embeddings":
            raise Refusal("unknown_url")
        call = read_chat(body, common.read_model(body, _KNOWN), self)
        for name in ("logprobs", "top_logprobs", "logit_bias"):
            # Refused according to console.groq.com/docs/openai, as are several choices.
            if body.get(name):
                raise Refusal("unknown", name)
        efforts = _EFFORTS.get(call.model.partition("/")[0], [])
        effort = body.get("reasoning_effort")
        if effort is not None and effort not in efforts:
            raise Refusal("value", "reasoning_effort", value=effort, known=efforts)
        if call.json_wanted and call.tools:
            raise Refusal("json_with_tools", "response_format")
        if call.json_wanted and call.stream:
            raise Refusal("no_stream_format", "response_format")
        return call

    def _headers(self, caller: Caller) -> common.Headers:
        return [
            ("x-request-id", caller.request_id),
            ("x-groq-region", "sandbox"),
            *chat_replies.limit_headers(
                caller, {"requests": "requests_per_day", "tokens": "tokens_per_minute"}
            ),
        ]

    def answer(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The response to a call that does not stream."""
        value = chat_replies.completion(call, reply, caller)
        value["usage"] = _usage(reply)
        value["x_groq"] = {"id": caller.request_id}
        value["service_tier"] = "on_demand"
        return common.json_answer(value, self._headers(caller))

    def _chunk_fields(self, call: Call, reply: Reply, caller: Caller) -> dict[str, dict[str, Any]]:
        own, usage = {"id": caller.request_id}, _usage(reply)
        last = {"x_groq": {**own, "usage": usage}}
        fields: dict[str, dict[str, Any]] = {"first": {"x_groq": own}, "last": last}
        if call.usage_wanted:
            fields["closing"] = {"usage": usage, "x_groq": own}
        return fields

    def _model_fields(self, name: str) -> dict[str, Any]:
        window = MODELS["groq"][name].context_window
        return {"owned_by": "sandbox", "active": True, "context_window": window}

    def _error_headers(self, refusal: Refusal, caller: Caller) -> common.Headers:
        if refusal.kind in ("no_key", "unauthorized"):
            return [("x-request-id", caller.request_id)]
        headers = self._headers(caller)
        if refusal.kind in ("limit", "too_large"):
            breach = refusal.breaches[0]
            wait = breach.wait_seconds
            if breach.too_large:
                # Recorded 413s have a retry-after header too, although waiting does not help.
                wait = (breach.requested - breach.limit) / breach.limit * 60
            headers.append(("retry-after", common.whole_seconds(wait)))
        return headers

    def _error_body(self, error: Error, details: Mapping[str, Any]) -> dict[str, Any]:
        # Parameter and code are left out if there are none.
        body = {
            "message": error.words(details),
            "type": details.get("type") or error.type,
            "param": error.param or details.get("param"),
            "failed_generation": details.get("failed_generation"),
            "code": error.code,
        }
        return {"error": {name: value for name, value in body.items() if value is not None}}

    def error_events(self, kind: str) -> list[bytes]:
        """The events of an error in the middle of a stream, as recorded."""
        error, details = _ERRORS[kind], {"failed_generation": ""}
        if kind == "server_error":
            error, details = Error("Internal server error", _INTERNAL, 500, _INTERNAL), {}
        body = self._error_body(error, details)
        body["error"]["status_code"] = error.status
        return [b"event: error\n" + common.event(body)]


def _usage(reply: Reply) -> dict[str, Any]:
    return {
        "queue_time": 0.001,
        "prompt_time": 0.001,
        "completion_time": 0.01,
        "total_time": 0.011,
        **chat_replies.usage_of(reply),
    }
