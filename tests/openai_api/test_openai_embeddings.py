"""`client.embeddings.create` and `POST /v1/embeddings`, against the sandbox."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from provider_parts import Clock, Start, asked

import arche_magic
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.openai_api.handler import handle

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
LENGTHS = {"mistral": 1024, "google": 3072, "openai": 1536}


def post(fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    reply = handle("POST", "/v1/embeddings", json.dumps(fields).encode())
    assert isinstance(reply.body, bytes)
    return reply.status, json.loads(reply.body)


@pytest.mark.parametrize("provider", LENGTHS)
def test_embeddings_are_official_objects(sandbox: Sandbox, provider: str) -> None:
    """They have the vectors in the order of the texts, the real model, its usage, and the route."""
    client = arche_magic.openai_client()
    raw = client.embeddings.with_raw_response.create(model=provider, input=["one", "two", "one"])
    found: Any = raw.parse()
    first, second, again = found.data
    assert [entry.index for entry in found.data] == [0, 1, 2]
    assert len(first.embedding) == LENGTHS[provider]
    assert first.embedding == again.embedding != second.embedding
    model = get_configuration().providers[provider].embedding_models
    assert found.model == next(iter(model))
    assert found.usage.total_tokens == found.usage.prompt_tokens > 0
    assert raw.headers["x-arche-route"] == f"{provider} {provider}_key_1 {found.model}"
    assert found.arche["route"]["provider"] == provider


def test_floats_and_base64_are_the_same_vector(sandbox: Sandbox) -> None:
    """The official client requests base64 and decodes it."""
    (default,) = arche_magic.openai_client().embeddings.create(model="mistral", input="one").data
    status, plain = post({"model": "mistral", "input": "one", "encoding_format": "float"})
    assert status == 200
    assert plain["data"][0]["embedding"] == pytest.approx(default.embedding)


def test_auto_uses_the_first_free_provider_with_embeddings(sandbox: Sandbox) -> None:
    found: Any = arche_magic.openai_client().embeddings.create(model="auto", input=["one"])
    assert found.arche["route"]["model"] == "mistral-embed"


def test_shorter_vectors_can_be_requested(sandbox: Sandbox) -> None:
    client = arche_magic.openai_client()
    found = client.embeddings.create(model="gemini-embedding-001", input="one", dimensions=256)
    assert len(found.data[0].embedding) == 256


def test_many_texts_are_sent_in_batches_that_the_model_accepts(sandbox: Sandbox) -> None:
    texts = [f"text {number}" for number in range(60)]
    found: Any = arche_magic.openai_client().embeddings.create(model="google", input=texts)
    assert [entry.index for entry in found.data] == list(range(60))
    assert len({tuple(entry.embedding) for entry in found.data}) == 60
    assert [attempt["outcome"] for attempt in found.arche["attempts"]] == ["served"] * 3
    assert len(sandbox.requests) == 3


def test_the_next_key_but_no_other_model_is_used(start: Start, clock: Clock) -> None:
    """When all keys are spent, the status is 429, with the seconds until the first key opens."""
    sandbox = start(
        {"mistral": 2, "google": 1}, clock=clock, limits={"mistral": {"requests_per_minute": 1}}
    )
    client = arche_magic.openai_client(patience=0)
    keys = [
        client.embeddings.create(model="mistral-embed", input=f"text {n}").model_dump()["arche"][
            "route"
        ]["key"]
        for n in range(2)
    ]
    assert sorted(keys) == ["mistral_key_1", "mistral_key_2"]
    with pytest.raises(openai.RateLimitError, match="other models were not asked") as caught:
        client.embeddings.create(model="mistral-embed", input="one more")
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 61
    assert set(asked(sandbox)) == {"mistral"}


def test_attempts_have_the_tag_of_the_client(sandbox: Sandbox) -> None:
    arche_magic.openai_client(tag="search").embeddings.create(model="mistral", input="one")
    recorded = attempt_log(get_configuration().store).session()[-1]
    assert (recorded.tag, recorded.model, recorded.output_tokens) == ("search", "mistral-embed", 0)
    assert recorded.input_tokens > 0


@pytest.mark.parametrize(
    ("fields", "status", "param", "problem"),
    [
        ({"input": "a"}, 400, "model", "model must be the name of a model"),
        ({"model": "auto"}, 400, "input", "input is missing"),
        ({"model": "auto", "input": []}, 400, "input", "a text or a list of texts"),
        ({"model": "auto", "input": {"a": 1}}, 400, "input", "a text or a list of texts"),
        ({"model": "auto", "input": [1, 2, 3]}, 400, "input", "check_embedding_ctx_length=False"),
        ({"model": "auto", "input": [[1, 2]]}, 400, "input", "only texts are accepted"),
        ({"model": "auto", "input": ["a", ""]}, 400, "input", "text 1 is empty"),
        ({"model": "auto", "input": ["w " * 9000]}, 400, "input", "text 0 is too long"),
        ({"model": "auto", "input": ["a"] * 2049}, 400, "input", "2,049 texts; the limit is 2,048"),
        ({"model": "auto", "input": "a", "user": "me"}, 400, "user", "user is not a known field"),
        (
            {"model": "auto", "input": "a", "encoding_format": "int8"},
            400, "encoding_format", "can be float or base64",
        ),
        ({"model": "auto", "input": "a", "dimensions": 7}, 400, "dimensions", "has 1,024"),
        ({"model": "no-such", "input": "a"}, 404, "model", "unknown embedding model 'no-such'"),
        ({"model": "groq", "input": "a"}, 404, "model", "groq has no embedding model"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused_before_anything_is_sent(
    sandbox: Sandbox, fields: dict[str, Any], status: int, param: str, problem: str
) -> None:
    got, answer = post(fields)
    assert (got, answer["error"]["param"]) == (status, param)
    assert problem in answer["error"]["message"]
    assert not sandbox.requests


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("groq", "openai/gpt-oss-120b"),
        ("mistral", "mistral-small-latest"),
        ("google", "gemini-3.8-flash"),
        ("openai", "gpt-4.1-mini"),
    ],
)
def test_a_chat_model_that_makes_no_embeddings_still_chats(
    sandbox: Sandbox, provider: str, model: str
) -> None:
    """Neither the model nor its provider is closed, and the mistake is sent only once."""
    name = f"{provider}/{model}"
    for _ in range(2):
        status, answer = post({"model": name, "input": "a"})
        assert (status, answer["error"]["param"]) == (400, "model")
        assert "makes no embeddings" in answer["error"]["message"]
    assert len(sandbox.requests) == 1
    client = arche_magic.openai_client(patience=0)
    assert client.chat.completions.create(model=name, messages=HELLO).choices


@pytest.mark.parametrize("provider", LENGTHS)
def test_an_embedding_model_that_takes_no_prompts_still_embeds(
    sandbox: Sandbox, provider: str
) -> None:
    client = arche_magic.openai_client(patience=0)
    model = next(iter(get_configuration().providers[provider].embedding_models))
    with pytest.raises(openai.BadRequestError, match="takes no prompts") as caught:
        client.chat.completions.create(model=f"{provider}/{model}", messages=HELLO)
    assert caught.value.param == "model"
    assert client.embeddings.create(model=model, input="one").data


def test_the_list_of_models_includes_embedding_models(sandbox: Sandbox) -> None:
    listed = {model.id: model for model in arche_magic.openai_client().models.list()}
    about: Any = listed["mistral/mistral-embed"]
    assert about.takes["embeddings"]
    assert about.context_window == 8192
