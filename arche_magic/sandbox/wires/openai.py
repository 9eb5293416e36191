"""OpenAI's wire: chat completions with its headers and errors (recorded and reported to 2026).

The wires of Groq and Mistral are derived from it. Texts on tools are from vllm-project/vllm/pull/
40399 and writer/writer-framework/pull/1013.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..models import MODELS
from ..types import Answer, Call, Caller, Refusal, Reply
from . import chat_replies, common, embeddings
from .chat_requests import read_chat
from .common import Error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The parameters of chat.completions.create in openai 3.54.
_KNOWN = common.names(
    """audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens
    max_tokens messages metadata modalities model moderation n parallel_tool_calls prediction
    presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort
    response_format safety_identifier seed service_tier stop store stream stream_options temperature
    tool_choice tools top_logprobs top_p user verbosity web_search_options"""
)
_FIND_KEY = "You can find your API key at https://platform.openai.com/account/api-keys."
_INTERNAL = "The server had an error while processing your request. Sorry about that!"
NO_MODEL = Error(
    "The model `{model}` does not exist or you do not have access to it.", "model_not_found", 404
)
NO_JSON_WORD = Error(
    "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
    "'json_object'."
)
_NO_STRICT = "Invalid schema for response_format '{name}': In context={place}, "
_NO_STRICT_TOOL = "Invalid schema for function '{name}': In context={place}, "
_CLOSED = "'additionalProperties' is required to be supplied and to be false."
_REQUIRED = (
    "'required' is required to be supplied and to be an array including every key in properties. "
    "Missing '{broken}'."
)
_KEYWORD = "'{broken}' is not permitted."
_ALONE = "Invalid value for '{param}': '{param}' is only allowed when "

_ERRORS = {
    "no_key": Error(f"You didn't provide an API key. {_FIND_KEY}", status=401),
    "unauthorized": Error(
        f"Incorrect API key provided: {{masked}}. {_FIND_KEY}", "invalid_api_key", 401
    ),
    "forbidden": Error(
        "Country, region, or territory not supported",
        "unsupported_country_region_territory",
        403,
        "request_forbidden",
    ),
    "no_credit": Error(
        "You exceeded your current quota, please check your plan and billing details. For more "
        "information on this error, read the docs: "
        "https://platform.openai.com/docs/guides/error-codes/api-errors.",
        "insufficient_quota",
        429,
        "insufficient_quota",
    ),
    "limit": Error(
        "Rate limit reached for {model} in organization org-sandbox-{account} on {what}: Limit "
        "{limit}, Used {used}, Requested {requested}. Please try again in {wait}. Visit "
        "https://platform.openai.com/account/rate-limits to learn more.",
        "rate_limit_exceeded",
        429,
    ),
    "too_large": Error(
        "Request too large for {model} in organization org-sandbox-{account} on {what}: Limit "
        "{limit}, Requested {requested}. The input or output tokens must be reduced in order to "
        "run successfully. Visit https://platform.openai.com/account/rate-limits to learn more.",
        "rate_limit_exceeded",
        429,
    ),
    "limit_zero": NO_MODEL,
    "not_in_plan": NO_MODEL,
    "model_not_found": NO_MODEL,
    "model_retired": Error(
        "The model `{model}` has been deprecated, learn more here: "
        "https://platform.openai.com/docs/deprecations",
        "model_not_found",
        404,
    ),
    "not_for_chat": Error(
        "This is not a chat model and thus not supported in the v1/chat/completions endpoint. Did "
        "you mean to use v1/completions?",
        status=404,
        param="model",
    ),
    "not_for_embeddings": Error(
        "You are not allowed to generate embeddings from this model", status=403
    ),
    # Reported, not recorded.
    "no_logprobs": Error("You are not allowed to request logprobs from this model.", status=403),
    "context_too_long": Error(
        "This model's maximum context length is {window} tokens. However, your messages resulted "
        "in {tokens} tokens. Please reduce the length of the messages.",
        "context_length_exceeded",
        param="messages",
    ),
    "no_json_schema": Error(
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this "
        "model. Learn more about supported models at the Structured Outputs guide: "
        "https://platform.openai.com/docs/guides/structured-outputs"
    ),
    "server_error": Error(_INTERNAL, None, 500, "server_error"),
    "echo_key": Error(f"{_INTERNAL} (key {{key}})", None, 500, "server_error"),
    "overloaded": Error(
        "The server is currently overloaded. Please try again later.",
        "server_is_overloaded",
        503,
        "service_unavailable_error",
    ),
    # Problems of a request.
    "stated": Error("{text}"),
    "json": Error("We could not parse the JSON body of your request."),
    "unknown": Error("Unknown parameter: '{param}'.", "unknown_parameter"),
    "unsupported": Error(
        "Unsupported parameter: '{param}' is not supported with this model.",
        "unsupported_parameter",
    ),
    "use_instead": Error(
        "Unsupported parameter: '{param}' is not supported with this model. Use '{instead}' "
        "instead.",
        "unsupported_parameter",
    ),
    "only_default": Error(
        "Unsupported value: '{param}' does not support {value} with this model. Only the default "
        "(1) value is supported.",
        "unsupported_value",
    ),
    "missing": Error("Missing required parameter: '{param}'.", "missing_required_parameter"),
    "empty": Error(
        "Invalid '{param}': empty array. Expected an array with minimum length 1, but got an empty "
        "array instead.",
        "empty_array",
    ),
    "above": Error(
        "Invalid '{param}': decimal above maximum value. Expected a value <= {bound}, but got "
        "{value} instead.",
        "decimal_above_max_value",
    ),
    "below": Error(
        "Invalid '{param}': decimal below minimum value. Expected a value >= {bound}, but got "
        "{value} instead.",
        "decimal_below_min_value",
    ),
    "type": Error("Invalid type for '{param}': expected {expected}.", "invalid_type"),
    "value": Error("Invalid value: '{value}'. Supported values are: {known}.", "invalid_value"),
    "no_stream": Error("The 'stream_options' parameter is only allowed when 'stream' is enabled."),
    "no_json_word": NO_JSON_WORD,
    "schema_closed": Error(_NO_STRICT + _CLOSED),
    "schema_required": Error(_NO_STRICT + _REQUIRED),
    "schema_keyword": Error(_NO_STRICT + _KEYWORD),
    "without": Error(_ALONE + "'{needs}' is enabled."),
    "no_reasoning": Error("Unrecognized request argument supplied: {param}"),
    "other": Error("Invalid request.", "invalid_value"),
    # Problems with tools.
    "no_tools": Error(
        "tools is not supported in this model. For a list of supported models, refer to "
        "https://platform.openai.com/docs/guides/function-calling"
        "#models-supporting-function-calling."
    ),
    "too_many": Error(
        "Invalid '{param}': array too long. Expected an array with maximum length {bound}, but got "
        "an array with length {value} instead.",
        "array_above_max_length",
    ),
    "tool_name": Error(
        "Invalid '{param}': string does not match pattern. Expected a string that matches the "
        "pattern '^[a-zA-Z0-9_-]+$'.",
        "invalid_value",
    ),
    "tool_schema": Error(
        "Invalid schema for function '{tool}': schema must be a JSON Schema of 'type: \"object\"', "
        "got 'type: \"{value}\"'.",
        "invalid_function_parameters",
    ),
    "tool_closed": Error(_NO_STRICT_TOOL + _CLOSED, "invalid_function_parameters"),
    "tool_required": Error(_NO_STRICT_TOOL + _REQUIRED, "invalid_function_parameters"),
    "tool_keyword": Error(_NO_STRICT_TOOL + _KEYWORD, "invalid_function_parameters"),
    "parallel_alone": Error(_ALONE + "'tools' are specified."),
    "choice_alone": Error(_ALONE + "'tools' are specified."),
    "choice_unknown": Error("Tool choice 'function' not found in 'tools' parameter."),
    "choice_value": Error(
        "Invalid value: '{value}'. Supported values are: 'none', 'auto', and 'required'.",
        "invalid_value",
    ),
    "result_alone": Error(
        "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
        "with 'tool_calls'."
    ),
    "result_unknown": Error(
        "Invalid parameter: 'tool_call_id' of '{value}' not found in 'tool_calls' of previous "
        "message."
    ),
    "calls_alone": Error(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to "
        "each 'tool_call_id'. The following tool_call_ids did not have response messages: {value}"
    ),
}


class OpenAI:
    """OpenAI's chat completions and embeddings. Holds no state, like all wires."""

    provider = "openai"
    errors = _ERRORS
    minute = "min"  # the word for a minute in errors about limits
    # What requests may hold; `strict` says that strict schemas and prompts for JSON are checked.
    roles: tuple[str, ...] = ("system", "assistant", "user", "function", "tool", "developer")
    seed = "seed"  # the name of the parameter
    least_seed = -(2**63)
    least_max_tokens = 1
    highest_temperature = 2.0
    most_stops = 4
    most_choices = 128
    strict = True

    def key_text(self, headers: Mapping[str, str]) -> str | None:
        """The key in a request's headers, or None."""
        scheme, _, text = headers.get("authorization", "").partition(" ")
        return text.strip() or None if scheme.lower() == "bearer" else None

    def read(self, body: Mapping[str, Any], path: str) -> Call:
        """Read and check a request; `path` is its last part. Raises Refusal."""
        if path == "embeddings":
            return embeddings.read_openai(body)
        model = common.read_model(body, _KNOWN)
        _check_model(body, model)
        call = read_chat(body, model, self)
        if body.get("stream_options") and not call.stream:
            raise Refusal("no_stream", "stream_options")
        top = common.read_integer(body, "top_logprobs", 0)
        if top is not None and not body.get("logprobs"):
            raise Refusal("without", "top_logprobs", needs="logprobs")
        if top is not None and top > 20:
            raise Refusal("above", "top_logprobs", bound=20, value=top)
        return replace(call, top_logprobs=top or 0) if body.get("logprobs") else call

    def _headers(self, caller: Caller) -> common.Headers:
        """The headers of a response except its content type."""
        per_minute, per_day = "requests_per_minute", "requests_per_day"
        requests = per_minute if per_minute in caller.limits else per_day
        return [
            ("x-request-id", caller.request_id),
            ("openai-organization", f"org-sandbox-{caller.account}"),
            ("openai-project", f"proj_sandbox_{caller.account}"),
            ("openai-processing-ms", "1"),
            ("openai-version", "2020-10-01"),
            *chat_replies.limit_headers(
                caller, {"requests": requests, "tokens": "tokens_per_minute"}
            ),
        ]

    def answer(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The response to a call that does not stream."""
        value = chat_replies.completion(call, reply, caller)
        for entry, one in zip(value["choices"], (reply, *reply.others), strict=True):
            entry["message"]["refusal"] = None
            entry["logprobs"] = None
            if call.top_logprobs is not None and one.pieces:
                entry["logprobs"] = chat_replies.logprobs(one.pieces, call.top_logprobs)
        if reply.finish == "content_filter":
            # A refusal as recorded: no content, and finish_reason "stop".
            first = value["choices"][0]
            first["message"]["content"] = None
            first["message"]["refusal"] = "I'm sorry, but I can't assist with that request."
            first["finish_reason"] = "stop"
        value["service_tier"] = "default"
        return common.json_answer(value, self._headers(caller))

    def stream(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The response to a call that streams, with all its events."""
        fields = self._chunk_fields(call, reply, caller)
        events = chat_replies.events(call, reply, caller, fields)
        return common.event_answer(self._headers(caller), events)

    def _chunk_fields(self, call: Call, reply: Reply, caller: Caller) -> dict[str, dict[str, Any]]:
        if not call.usage_wanted:
            return {}
        none = {"usage": None}
        usage = {"usage": chat_replies.usage_of(reply)}
        return {"first": none, "every": none, "last": none, "closing": usage}

    def embeddings(self, call: Call, vectors: Sequence[list[float]], caller: Caller) -> Answer:
        """The response to a request for embeddings."""
        return common.json_answer(embeddings.chat_body(call, vectors), self._headers(caller))

    def models(self, name: str | None, caller: Caller) -> Answer:
        """The list of models, or one of them."""
        data = [
            {
                "id": model,
                "object": "model",
                "created": int(caller.now),
                **self._model_fields(model),
            }
            for model in MODELS[self.provider]
            if name in (None, model)
        ]
        return common.json_answer(data[0] if name else {"object": "list", "data": data}, [])

    def _model_fields(self, name: str) -> dict[str, Any]:
        return {"owned_by": "sandbox"}

    def refuse(self, refusal: Refusal, model: str, caller: Caller) -> Answer:
        """The provider's own response for a refusal of any kind."""
        error = self.errors.get(refusal.kind, self.errors["other"])
        details = {
            "model": model,
            "account": caller.account,
            "key": caller.key,
            "masked": f"{caller.key[:8]}{'*' * 20}{caller.key[-4:]}",
            **refusal.details,
        }
        if refusal.breaches:
            breach = refusal.breaches[0]
            details |= {
                "what": chat_replies.limit_words(breach, self.minute),
                "limit": breach.limit,
                "used": breach.used,
                "requested": breach.requested,
                "wait": common.go_duration(breach.wait_seconds),
            }
            if refusal.kind in ("limit", "too_large"):
                details["type"] = "requests" if breach.unit == "requests" else "tokens"
        headers = self._error_headers(refusal, caller)
        return common.json_answer(self._error_body(error, details), headers, error.status)

    def _error_headers(self, refusal: Refusal, caller: Caller) -> common.Headers:
        if refusal.kind in ("no_key", "unauthorized", "no_credit"):
            return [("x-request-id", caller.request_id)]
        headers = self._headers(caller)
        if refusal.kind == "overloaded":
            headers.append(("retry-after", "5"))
        if refusal.kind == "limit":
            wait = refusal.breaches[0].wait_seconds
            headers.append(("retry-after", common.whole_seconds(wait)))
            headers.append(("retry-after-ms", str(max(1, round(wait * 1000)))))
        return headers

    def _error_body(self, error: Error, details: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "error": {
                "message": error.words(details),
                "type": details.get("type") or error.type,
                "param": error.param or details.get("param"),
                "code": details.get("code") or error.code,
            }
        }

    def error_events(self, kind: str) -> list[bytes]:
        """The events of an error in the middle of a stream, if there is one of this kind.

        `kind` is "server_error", or "tool_use_failed" for a tool call that cannot be read.
        """
        if kind == "tool_use_failed":
            return []
        return [common.event(self._error_body(self.errors[kind], {})), common.DONE]


def _check_model(body: Mapping[str, Any], model: str) -> None:
    """Raise Refusal for parameters that this model does not accept (recorded 400s)."""
    known = MODELS["openai"].get(model)
    if known is None:
        return
    if not known.fixed_sampling:
        if body.get("reasoning_effort") is not None:
            raise Refusal("no_reasoning", "reasoning_effort")
        return
    if body.get("max_tokens") is not None:
        raise Refusal("use_instead", "max_tokens", instead="max_completion_tokens")
    if body.get("stop") is not None:
        raise Refusal("unsupported", "stop")
    if body.get("logprobs"):
        raise Refusal("no_logprobs")
    for name in ("temperature", "top_p"):
        if body.get(name) not in (None, 1):
            raise Refusal("only_default", name, value=body[name])
