"""OpenAI's wire: chat completions with its headers and errors (recorded up to 2026)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..exchange import Answer, Breach, Call, Caller, Refusal, Reply
from ..models import MODELS
from . import base
from .openai_like import (
    ChatWire,
    chunk,
    completion,
    events,
    limit_headers,
    limit_words,
    usage_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# The parameters of chat.completions.create in openai 3.54.
_KNOWN = base.names(
    """audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens
    max_tokens messages metadata modalities model moderation n parallel_tool_calls prediction
    presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort
    response_format safety_identifier seed service_tier stop store stream stream_options temperature
    tool_choice tools top_logprobs top_p user verbosity web_search_options"""
)


class OpenAI(ChatWire):
    """OpenAI's chat completions."""

    provider = "openai"
    known = _KNOWN
    roles = ("system", "assistant", "user", "function", "tool", "developer")

    def check_model(self, body: Mapping[str, Any]) -> None:
        """Raise Refusal for sampling parameters of a reasoning model."""
        known = MODELS[self.provider].get(body["model"])
        if known is not None and known.fixed_sampling:
            _check_fixed(body)

    def read(self, body: Mapping[str, Any], path: str) -> Call:
        """Read and check a request; only streams have stream_options. Raises Refusal."""
        call = super().read(body, path)
        if body.get("stream_options") and not call.stream:
            raise Refusal("invalid_request", param="stream_options", problem="no_stream")
        return call

    def _headers(self, caller: Caller, content_type: tuple[str, str]) -> base.Headers:
        requests = "requests_per_minute"
        if requests not in caller.limits:
            requests = "requests_per_day"
        return [
            content_type,
            ("x-request-id", caller.request_id),
            ("openai-organization", f"org-sandbox-{caller.account}"),
            ("openai-project", f"proj_sandbox_{caller.account}"),
            ("openai-processing-ms", "1"),
            ("openai-version", "2020-10-01"),
            *limit_headers(caller, {"requests": requests, "tokens": "tokens_per_minute"}),
        ]

    def answer(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The whole reply as one JSON object."""
        value = completion(call, reply, caller)
        message = value["choices"][0]["message"]
        message["refusal"] = None
        if reply.finish == "content_filter":
            # A refusal as recorded: no content, and finish_reason "stop".
            message["content"] = None
            message["refusal"] = "I'm sorry, but I can't assist with that request."
            value["choices"][0]["finish_reason"] = "stop"
        value["choices"][0]["logprobs"] = None
        value["usage"] = usage_of(reply)
        value["service_tier"] = "default"
        return Answer(200, self._headers(caller, base.JSON_TYPE), base.json_bytes(value))

    def stream(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The reply as server-sent events."""
        closing = []
        every: dict[str, Any] = {}
        if call.usage_wanted:
            every = {"usage": None}
            closing = [base.event(chunk(call, caller, [], usage=usage_of(reply)))]
        return Answer(
            200,
            self._headers(caller, base.EVENT_TYPE),
            events=events(
                call, reply, caller, first=every, last=every, every=every, closing=closing
            ),
        )

    def broken_off(self) -> list[bytes]:
        """An error in the middle of a stream."""
        text = "The server had an error while processing your request. Sorry about that!"
        return [base.event(_error(text, "server_error")), base.DONE]

    def refuse(self, refusal: Refusal, model: str, caller: Caller) -> Answer:
        """The error response for a refusal."""
        headers = self._headers(caller, base.JSON_TYPE)
        breach = refusal.breaches[0] if refusal.breaches else None
        if breach is not None and refusal.kind in ("limit", "too_large"):
            return _limit(breach, model, caller, headers)
        status, value = _refused(refusal, model, caller)
        if status == 401 or refusal.kind == "no_credit":
            headers = [base.JSON_TYPE, ("x-request-id", caller.request_id)]
        if refusal.kind == "overloaded":
            headers.append(("retry-after", "5"))
        return Answer(status, headers, base.json_bytes(value))

    def model_fields(self, window: int) -> dict[str, Any]:
        """What the list of models says about each."""
        return {"owned_by": "sandbox"}


def _check_fixed(body: Mapping[str, Any]) -> None:
    """Raise Refusal for parameters that reasoning models refuse (recorded 400s)."""
    if body.get("max_tokens") is not None:
        raise Refusal(
            "invalid_request",
            param="max_tokens",
            problem="unsupported",
            instead="max_completion_tokens",
        )
    if body.get("stop") is not None:
        raise Refusal("invalid_request", param="stop", problem="unsupported")
    for name in ("temperature", "top_p"):
        if body.get(name) not in (None, 1):
            raise Refusal(
                "invalid_request", param=name, problem="only_default", value=body[name], default=1
            )


def _error(
    message: str, kind: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _limit(breach: Breach, model: str, caller: Caller, headers: base.Headers) -> Answer:
    where = (
        f"{model} in organization org-sandbox-{caller.account} on {limit_words(breach, 'min')}: "
        f"Limit {breach.limit}"
    )
    kind = "requests" if breach.unit == "requests" else "tokens"
    if breach.too_large:
        text = (
            f"Request too large for {where}, Requested {breach.requested}. The input or output "
            "tokens must be reduced in order to run successfully. Visit "
            "https://platform.openai.com/account/rate-limits to learn more."
        )
    else:
        wait = breach.wait_seconds
        text = (
            f"Rate limit reached for {where}, Used {breach.used}, Requested {breach.requested}. "
            f"Please try again in {base.go_duration(wait)}. Visit "
            "https://platform.openai.com/account/rate-limits to learn more."
        )
        headers = [
            *headers,
            ("retry-after", base.whole_seconds(wait)),
            ("retry-after-ms", str(max(1, round(wait * 1000)))),
        ]
    body = base.json_bytes(_error(text, kind, "rate_limit_exceeded"))
    return Answer(429, headers, body)


def _refused(refusal: Refusal, model: str, caller: Caller) -> tuple[int, dict[str, Any]]:
    invalid = "invalid_request_error"
    masked = f"{caller.key[:8]}{'*' * 20}{caller.key[-4:]}"
    find = "You can find your API key at https://platform.openai.com/account/api-keys."
    no_model = f"The model `{model}` does not exist or you do not have access to it."
    retired = f"The model `{model}` has been deprecated, learn more here: "
    window = refusal.details.get("window", 0)
    tokens = refusal.details.get("tokens", window + 1)
    internal = "The server had an error while processing your request. Sorry about that!"
    table: dict[str, tuple[int, dict[str, Any]]] = {
        "no_key": (401, _error(f"You didn't provide an API key. {find}", invalid)),
        "unauthorized": (
            401,
            _error(f"Incorrect API key provided: {masked}. {find}", invalid, "invalid_api_key"),
        ),
        "forbidden": (
            403,
            _error(
                "Country, region, or territory not supported",
                "request_forbidden",
                "unsupported_country_region_territory",
            ),
        ),
        "no_credit": (
            429,
            _error(
                "You exceeded your current quota, please check your plan and billing details. For "
                "more information on this error, read the docs: "
                "https://platform.openai.com/docs/guides/error-codes/api-errors.",
                "insufficient_quota",
                "insufficient_quota",
            ),
        ),
        "not_in_plan": (404, _error(no_model, invalid, "model_not_found")),
        "model_not_found": (404, _error(no_model, invalid, "model_not_found")),
        "model_retired": (
            404,
            _error(
                retired + "https://platform.openai.com/docs/deprecations",
                invalid,
                "model_not_found",
            ),
        ),
        "context_too_long": (
            400,
            _error(
                f"This model's maximum context length is {window} tokens. However, your messages "
                f"resulted in {tokens} tokens. Please reduce the length of the messages.",
                invalid,
                "context_length_exceeded",
                "messages",
            ),
        ),
        "no_json_schema": (
            400,
            _error(
                "Invalid parameter: 'response_format' of type 'json_schema' is not supported with "
                "this model. Learn more about supported models at the Structured Outputs guide: "
                "https://platform.openai.com/docs/guides/structured-outputs",
                invalid,
            ),
        ),
        "server_error": (500, _error(internal, "server_error")),
        "overloaded": (
            503,
            _error(
                "The server is currently overloaded. Please try again later.",
                "service_unavailable_error",
                "server_is_overloaded",
            ),
        ),
        "echo_key": (500, _error(f"{internal} (key {caller.key})", "server_error")),
    }
    return table.get(refusal.kind) or (400, _invalid(refusal.details))


def _schema_words(details: Mapping[str, Any]) -> str:
    """OpenAI's error for a strict schema that breaks a rule, as reported from 2024 to 2026."""
    name = details.get("name")
    words = {
        "closed": "'additionalProperties' is required to be supplied and to be false.",
        "required": (
            "'required' is required to be supplied and to be an array including every key in "
            f"properties. Missing '{name}'."
        ),
        "keyword": f"'{name}' is not permitted.",
    }.get(str(details.get("rule")), "")
    place = details.get("place", ())
    return (
        f"Invalid schema for response_format '{details.get('schema')}': In context={place}, {words}"
    )


def _invalid(details: Mapping[str, Any]) -> dict[str, Any]:
    param, value, bound = (details.get(name) for name in ("param", "value", "bound"))
    instead = details.get("instead")
    texts = {
        "unknown": (f"Unknown parameter: '{param}'.", "unknown_parameter"),
        "unsupported": (
            f"Unsupported parameter: '{param}' is not supported with this model."
            + (f" Use '{instead}' instead." if instead else ""),
            "unsupported_parameter",
        ),
        "only_default": (
            (
                f"Unsupported value: '{param}' does not support {value} with this model. Only the "
                "default (1) value is supported."
            ),
            "unsupported_value",
        ),
        "missing": (f"Missing required parameter: '{param}'.", "missing_required_parameter"),
        "empty": (
            (
                f"Invalid '{param}': empty array. Expected an array with minimum length 1, but "
                "got an empty array instead."
            ),
            "empty_array",
        ),
        "above": (
            (
                f"Invalid '{param}': decimal above maximum value. Expected a value <= {bound}, but "
                f"got {value} instead."
            ),
            "decimal_above_max_value",
        ),
        "below": (
            (
                f"Invalid '{param}': decimal below minimum value. Expected a value >= {bound}, but "
                f"got {value} instead."
            ),
            "decimal_below_min_value",
        ),
        "type": (
            f"Invalid type for '{param}': expected {details.get('expected')}.",
            "invalid_type",
        ),
        "value": (
            f"Invalid value: '{value}'. Supported values are: {list(details.get('known', ()))}.",
            "invalid_value",
        ),
        "no_stream": (
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            None,
        ),
        "json": ("We could not parse the JSON body of your request.", None),
        "no_json_word": (base.NO_JSON_WORD, None),
        "schema": (_schema_words(details), None),
    }
    text, code = texts.get(str(details.get("problem")), ("Invalid request.", "invalid_value"))
    return _error(text, "invalid_request_error", code, param)
