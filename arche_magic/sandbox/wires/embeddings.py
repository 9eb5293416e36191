"""Embeddings of OpenAI, Mistral and Gemini: requests, vectors and replies.

Vectors have length 1, are the same for equal texts, and close for texts that share words.

Sources: the parameters in openai 3.57, mistralai 3.7 and google-genai 3.6; the limits of OpenAI in
openai/types/embedding_create_params.py; error texts in github.com/assafelovic/gpt-researcher/
issues/1500 and pingcap/autoflow/issues/265 (OpenAI), chroma-core/chroma/pull/5597 and
raphaelmansuy/edgequake-llm/pull/74 (Mistral), geldata/gel/issues/9032 (Gemini).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
import struct
from typing import TYPE_CHECKING, Any

from ..models import MODELS
from ..replies import text_tokens
from ..types import Call, EmbeddingInputs, Refusal
from .common import names, read_integer, read_model, stated
from .google_requests import check_known, field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OPENAI = names("input model dimensions encoding_format user")
_MISTRAL = names("input model metadata output_dimension output_dtype encoding_format")
_GOOGLE = names("model content taskType title outputDimensionality embedContentConfig")
_MOST_OPENAI = 2_048  # texts of a request
_MOST_MISTRAL = 512
_MOST_GOOGLE = 100
_TEXT_TOKENS = 8_192  # tokens of one text, for OpenAI and Mistral
_ALL_OPENAI = 300_000  # tokens of a request
_ALL_MISTRAL = 16_384
_CUT_GOOGLE = 2_048  # tokens of one text; Gemini ignores the rest
_WORD = re.compile(r"\w+")
_SPREAD = 24  # how many numbers of a vector a word changes
_WHOLE = 0.2  # the weight of the whole text; the weight of a word is its length


def read_openai(body: Mapping[str, Any]) -> Call:
    """A request to OpenAI. Raises Refusal."""
    model = read_model(body, _OPENAI)
    items = _items(body)
    if len(items) > _MOST_OPENAI:
        raise Refusal("too_many", "input", bound=_MOST_OPENAI, value=len(items))
    for number, item in enumerate(items):
        if item in ("", []):
            stated(f"Invalid 'input[{number}]': input cannot be an empty string.", param="input")
        if not isinstance(item, str) and not _is_tokens(item):
            stated("'$.input' is invalid. Please check the API reference.", param="input")
    tokens = [text_tokens(item) if isinstance(item, str) else len(item) for item in items]
    if (most := max(tokens)) > _TEXT_TOKENS:
        stated(
            f"This model's maximum context length is {_TEXT_TOKENS} tokens, however you requested "
            f"{most} tokens ({most} in your prompt; 0 for the completion). Please reduce your "
            "prompt; or completion length."
        )
    if sum(tokens) > _ALL_OPENAI:
        code = "max_tokens_per_request"
        text = f"Requested {sum(tokens)} tokens, max {_ALL_OPENAI} tokens per request"
        raise Refusal("stated", text=text, code=code, type=code)
    dimensions = read_integer(body, "dimensions", 1)
    length = _length("openai", model)
    if dimensions is not None and length and dimensions > length:
        stated(
            f"Invalid value for 'dimensions' = {dimensions}. Must be less than or equal to "
            f"{length}."
        )
    texts = tuple(item if isinstance(item, str) else json.dumps(item) for item in items)
    inputs = EmbeddingInputs(texts, sum(tokens), dimensions, base64=_is_base64(body))
    return Call("openai", model, (), embedding=inputs)


def read_mistral(body: Mapping[str, Any]) -> Call:
    """A request to Mistral. Raises Refusal."""
    model = read_model(body, _MISTRAL)
    items = _items(body)
    if not all(isinstance(item, str) for item in items):
        raise Refusal("type", "input", expected="a valid string")
    if body.get("output_dtype") not in (None, "float"):
        stated(f"output_dtype is not supported by {model}", "3051")
    if body.get("output_dimension") is not None:
        stated(f"output_dimension is not supported by {model}", "3051")
    if len(items) > _MOST_MISTRAL:
        stated("Too many inputs in request, split into more batches.", "3210")
    tokens = [text_tokens(item) for item in items]
    for number, count in enumerate(tokens):
        if count > _TEXT_TOKENS:
            text = f"Input id {number} has {count} tokens, exceeding max {_TEXT_TOKENS} tokens."
            stated(text, "3210")
    if sum(tokens) > _ALL_MISTRAL:
        stated("Too many tokens overall, split into more batches.", "3210")
    inputs = EmbeddingInputs(tuple(items), sum(tokens), base64=_is_base64(body))
    return Call("mistral", model, (), embedding=inputs)


def read_google(body: Mapping[str, Any], model: str, method: str) -> Call:
    """A request to Gemini's embedContent or batchEmbedContents. Raises Refusal."""
    entries: list[Any] = [body]
    if method == "batchEmbedContents":
        check_known(body, names("requests"), "")
        entries = field(body, "requests") or []
    if not entries:
        stated("* BatchEmbedContentsRequest.requests: requests is not specified\n")
    if len(entries) > _MOST_GOOGLE:
        stated(
            f"* BatchEmbedContentsRequest.requests: at most {_MOST_GOOGLE} requests can be in one "
            "batch\n"
        )
    texts, dimensions = [], None
    for entry in entries:
        check_known(entry, _GOOGLE, "requests")
        parts = (entry.get("content") or {}).get("parts") or []
        text = "".join(str(part.get("text", "")) for part in parts)
        if not text:
            stated("The text content is empty.")
        texts.append(text)
        config = field(entry, "embedContentConfig") or entry
        dimensions = read_integer(config, "outputDimensionality", 1) or dimensions
    length = _length("google", model)
    if dimensions is not None and length and dimensions > length:
        stated(
            f"* EmbedContentRequest.output_dimensionality: must be less than or equal to {length}\n"
        )
    tokens = sum(min(_CUT_GOOGLE, text_tokens(text)) for text in texts)
    kept = tuple(text[: 4 * _CUT_GOOGLE] for text in texts)
    inputs = EmbeddingInputs(kept, tokens, dimensions, single=method == "embedContent")
    return Call("google", model, (), embedding=inputs)


