"""Answers requests of OpenAI's API: for clients in this process, and for the server.

    handle("POST", "/v1/chat/completions", b'{"model": "auto", "messages": [...]}')

`chat` and `embeddings` read the request, the engine answers it, and `replies` writes the reply or
the error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, Tool
from arche_magic.llm_providers.config import (
    Clock,
    Configuration,
    SystemClock,
    get_configuration,
)
from arche_magic.llm_providers.errors import LLMProviderError
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.request import Image, Message, Request
from arche_magic.llm_providers.text.wording import shortened

from .chat import AUTO, chat_completions, who_answers
from .embeddings import embeddings
from .replies import ApiError, HttpReply, api_error_of, json_reply, json_type

TAG_HEADER = "x-arche-tag"
LARGEST_BODY = 20_000_000
"""Bytes that a request may have."""
TOO_LONG = f"the body is longer than {LARGEST_BODY // 1_000_000} MB"

_CHAT, _EMBEDDINGS, _MODELS = "/v1/chat/completions", "/v1/embeddings", "/v1/models"
_ASKED = {_CHAT: chat_completions, _EMBEDDINGS: embeddings}
_SERVED = f"POST {_CHAT}, POST {_EMBEDDINGS}, GET {_MODELS}"
# Requests that test what a listed model supports.
_EXAMPLES = {
    "images": Request((Message("user", "", (Image("image/png", b""),)),)),
    "tools": Request((Message("user", ""),), tools=(Tool("any"),)),
}
# The provider object of the configuration in use. It is reused because it caches its routes.
_kept: IntelligentLLMOrchestrator | None = None


def handle(
    method: str,
    path: str,
    body: bytes,
    *,
    tag: str = "",
    defaults: Mapping[str, Any] | None = None,
) -> HttpReply:
    """Answer one request; blocks until there is a reply or its first piece.

    Errors are replies too, in OpenAI's format.

    Args:
        method: `GET` or `POST`.
        path: the decoded path without the query, starting with `/v1/`.
        body: JSON.
        tag: names the caller in the record of attempts; from the header `x-arche-tag`.
        defaults: options of the engine, used where the body does not set them; see
            `chat.DEFAULTS`.

    Raises:
        KeyboardInterrupt: the user interrupted it, or `stopping.stopped_by` did.
    """
    try:
        given = (defaults or {}).items()
        options = {name: value for name, value in given if value is not None}
        if tag:
            options["tag"] = tag
        return _answer(method.upper(), path, body, options)
    except ApiError as problem:
        return problem.reply()


def _answer(method: str, path: str, body: bytes, options: Mapping[str, Any]) -> HttpReply:
    path = path.rstrip("/")
    name = path.removeprefix(f"{_MODELS}/") if path.startswith(f"{_MODELS}/") else ""
    if path == "/v1/responses":
        message = "the Responses API is not served; set your library to chat completions"
        raise ApiError(404, message, code="not_found")
    if path not in (*_ASKED, _MODELS) and not name:
        message = f"unknown path {shortened(path, 100) or '/'}; available: {_SERVED}"
        raise ApiError(404, message, code="not_found")
    allowed = "POST" if path in _ASKED else "GET"
    if method != allowed:
        message = f"{path} accepts {allowed}, not {method}"
        raise ApiError(405, message, code="method_not_allowed", headers={"allow": allowed})
    if len(body) > LARGEST_BODY:
        raise ApiError(413, TOO_LONG, code="body_too_large")
    clock: Clock = SystemClock()
    try:
        llm = _llm()
        clock = llm.configuration.clock
        if ask := _ASKED.get(path):
            return ask(_read_json(body), llm, options)
        if name:
            return _one_model(name, llm.configuration)
        return json_reply({"object": "list", "data": list(_listed(llm.configuration))})
    except LLMProviderError as error:
        raise api_error_of(error, clock.time()) from None


def _read_json(body: bytes) -> dict[str, Any]:
    """Return the fields of a body that are not null."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        where = f" ({error})" if isinstance(error, json.JSONDecodeError) else ""
        raise ApiError(400, f"the body is not JSON{where}") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the body is {json_type(value)}; it must be a JSON object")
    return {name: field for name, field in value.items() if field is not None}


def _llm() -> IntelligentLLMOrchestrator:
    global _kept
    llm, configuration = _kept, get_configuration()
    if llm is None or llm.configuration is not configuration:
        llm = _kept = IntelligentLLMOrchestrator(configuration=configuration)
    return llm


def _one_model(name: str, configuration: Configuration) -> HttpReply:
    """Answer `GET /v1/models/NAME`; accepts bare names of models and unlisted names too."""
    for entry in _listed(configuration):
        if entry["id"] == name:
            return json_reply(entry)
    who_answers(name, {}, configuration)
    return json_reply(_named(name, configuration))


def _listed(configuration: Configuration) -> Iterator[dict[str, Any]]:
    yield {**_entry(AUTO, "arche_magic"), "context_window": None, "takes": None}
    for alias in configuration.aliases:
        yield _named(alias, configuration)
    with_key = {key.provider for key in configuration.keys}
    for provider in configuration.providers.values():
        if provider.name not in with_key:
            continue
        if provider.models:
            yield _model(provider.name, provider.name, provider.models[0], configuration)
            for name in dict.fromkeys([*provider.models, *sorted(provider.known_models)]):
                yield _model(f"{provider.name}/{name}", provider.name, name, configuration)
        for name, about in provider.embedding_models.items():
            yield {
                **_entry(f"{provider.name}/{name}", provider.name),
                "context_window": about.tokens_per_text or None,
                "takes": {"images": False, "embeddings": True},
            }


def _named(name: str, configuration: Configuration) -> dict[str, Any]:
    owner, models = next(iter(configuration.resolve_model(name).items()))
    return _model(name, owner, models[0], configuration)


def _model(id_: str, owner: str, model: str, configuration: Configuration) -> dict[str, Any]:
    return {
        **_entry(id_, owner),
        "context_window": configuration.providers[owner].context_windows.get(model),
        "takes": _takes(owner, model, configuration),
    }


def _takes(owner: str, model: str, configuration: Configuration) -> dict[str, bool] | None:
    """Return what a model supports: everything, except what the catalog or a refusal excludes."""
    key = next((key for key in configuration.keys if key.provider == owner), None)
    if key is None:
        return None
    tracker, now = get_quota_tracker(configuration), configuration.clock.time()
    route = configuration.route(key, model)
    states = {name: tracker.state(route, request, now) for name, request in _EXAMPLES.items()}
    return {name: not state.is_unsuitable for name, state in states.items()}


def _entry(id_: str, owner: str) -> dict[str, Any]:
    return {"id": id_, "object": "model", "created": 0, "owned_by": owner}
