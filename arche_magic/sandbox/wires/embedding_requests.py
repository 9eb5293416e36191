"""Requests for embeddings and their replies, for OpenAI, Mistral and Gemini.

Sources: the parameters in openai 3.57, mistralai 3.7 and google-genai 3.6; the limits of OpenAI in
openai/types/embedding_create_params.py; error texts in github.com/assafelovic/gpt-researcher/
issues/1500 and pingcap/autoflow/issues/265 (OpenAI), chroma-core/chroma/pull/5597 and
raphaelmansuy/edgequake-llm/pull/74 (Mistral), geldata/gel/issues/9032 (Gemini).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

from ..embeddings import as_base64
from ..exchange import Call, EmbeddingInputs, Refusal
from ..models import MODELS
from ..replies import text_tokens
from . import base
from .google_tools import field, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OPENAI = base.names("input model dimensions encoding_format user")
_MISTRAL = base.names("input model metadata output_dimension output_dtype encoding_format")
_GOOGLE = base.names("model content taskType title outputDimensionality embedContentConfig")
_MOST_OPENAI = 2_048  # texts of a request
_MOST_MISTRAL = 512
_MOST_GOOGLE = 100
_TEXT_TOKENS = 8_192  # tokens of one text, for OpenAI and Mistral
_ALL_OPENAI = 300_000  # tokens of a request
_ALL_MISTRAL = 16_384
_CUT_GOOGLE = 2_048  # tokens of one text; Gemini ignores the rest


def _refuse(text: str, code: str | None = None, param: str | None = None) -> NoReturn:
    raise Refusal("invalid_request", problem="stated", text=text, code=code, param=param)


def read_openai(body: Mapping[str, Any]) -> Call:
    """A request to OpenAI. Raises Refusal."""
    model = _model(body, _OPENAI)
    given = body.get("input")
    if given is None:
        raise Refusal("invalid_request", param="input", problem="missing")
    items = [given] if isinstance(given, str) or _is_tokens(given) else given
    if not isinstance(items, list):
        raise Refusal("invalid_request", param="input", problem="type", expected="a string")
    if not items:
        raise Refusal("invalid_request", param="input", problem="empty")
    if len(items) > _MOST_OPENAI:
        _refuse(
            f"Invalid 'input': array too long. Expected an array with maximum length "
            f"{_MOST_OPENAI}, but got an array with length {len(items)} instead.",
            "array_above_max_length",
            "input",
        )
    for number, item in enumerate(items):
        if item in ("", []):
            _refuse(f"Invalid 'input[{number}]': input cannot be an empty string.", None, "input")
        if not isinstance(item, str) and not _is_tokens(item):
            _refuse("'$.input' is invalid. Please check the API reference.", None, "input")
    tokens = [text_tokens(item) if isinstance(item, str) else len(item) for item in items]
    if (most := max(tokens)) > _TEXT_TOKENS:
        _refuse(
            f"This model's maximum context length is {_TEXT_TOKENS} tokens, however you requested "
            f"{most} tokens ({most} in your prompt; 0 for the completion). Please reduce your "
            "prompt; or completion length."
        )
    if sum(tokens) > _ALL_OPENAI:
        code = "max_tokens_per_request"
        text = f"Requested {sum(tokens)} tokens, max {_ALL_OPENAI} tokens per request"
        raise Refusal(
            "invalid_request", problem="stated", text=text, code=code, param=None, type=code
        )
    dimensions = base.check_integer(body, "dimensions", 1)
    length = _length("openai", model)
    if dimensions is not None and length and dimensions > length:
        _refuse(
            f"Invalid value for 'dimensions' = {dimensions}. Must be less than or equal to "
            f"{length}."
        )
    texts = tuple(item if isinstance(item, str) else json.dumps(item) for item in items)
    return _call("openai", model, texts, tokens, dimensions, base64=_is_base64(body))


def read_mistral(body: Mapping[str, Any]) -> Call:
    """A request to Mistral. Raises Refusal."""
    model = _model(body, _MISTRAL)
    given = body.get("input")
    if given is None:
        raise Refusal("invalid_request", param="input", problem="missing")
    items = [given] if isinstance(given, str) else given
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise Refusal("invalid_request", param="input", problem="type", expected="a valid string")
    if not items:
        raise Refusal("invalid_request", param="input", problem="empty")
    if body.get("output_dtype") not in (None, "float"):
        _refuse(f"output_dtype is not supported by {model}", "3051")
    if body.get("output_dimension") is not None:
        _refuse(f"output_dimension is not supported by {model}", "3051")
    if len(items) > _MOST_MISTRAL:
        _refuse("Too many inputs in request, split into more batches.", "3210")
    tokens = [text_tokens(item) for item in items]
    for number, count in enumerate(tokens):
        if count > _TEXT_TOKENS:
            _refuse(
                f"Input id {number} has {count} tokens, exceeding max {_TEXT_TOKENS} tokens.",
                "3210",
            )
    if sum(tokens) > _ALL_MISTRAL:
        _refuse("Too many tokens overall, split into more batches.", "3210")
    return _call("mistral", model, tuple(items), tokens, None, base64=_is_base64(body))


def read_google(body: Mapping[str, Any], model: str, method: str) -> Call:
    """A request to Gemini's embedContent or batchEmbedContents. Raises Refusal."""
    single = method == "embedContent"
    if single:
        entries: list[Any] = [body]
    else:
        base.check_known(body, base.names("requests"), "")
        entries = field(body, "requests") or []
    if not entries:
        invalid("* BatchEmbedContentsRequest.requests: requests is not specified\n")
    if len(entries) > _MOST_GOOGLE:
        invalid(
            f"* BatchEmbedContentsRequest.requests: at most {_MOST_GOOGLE} requests can be in one "
            "batch\n"
        )
    texts, dimensions = [], None
    for entry in entries:
        base.check_known(entry, _GOOGLE, "requests")
        parts = (entry.get("content") or {}).get("parts") or []
        text = "".join(str(part.get("text", "")) for part in parts)
        if not text:
            invalid("The text content is empty.")
        texts.append(text)
        config = field(entry, "embedContentConfig") or entry
        dimensions = base.check_integer(config, "outputDimensionality", 1) or dimensions
    length = _length("google", model)
    if dimensions is not None and length and dimensions > length:
        invalid(
            f"* EmbedContentRequest.output_dimensionality: must be less than or equal to {length}\n"
        )
    tokens = [min(_CUT_GOOGLE, text_tokens(text)) for text in texts]
    kept = tuple(text[: 4 * _CUT_GOOGLE] for text in texts)
    return _call("google", model, kept, tokens, dimensions, single=single)