def _items(body: Mapping[str, Any]) -> list[Any]:
    """The texts of a request to OpenAI or Mistral, as texts or tokens. Raises Refusal."""
    given = body.get("input")
    items = [given] if isinstance(given, str) or _is_tokens(given) else given
    if not isinstance(items, list):
        raise Refusal("type", "input", expected="a valid string")
    if not items:
        raise Refusal("empty", "input")
    return items


def _is_tokens(value: object) -> bool:
    """Whether a value is a text as a list of token numbers."""
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _is_base64(body: Mapping[str, Any]) -> bool:
    kind = body.get("encoding_format") or "float"
    if kind not in ("float", "base64"):
        raise Refusal("value", "encoding_format", value=kind, known=["float", "base64"])
    return bool(kind == "base64")


def _length(provider: str, model: str) -> int:
    """How many numbers a vector of the model has, 0 for an unknown model."""
    known = MODELS[provider].get(model)
    return known.dimensions if known else 0


def vectors(call: Call) -> list[list[float]]:
    """The vectors of the texts of a request."""
    length, given = _length(call.provider, call.model), call.embedding
    return [_vector(text, call.model, length, given.dimensions) for text in given.texts]


def _vector(text: str, model: str, length: int, dimensions: int | None) -> list[float]:
    """A vector of `length` numbers; `dimensions` cuts it, and scales it to length 1 again."""
    # Few numbers differ from 0, so that a request with 2,048 texts stays fast.
    changed: dict[int, float] = {}
    weights = [(text, _WHOLE)]
    weights += [(word, min(len(word), 8)) for word in _WORD.findall(text.lower())]
    for part, weight in weights:
        for place, value in _changes(part, model, length):
            changed[place] = changed.get(place, 0.0) + weight * value
    vector = [0.0] * (dimensions or length)
    changed = {place: value for place, value in changed.items() if value and place < len(vector)}
    size = math.hypot(*changed.values())
    for place, value in (changed if size else {0: 1.0}).items():
        vector[place] = value / (size or 1.0)
    return vector


@functools.lru_cache(maxsize=20_000)
def _changes(text: str, model: str, length: int) -> tuple[tuple[int, float], ...]:
    """What a text adds to a vector: positions and values, a third of them in the first eighth."""
    content = f"{model}|{text}".encode("utf-8", "replace")
    digest = hashlib.shake_256(content).digest(4 * _SPREAD)
    changes = []
    for number, (raw,) in enumerate(struct.iter_unpack(">I", digest)):
        # The first numbers of a vector must differ between texts too, because vectors can be cut.
        room = max(1, length // 8) if number % 3 == 0 else length
        changes.append((raw // 2 % room, 1.0 if raw % 2 else -1.0))
    return tuple(changes)


def chat_body(call: Call, vectors: Sequence[list[float]]) -> dict[str, Any]:
    """The reply of OpenAI and Mistral."""
    data = [
        {
            "object": "embedding",
            "index": number,
            "embedding": _as_base64(vector) if call.embedding.base64 else vector,
        }
        for number, vector in enumerate(vectors)
    ]
    tokens = call.embedding.tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": call.model, "usage": usage}


def _as_base64(vector: list[float]) -> str:
    """A vector as OpenAI sends it for `encoding_format="base64"`: 32-bit floats, little-endian."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
