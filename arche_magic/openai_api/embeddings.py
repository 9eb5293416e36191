"""Embeddings: reads the request, asks one model in batches, and answers in OpenAI's format."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.config import Configuration
from arche_magic.llm_providers.embeddings import choose_model, embedding_request, in_batches
from arche_magic.llm_providers.errors import ConfigurationError, LLMProviderError, NoKeys
from arche_magic.llm_providers.options import shown
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.text.wording import shortened
from arche_magic.llm_providers.types import Usage, little_endian

from .chat import AUTO
from .replies import (
    ApiError,
    HttpReply,
    api_error_of,
    json_reply,
    missing,
    route_details,
    route_header,
)

_FIELDS = ("model", "input", "encoding_format", "dimensions")
_FORMATS = ("float", "base64")
_MOST_TEXTS = 2048
# The options of a client that embedding requests have too.
_OPTIONS = ("patience", "timeout", "private", "tag", "reserve")


def embeddings(
    given: Mapping[str, Any], llm: IntelligentLLMOrchestrator, options: Mapping[str, Any]
) -> HttpReply:
    """Answer `POST /v1/embeddings`; see `handler.handle`.

    All vectors come from one model of one provider, in as many requests as its limits require.

    Raises:
        ApiError: the request is wrong, or the model did not answer it.
        NoKeys: no provider with an embedding model has a key.
    """
    configuration = llm.configuration
    texts, encoding = _texts(given), given.get("encoding_format", "float")
    if encoding not in _FORMATS:
        message = f"encoding_format is {shown(encoding)}; it can be {' or '.join(_FORMATS)}"
        raise ApiError(400, message, param="encoding_format")
    for name in given:
        if name not in _FIELDS:
            known = ", ".join(_FIELDS)
            message = f"{shortened(name, 100)} is not a known field; known fields: {known}"
            raise ApiError(400, message, param=name, code="unknown_parameter")
    provider, model = _model(given, configuration, options.get("provider"))
    options = {name: options[name] for name in _OPTIONS if name in options}
    try:
        # If one text is wrong, none of them is sent.
        request = embedding_request(
            texts, configuration, provider, model, dimensions=given.get("dimensions"), **options
        )
        replies = _ask(request, llm)
    except LLMProviderError as error:
        problem = api_error_of(error, configuration.clock.time())
        if problem.status in (400, 413) and problem.param in (None, "messages"):
            problem.param = "input"
        raise problem from None
    return _answer(replies, encoding)


def _texts(given: Mapping[str, Any]) -> list[str]:
    value = given.get("input")
    if value is None:
        raise missing("input")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise ApiError(400, "input must be a text or a list of texts", param="input")
    if any(isinstance(text, int | list) for text in texts):
        raise ApiError(
            400,
            "input is a list of tokens, but only texts are accepted, because each model has "
            "its own tokens (in LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))",
            param="input",
            code="invalid_type",
        )
    if len(texts) > _MOST_TEXTS:
        message = f"input has {len(texts):,} texts; the limit is {_MOST_TEXTS:,}"
        raise ApiError(400, message, param="input")
    return texts


def _model(
    given: Mapping[str, Any], configuration: Configuration, provider: str | None
) -> tuple[str, str]:
    name = given.get("model")
    if not isinstance(name, str):
        code = "missing_required_parameter" if name is None else "invalid_type"
        raise ApiError(400, "model must be the name of a model", param="model", code=code)
    try:
        return choose_model(configuration, None if name == AUTO else name, provider)
    except NoKeys:
        raise
    except ConfigurationError as error:
        raise ApiError(404, str(error), param="model", code="model_not_found") from None


def _ask(whole: Request, llm: IntelligentLLMOrchestrator) -> list[Reply]:
    """Return the replies to all texts of a request, in their order."""
    clock = llm.configuration.clock
    ends, replies = clock.time() + whole.timeout, []
    for batch in in_batches(whole.inputs, whole, llm.routes(whole), llm.quota_tracker):
        left = max(0.001, ends - clock.time())
        count = len(batch) if whole.counts_as > 1 else 1
        replies.append(llm.ask(replace(whole, inputs=batch, timeout=left, counts_as=count)))
    return replies


def _answer(replies: Sequence[Reply], encoding: str) -> HttpReply:
    vectors = [vector for reply in replies for vector in reply.vectors]
    whole = replies[-1].changed(
        usage=Usage(sum(reply.usage.input_tokens for reply in replies)),
        attempts=tuple(attempt for reply in replies for attempt in reply.attempts),
        cost=None if any(r.cost is None for r in replies) else sum(r.cost or 0 for r in replies),
    )
    tokens = whole.usage.input_tokens
    data = [
        {"object": "embedding", "index": place, "embedding": _encoded(vector, encoding)}
        for place, vector in enumerate(vectors)
    ]
    answer = {
        "object": "list",
        "data": data,
        "model": whole.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "arche": route_details(whole),
    }
    return json_reply(answer, headers=route_header(whole.route))


def _encoded(vector: array[float], encoding: str) -> list[float] | str:
    if encoding == "float":
        return vector.tolist()
    return base64.b64encode(little_endian(vector).tobytes()).decode("ascii")
