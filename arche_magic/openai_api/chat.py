"""Chat completions: reads the request, asks the engine, and answers in one piece or in chunks."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.config import Configuration
from arche_magic.llm_providers.errors import ConfigurationError, LLMProviderError
from arche_magic.llm_providers.events import Discarded, Event, Piece
from arche_magic.llm_providers.options import build_request, check_names
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.types import RouteId

from .replies import (
    ApiError,
    Chunks,
    HttpReply,
    api_error_of,
    completion,
    event,
    json_reply,
    json_type,
    missing,
    route_header,
)

AUTO = "auto"
"""As `model`: any route may answer."""

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


def chat_completions(
    given: Mapping[str, Any], llm: IntelligentLLMOrchestrator, options: Mapping[str, Any]
) -> HttpReply:
    """Answer `POST /v1/chat/completions`; see `handler.handle`.

    Raises:
        ApiError: the request is wrong.
        LLMProviderError: the request is wrong, or no route answered it.
    """
    stream_options = given.get("stream_options", {})
    if not isinstance(stream_options, dict):
        raise _wrong("stream_options", stream_options, "an object")
    include_usage = _flag("include_usage", stream_options.get("include_usage") or False)
    stream = _flag("stream", given.get("stream", False))
    request = _request(given, llm.configuration, options)
    # Several choices arrive only at the end of a reply, so nothing can be streamed before that.
    if stream and not request.needs_choices:
        return _streamed(request, include_usage, llm)
    reply = llm.ask(request)
    if stream:
        return _events_of(reply, include_usage)
    return json_reply(completion(reply), headers=route_header(reply.route))


# --- the request


def _request(
    given: Mapping[str, Any], configuration: Configuration, options: Mapping[str, Any]
) -> Request:
    """Return the engine's request; its `options` are used where the body does not set them."""
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
    return build_request(messages, configuration, **options)


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


def _wrong(name: str, value: object, rule: str) -> ApiError:
    message = f"{name} is {json_type(value)}; it must be {rule}"
    return ApiError(400, message, param=name, code="invalid_type")


# --- the stream


def _stream_reply(chunks: Iterator[bytes], route: RouteId) -> HttpReply:
    headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    return HttpReply(200, headers | route_header(route), chunks)


def _events_of(reply: Reply, include_usage: bool) -> HttpReply:
    """Return the stream of a reply that has arrived."""
    return _stream_reply(Chunks(reply.model, include_usage).whole(reply), reply.route)


def _streamed(request: Request, include_usage: bool, llm: IntelligentLLMOrchestrator) -> HttpReply:
    """Return the response of a streamed request, once its first text has arrived."""
    events = llm.events_of(request)
    try:
        while True:
            first = next(events)
            if isinstance(first, Piece) and first.route is not None:
                break
            # A kept reply is one piece, and its route is known only at its end.
    except StopIteration as end:
        return _events_of(end.value, include_usage)
    chunks = Chunks(first.route.model, include_usage)
    stream = _events(chunks, llm, first, events)
    # Started, so that closing it before the first chunk is read also closes the request.
    next(stream)
    return _stream_reply(stream, first.route.id)


def _events(
    chunks: Chunks, llm: IntelligentLLMOrchestrator, first: Event,
    events: Generator[Event, None, Reply],
) -> Iterator[bytes]:  # fmt: skip
    """Yield the chunks of a streamed request, from its first text on."""
    got = first
    try:
        yield b""
        yield chunks.chunk({"role": "assistant", "content": "", "refusal": None})
        try:
            while True:
                if isinstance(got, Piece):
                    yield chunks.chunk({"content": got.text})
                elif isinstance(got, Discarded):
                    # Text that was sent cannot be taken back, so the reply ends here.
                    raise got.error
                got = next(events)
        except StopIteration as end:
            yield from chunks.end(end.value)
    except LLMProviderError as error:
        yield event(api_error_of(error, llm.configuration.clock.time()).body())
    finally:
        events.close()
