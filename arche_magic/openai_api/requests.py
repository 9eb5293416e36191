"""Converts the body of a chat completion to arguments of the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from arche_magic.llm_providers.config import Configuration
from arche_magic.llm_providers.errors import ConfigurationError
from arche_magic.llm_providers.options import build_request, check_names
from arche_magic.llm_providers.request import Request

from .replies import ApiError

AUTO = "auto"
"""As `model`: any route may answer."""

TAG_HEADER = "x-arche-tag"
# Fields that the engine has under the same name. All others are sent as `extra`.
_OURS = (
    "max_tokens", "temperature", "top_p", "stop", "seed", "tools", "tool_choice",
    "parallel_tool_calls",
)  # fmt: skip
# These are read here: they determine who answers, and in which form.
_HANDLED = ("model", "messages", "stream", "stream_options", "max_completion_tokens")

DEFAULTS = (
    "model", "provider", "patience", "timeout", "private", "same_model", "keep", "fresh", "tag",
    "reserve", "fallback_on_filter", "system", "temperature", "top_p", "max_tokens", "stop", "seed",
)  # fmt: skip
"""The options of `openai_client(...)`, used where a request does not set them."""


def read_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        ApiError: it is something else.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        where = f" ({error})" if isinstance(error, json.JSONDecodeError) else ""
        raise ApiError(400, f"the body is not JSON{where}") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the body is {_json_type(value)}; it must be a JSON object")
    return value


def read_chat(
    body: Mapping[str, Any], configuration: Configuration, options: Mapping[str, Any]
) -> tuple[Request, bool, bool]:
    """Return the request, whether it is streamed, and whether the last chunk has the usage.

    `options` of the engine are used where the body does not set them.

    Raises:
        ApiError: a field is missing or wrong, or the model is unknown.
        InvalidRequest, ConfigurationError: as `build_request`.
    """
    given = {name: value for name, value in body.items() if value is not None}
    if "model" not in given and "model" not in options:
        raise missing("model")
    messages = _messages(given.get("messages"))
    options = {**options, **{name: given[name] for name in _OURS if name in given}}
    if "max_completion_tokens" in given:
        most = given["max_completion_tokens"]
        if given.get("max_tokens", most) != most:
            both = "max_tokens and max_completion_tokens are the same; use one"
            raise ApiError(400, both, param="max_tokens")
        options["max_tokens"] = most
    options |= who_answers(given.get("model", options.get("model")), options, configuration)
    extra = {name: given[name] for name in given if name not in (*_OURS, *_HANDLED)}
    if extra:
        options["extra"] = extra
    stream = _flag("stream", given.get("stream", False))
    stream_options = given.get("stream_options", {})
    if not isinstance(stream_options, dict):
        raise _wrong("stream_options", stream_options, "an object")
    request = build_request(messages, configuration, **options)
    include_usage = _flag("include_usage", stream_options.get("include_usage") or False)
    return request, stream, include_usage


def who_answers(
    model: object, options: Mapping[str, Any], configuration: Configuration
) -> dict[str, str | None]:
    """Return the engine's `provider` and `model` for OpenAI's `model`.

    It is `auto`, a provider, `provider/model`, a model, or an alias of the settings.

    Raises:
        ApiError: it names nothing that is known.
    """
    if not isinstance(model, str):
        raise _wrong("model", model, "text")
    if model == AUTO:
        return {"model": None}
    if model in configuration.providers:
        return {"provider": model, "model": None}
    try:
        configuration.resolve_model(model, options.get("provider"))
    except ConfigurationError as error:
        raise ApiError(
            404, f"{error}. GET /v1/models lists them", param="model", code="model_not_found"
        ) from None
    return {"model": model}


def check_defaults(defaults: Mapping[str, Any], configuration: Configuration) -> None:
    """Check options for every request of a client.

    Raises:
        InvalidRequest: an option is unknown or its value is wrong.
        ConfigurationError: the provider or the model is unknown.
    """
    check_names(defaults, DEFAULTS)
    options = {name: value for name, value in defaults.items() if value is not None}
    model = options.pop("model", None)
    if options.get("provider") is not None:
        configuration.provider(options["provider"])
    try:
        who = who_answers(model, options, configuration) if model is not None else {}
    except ApiError as problem:
        raise ConfigurationError(problem.message) from None
    build_request("any", configuration, **(options | who))


def _messages(messages: Any) -> list[dict[str, Any]]:
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list) or not all(isinstance(entry, dict) for entry in messages):
        raise _wrong("messages", messages, "a list of objects")
    if not messages:
        raise ApiError(400, "messages is empty; it must have at least one", param="messages")
    if any("images" in entry for entry in messages):
        # The engine would read files at paths in `images`, and a client must not name files of this
        # machine.
        message = "images is not a field of a message; use parts of the type image_url"
        raise ApiError(400, message, param="messages")
    return messages


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def missing(name: str) -> ApiError:
    """Return the error for a field that must be given."""
    return ApiError(400, f"{name} is missing", param=name, code="missing_required_parameter")


def _wrong(name: str, value: object, rule: str) -> ApiError:
    return ApiError(
        400, f"{name} is {_json_type(value)}; it must be {rule}", param=name, code="invalid_type"
    )


def _json_type(value: object) -> str:
    """Return the JSON type of a value, in words."""
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
