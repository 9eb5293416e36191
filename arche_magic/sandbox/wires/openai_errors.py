"""OpenAI's errors, as recorded and reported up to 2026."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..exchange import Answer, Breach, Caller, Refusal
from . import base
from .openai_like import limit_words
from .tool_words import openai_words

if TYPE_CHECKING:
    from collections.abc import Mapping


def error_body(
    message: str, kind: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def limit_answer(breach: Breach, model: str, caller: Caller, headers: base.Headers) -> Answer:
    """The 429 for a limit."""
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
    body = base.json_bytes(error_body(text, kind, "rate_limit_exceeded"))
    return Answer(429, headers, body)


def refused_body(refusal: Refusal, model: str, caller: Caller) -> tuple[int, dict[str, Any]]:
    """The status and body for every refusal that is not about a limit."""
    invalid = "invalid_request_error"
    masked = f"{caller.key[:8]}{'*' * 20}{caller.key[-4:]}"
    find = "You can find your API key at https://platform.openai.com/account/api-keys."
    no_model = f"The model `{model}` does not exist or you do not have access to it."
    retired = f"The model `{model}` has been deprecated, learn more here: "
    window = refusal.details.get("window", 0)
    tokens = refusal.details.get("tokens", window + 1)
    internal = "The server had an error while processing your request. Sorry about that!"
    table: dict[str, tuple[int, dict[str, Any]]] = {
        "no_key": (401, error_body(f"You didn't provide an API key. {find}", invalid)),
        "unauthorized": (
            401,
            error_body(f"Incorrect API key provided: {masked}. {find}", invalid, "invalid_api_key"),
        ),
        "forbidden": (
            403,
            error_body(
                "Country, region, or territory not supported",
                "request_forbidden",
                "unsupported_country_region_territory",
            ),
        ),
        "no_credit": (
            429,
            error_body(
                "You exceeded your current quota, please check your plan and billing details. For "
                "more information on this error, read the docs: "
                "https://platform.openai.com/docs/guides/error-codes/api-errors.",
                "insufficient_quota",
                "insufficient_quota",
            ),
        ),
        "not_in_plan": (404, error_body(no_model, invalid, "model_not_found")),
        "unknown_url": (404, error_body("Invalid URL", invalid)),
        "model_not_found": (404, error_body(no_model, invalid, "model_not_found")),
        "model_retired": (
            404,
            error_body(
                retired + "https://platform.openai.com/docs/deprecations",
                invalid,
                "model_not_found",
            ),
        ),
        "context_too_long": (
            400,
            error_body(
                f"This model's maximum context length is {window} tokens. However, your messages "
                f"resulted in {tokens} tokens. Please reduce the length of the messages.",
                invalid,
                "context_length_exceeded",
                "messages",
            ),
        ),
        "no_json_schema": (
            400,
            error_body(
                "Invalid parameter: 'response_format' of type 'json_schema' is not supported with "
                "this model. Learn more about supported models at the Structured Outputs guide: "
                "https://platform.openai.com/docs/guides/structured-outputs",
                invalid,
            ),
        ),
        # Reported, not recorded.
        "no_logprobs": (
            403,
            error_body("You are not allowed to request logprobs from this model.", invalid),
        ),
        "server_error": (500, error_body(internal, "server_error")),
        "overloaded": (
            503,
            error_body(
                "The server is currently overloaded. Please try again later.",
                "service_unavailable_error",
                "server_is_overloaded",
            ),
        ),
        "echo_key": (500, error_body(f"{internal} (key {caller.key})", "server_error")),
    }
    if refusal.details.get("other_kind"):
        if refusal.details["embedding"]:
            text = "You are not allowed to generate embeddings from this model"
            return 403, error_body(text, invalid)
        text = (
            "This is not a chat model and thus not supported in the v1/chat/completions endpoint. "
            "Did you mean to use v1/completions?"
        )
        return 404, error_body(text, invalid, param="model")
    return table.get(refusal.kind) or (400, _invalid(refusal.details))


def _broken_rule(details: Mapping[str, Any]) -> str:
    """Which rule a strict schema breaks, as reported from 2024 to 2026."""
    name = details.get("name")
    return {
        "closed": "'additionalProperties' is required to be supplied and to be false.",
        "required": (
            "'required' is required to be supplied and to be an array including every key in "
            f"properties. Missing '{name}'."
        ),
        "keyword": f"'{name}' is not permitted.",
    }.get(str(details.get("rule")), "")


def _schema_words(details: Mapping[str, Any]) -> str:
    return (
        f"Invalid schema for response_format '{details.get('schema')}': In "
        f"context={details.get('place', ())}, {_broken_rule(details)}"
    )


def _invalid(details: Mapping[str, Any]) -> dict[str, Any]:
    param, value, bound = (details.get(name) for name in ("param", "value", "bound"))
    instead = details.get("instead")
    if details.get("problem") == "stated":
        kind = str(details.get("type", "invalid_request_error"))
        return error_body(details["text"], kind, details["code"], param)
    if words := openai_words(details, _broken_rule(details)):
        return error_body(words[0], "invalid_request_error", words[1], param)
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
        "without": (
            (
                f"Invalid value for '{param}': '{param}' is only allowed when "
                f"'{details.get('needs')}' is enabled."
            ),
            None,
        ),
        "no_reasoning": (f"Unrecognized request argument supplied: {param}", None),
    }
    text, code = texts.get(str(details.get("problem")), ("Invalid request.", "invalid_value"))
    return error_body(text, "invalid_request_error", code, param)