def chat_body(call: Call, vectors: Sequence[list[float]]) -> dict[str, Any]:
    """The reply of OpenAI and Mistral."""
    given = call.embedding
    data = [
        {
            "object": "embedding",
            "index": number,
            "embedding": as_base64(vector) if given and given.base64 else vector,
        }
        for number, vector in enumerate(vectors)
    ]
    tokens = sum(given.tokens) if given else 0
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": call.model, "usage": usage}


def google_body(call: Call, vectors: Sequence[list[float]]) -> dict[str, Any]:
    """The reply of Gemini."""
    values = [{"values": vector} for vector in vectors]
    if call.embedding and call.embedding.single:
        return {"embedding": values[0]} if values else {}
    return {"embeddings": values}


def _model(body: Mapping[str, Any], known: frozenset[str]) -> str:
    for name in body:
        if name not in known:
            raise Refusal("invalid_request", param=name, problem="unknown", value=body[name])
    if not isinstance(body.get("model"), str):
        raise Refusal("invalid_request", param="model", problem="missing")
    return str(body["model"])


def _is_tokens(value: object) -> bool:
    """Whether a value is a text as a list of token numbers."""
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _is_base64(body: Mapping[str, Any]) -> bool:
    kind = body.get("encoding_format") or "float"
    if kind not in ("float", "base64"):
        raise Refusal(
            "invalid_request",
            param="encoding_format",
            problem="value",
            value=kind,
            known=("float", "base64"),
        )
    return bool(kind == "base64")


def _length(provider: str, model: str) -> int:
    known = MODELS[provider].get(model)
    return known.dimensions if known else 0


def _call(
    provider: str,
    model: str,
    texts: tuple[str, ...],
    tokens: Sequence[int],
    dimensions: int | None,
    *,
    base64: bool = False,
    single: bool = False,
) -> Call:
    inputs = EmbeddingInputs(texts, tuple(tokens), dimensions, base64, single)
    return Call(provider=provider, model=model, messages=(), embedding=inputs)
