"""A loopback server that embeds texts with the wire formats of Mistral, Google and OpenAI."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from loopback import Handler, serving

from arche_magic.llm_providers.config import load_configuration, use_configuration

DIMENSIONS = 8


@dataclass(frozen=True)
class Embedded:
    """One request: its wire format, key, model, texts and body."""

    wire: str
    key: str
    model: str
    texts: tuple[str, ...]
    body: dict[str, Any] = field(repr=False)


@dataclass
class EmbeddingServer:
    """Embeds texts and records the requests.

    Attributes:
        url: its address.
        refusal: returns a status, headers and a body for a request to refuse, or None.
        spoil: changes the vectors of an answer before they are sent.
        received: all requests, in order.
    """

    url: str = ""
    refusal: Callable[[Embedded], tuple[int, dict[str, str], Any] | None] = lambda request: None
    spoil: Callable[[list[Any]], list[Any]] = lambda vectors: vectors
    received: list[Embedded] = field(default_factory=list)

    def environment(self, keys: dict[str, int]) -> dict[str, str]:
        """The variables for this number of keys for each provider."""
        variables = {
            "MISTRAL_BASE_URL": f"{self.url}/mistral",
            "GOOGLE_GEMINI_BASE_URL": f"{self.url}/google",
            "OPENAI_BASE_URL": f"{self.url}/openai/v1",
        }
        for provider, count in keys.items():
            for number in range(1, count + 1):
                variables[f"{provider.upper()}_API_KEY_{number}"] = f"made-up-{provider}-{number}"
        return variables

    @property
    def texts(self) -> list[str]:
        """All texts that were sent, in order."""
        return [text for request in self.received for text in request.texts]

    def spent(self, *keys: str) -> None:
        """Refuse these keys (`mistral-1`) for an hour from now."""

        def refusal(request: Embedded) -> tuple[int, dict[str, str], Any] | None:
            if request.key.removeprefix("made-up-") not in keys:
                return None
            body = {"message": "Requests rate limit exceeded", "type": "rate_limited"}
            return 429, {"retry-after": "3600"}, body

        self.refusal = refusal


def vector_of(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """The vector that the server returns for a text, exact in 32 bits."""
    digest = hashlib.sha256(text.encode()).digest() * (dimensions // 32 + 1)
    return [byte / 256 for byte in digest[:dimensions]]


def _read(path: str, key: str, body: dict[str, Any]) -> Embedded:
    wire = path.split("/")[1]
    if wire == "google":
        model = path.rpartition("/")[2].partition(":")[0]
        texts = [part["content"]["parts"][0]["text"] for part in body["requests"]]
    else:
        model, texts = body["model"], body["input"]
    return Embedded(wire, key, model, tuple(texts), body)


def _answer(request: Embedded, spoil: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
    body = request.body
    size = body.get("dimensions") or body.get("output_dimension") or DIMENSIONS
    if request.wire == "google":
        size = body["requests"][0].get("outputDimensionality") or DIMENSIONS
    vectors = spoil([vector_of(text, size) for text in request.texts])
    if request.wire == "google":
        return {"embeddings": [{"values": vector} for vector in vectors]}
    if body.get("encoding_format") == "base64":
        vectors = [
            base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            for vector in vectors
        ]
    tokens = sum(len(text.split()) for text in request.texts)
    data = [
        {"object": "embedding", "index": place, "embedding": vector}
        for place, vector in enumerate(vectors)
    ]
    return {
        "id": "e", "object": "list", "model": request.model, "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }  # fmt: skip


@pytest.fixture(scope="module")
def running_server() -> Iterator[EmbeddingServer]:
    """The server, on loopback."""
    script = EmbeddingServer()

    class Answers(Handler):
        def do_POST(self) -> None:
            request = _read(self.path, self.key(), json.loads(self.body()))
            script.received.append(request)
            refusal = script.refusal(request)
            status, headers, answer = refusal or (200, {}, _answer(request, script.spoil))
            self.answer(status, json.dumps(answer).encode(), headers)

    with serving(Answers) as url:
        script.url = url
        yield script


@pytest.fixture
def server(running_server: EmbeddingServer, tmp_path: Path) -> EmbeddingServer:
    """Mistral, Google and OpenAI with two keys each, which this process uses."""
    running_server.received.clear()
    running_server.refusal = EmbeddingServer.refusal
    running_server.spoil = EmbeddingServer.spoil
    keys = {"mistral": 2, "google": 2, "openai": 2}
    use_configuration(load_configuration(running_server.environment(keys), tmp_path))
    return running_server
