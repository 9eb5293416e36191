"""Answers requests of OpenAI's API: for clients in this process, and for the server.

    handle("POST", "/v1/chat/completions", {}, b'{"model": "auto", "messages": [...]}')

One request goes: `requests` reads it, the engine answers it, `replies` writes it. `errors` turns
what the engine raises into OpenAI's errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.config import Clock, SystemClock, get_configuration
from arche_magic.llm_providers.errors import LLMProviderError

from .chat import chat_completions
from .embeddings import embeddings
from .errors import Problem, problem_of
from .models import model_list, one_model
from .replies import HttpReply
from .requests import TAG_HEADER

LARGEST_BODY = 20_000_000
"""Bytes that a request may have."""
TOO_LONG = f"the body is longer than {LARGEST_BODY // 1_000_000} MB"

_CHAT, _EMBEDDINGS, _MODELS = "/v1/chat/completions", "/v1/embeddings", "/v1/models"
_ASKED = {_CHAT: chat_completions, _EMBEDDINGS: embeddings}
_SERVED = f"POST {_CHAT}, POST {_EMBEDDINGS}, GET {_MODELS}"
# The provider object of the configuration in use. It keeps the routes that it has found.
_kept: IntelligentLLMOrchestrator | None = None


def handle(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    defaults: Mapping[str, Any] | None = None,
    timeout: float | None = None,
) -> HttpReply:
    """Answer one request; blocks until there is a reply or the first piece of it.

    Errors are replies too, in OpenAI's shape.

    Args:
        method: `GET` or `POST`.
        path: decoded, without the query, from `/v1/` on.
        headers: `x-arche-tag` names the caller in the record of attempts.
        body: JSON.
        defaults: options of the engine, used where the body does not set them; see
            `requests.DEFAULTS`.
        timeout: seconds for the whole request; the option or the setting if not given.

    Raises:
        KeyboardInterrupt: the user interrupted it, or `stopping.stopped_by` did.
    """
    try:
        given = (defaults or {}).items()
        options = {name: value for name, value in given if value is not None}
        if timeout is not None:
            options["timeout"] = timeout
        return _answer(method.upper(), path, headers, body, options)
    except Problem as problem:
        return problem.reply()


def _answer(
    method: str, path: str, headers: Mapping[str, str], body: bytes, options: dict[str, Any]
) -> HttpReply:
    path = path.rstrip("/")
    name = path.removeprefix(f"{_MODELS}/") if path.startswith(f"{_MODELS}/") else ""
    if path == "/v1/responses":
        message = "the Responses API is not served; set your library to chat completions"
        raise Problem(404, message, code="not_found")
    if path not in (*_ASKED, _MODELS) and not name:
        raise Problem(404, f"unknown path {path or '/'}; available: {_SERVED}", code="not_found")
    allowed = "POST" if path in _ASKED else "GET"
    if method != allowed:
        message = f"{path} accepts {allowed}, not {method}"
        raise Problem(405, message, code="method_not_allowed", headers={"allow": allowed})
    if len(body) > LARGEST_BODY:
        raise Problem(413, TOO_LONG, code="body_too_large")
    tags = (text for header, text in headers.items() if header.lower() == TAG_HEADER)
    if tag := next(tags, ""):
        options["tag"] = tag
    clock: Clock = SystemClock()
    try:
        llm = _llm()
        clock = llm.configuration.clock
        if ask := _ASKED.get(path):
            return ask(body, llm, options)
        return one_model(name, llm.configuration) if name else model_list(llm.configuration)
    except LLMProviderError as error:
        raise problem_of(error, clock.time()) from None


def _llm() -> IntelligentLLMOrchestrator:
    global _kept
    llm, configuration = _kept, get_configuration()
    if llm is None or llm.configuration is not configuration:
        llm = _kept = IntelligentLLMOrchestrator(configuration=configuration)
    return llm
