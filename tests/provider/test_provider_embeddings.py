"""Texts become vectors through the real SDKs, with all keys of one model."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from embedding_server import EmbeddingServer, vector_of

from arche_magic.llm_providers import IntelligentLLMOrchestrator, get_llm_provider
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.catalog import parse_limits
from arche_magic.llm_providers.config import (
    get_configuration,
    load_configuration,
    use_configuration,
)
from arche_magic.llm_providers.embeddings import choose_model, embedding_request
from arche_magic.llm_providers.errors import (
    ConfigurationError,
    InvalidRequest,
    LLMProviderError,
    NoKeys,
    NoRouteAvailable,
)
from arche_magic.llm_providers.quota_tracker import Hold, get_quota_tracker
from arche_magic.llm_providers.types import Budget

if TYPE_CHECKING:
    from pathlib import Path

    from provider_parts import Clock

    from arche_magic.llm_providers.reply import Reply

MODELS = {
    "mistral": "mistral-embed",
    "google": "gemini-embedding-001",
    "openai": "text-embedding-3-small",
}


def embed(texts: list[str], provider: str = "mistral", **options: Any) -> Reply:
    request = embedding_request(
        texts, get_configuration(), provider, MODELS[provider], **{"patience": 0.0, **options}
    )
    return get_llm_provider().ask(request)


def used(provider: str, limit: str) -> float:
    standings = get_llm_provider().quota_tracker.standings(provider)
    return sum(
        standing.used
        for standing in standings
        if standing.model == MODELS[provider] and standing.limit == limit
    )


@pytest.mark.parametrize("provider", MODELS)
def test_each_text_gets_its_vector(server: EmbeddingServer, provider: str) -> None:
    reply = embed(["one", "two", "dreißig"], provider)
    assert [list(vector) for vector in reply.vectors] == [
        vector_of(text) for text in ("one", "two", "dreißig")
    ]
    assert (reply.provider, reply.model, str(reply)) == (provider, MODELS[provider], "")
    (request,) = server.received
    assert request.texts == ("one", "two", "dreißig")


@pytest.mark.parametrize("provider", ["mistral", "openai"])
@pytest.mark.parametrize(
    ("places", "in_place"), [((1, 0), ("two", "one")), ((0, 0), ("one", "two"))]
)
def test_vectors_are_sorted_by_their_stated_index(
    server: EmbeddingServer, provider: str, places: tuple[int, int], in_place: tuple[str, str]
) -> None:
    """If the indices are invalid, the order of the response is used."""
    data = [
        {"object": "embedding", "index": place, "embedding": vector_of(text)}
        for place, text in zip(places, ("one", "two"), strict=True)
    ]
    answer = {"id": "e", "object": "list", "model": "m", "data": data}
    server.refusal = lambda request: (200, {}, answer)
    reply = embed(["a", "b"], provider)
    assert [list(vector) for vector in reply.vectors] == [vector_of(text) for text in in_place]


@pytest.mark.parametrize("provider", ["google", "openai"])
def test_shorter_vectors_can_be_requested(server: EmbeddingServer, provider: str) -> None:
    reply = embed(["one"], provider, dimensions=5)
    assert list(reply.vectors[0]) == vector_of("one", 5)


def test_dimensions_are_refused_for_a_model_with_one_length(server: EmbeddingServer) -> None:
    with pytest.raises(InvalidRequest, match="dimensions is 5; mistral-embed has 1,024"):
        embed(["one"], dimensions=5)
    with pytest.raises(InvalidRequest, match="has 1,536 or fewer"):
        embed(["one"], "openai", dimensions=2000)
    assert not server.received


def test_vectors_of_another_length_are_refused(server: EmbeddingServer) -> None:
    """A service that ignores `dimensions` would otherwise mix lengths."""
    server.spoil = lambda vectors: [vector * 2 for vector in vectors]
    with pytest.raises(InvalidRequest, match="returns vectors of length 10, not 5"):
        embed(["one"], "openai", dimensions=5)


@pytest.mark.parametrize("provider", MODELS)
def test_the_next_key_of_the_same_model_replaces_a_spent_key(
    server: EmbeddingServer, provider: str
) -> None:
    server.spent(f"{provider}-1")
    reply = embed(["one"], provider)
    assert [attempt.outcome for attempt in reply.attempts] == ["refused", "served"]
    assert reply.key == f"{provider}_key_2"
    assert {request.model for request in server.received} == {MODELS[provider]}


def test_no_other_model_is_used_when_all_keys_are_spent(server: EmbeddingServer) -> None:
    server.spent("mistral-1", "mistral-2")
    with pytest.raises(NoRouteAvailable, match=r"key 2 · mistral-embed opens in 60 min") as caught:
        embed(["one"])
    assert caught.value.next_available_at is not None
    assert {request.wire for request in server.received} == {"mistral"}


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda vectors: vectors[1:],
        lambda vectors: [vectors[0], vectors[1][1:]],
        lambda vectors: [[] for _ in vectors],
        lambda vectors: [[math.nan] * 8 for _ in vectors],
        lambda vectors: [[1e300] * 8 for _ in vectors],
        lambda vectors: [None for _ in vectors],
    ],
    ids=["too few", "two lengths", "empty", "NaN", "too large", "null"],
)
@pytest.mark.parametrize("provider", ["mistral", "google"])
def test_an_answer_without_valid_vectors_is_a_failed_attempt(
    server: EmbeddingServer, clock: Clock, provider: str, spoiled: Any
) -> None:
    use_configuration(replace(get_configuration(), clock=clock))
    server.spoil = spoiled
    with pytest.raises(LLMProviderError, match="malformed reply"):
        embed(["one", "two"], provider)
    server.spoil = EmbeddingServer.spoil
    assert len(embed(["one", "two"], provider, patience=5.0).vectors) == 2


def test_text_instead_of_numbers_is_a_failed_attempt(server: EmbeddingServer) -> None:
    server.refusal = lambda request: (200, {}, {"data": [{"embedding": "not base64!"}]})
    with pytest.raises(LLMProviderError, match="malformed reply"):
        embed(["one"], "openai")


def test_google_counts_each_text_as_a_request(server: EmbeddingServer) -> None:
    embed(["one", "two", "three"], "google")
    assert used("google", "requests_per_day") == pytest.approx(3, abs=0.01)
    embed(["one", "two", "three"], "openai")
    # The bucket refills by fifty requests a second.
    assert used("openai", "requests_per_minute") <= 1


def test_tokens_are_counted_by_the_provider(server: EmbeddingServer) -> None:
    reply = embed(["one two three", "four"])
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (4, 0)
    recorded = attempt_log(get_configuration().store).session()[-1]
    assert (recorded.model, recorded.input_tokens) == ("mistral-embed", 4)


def test_tokens_are_estimated_if_the_provider_counts_none(server: EmbeddingServer) -> None:
    reply = embed(["one two three four"] * 10, "google")
    assert 40 <= reply.usage.input_tokens <= 60
    assert used("google", "input_tokens_per_minute") >= 40


def test_no_tokens_are_reserved_for_a_reply(server: EmbeddingServer, tmp_path: Path) -> None:
    """An estimate for a reply would close a small limit after the first text."""
    configuration = load_configuration(server.environment({"mistral": 1}), tmp_path)
    limits = {"mistral": parse_limits({"tokens_per_minute": 100})}
    use_configuration(replace(configuration, limits=limits))
    for text in ("one " * 30, "two " * 30):
        embed([text], patience=0)
    assert len(server.received) == 2


def test_requests_within_a_budget_run_side_by_side(server: EmbeddingServer) -> None:
    """Once a count is known, no room is kept for a reply, because vectors have no tokens."""
    limits = {"openai": parse_limits({"requests_per_minute": 100})}
    use_configuration(replace(get_configuration(), budget=Budget(per_day=1.0), limits=limits))
    reply = embed(["one two three"], "openai")
    (use,) = get_quota_tracker().budget()
    assert use.spent == reply.cost > 0
    request = embedding_request(["four"], get_configuration(), "openai", MODELS["openai"])
    route = next(r for r in get_llm_provider().routes(request) if r.key.label == reply.key)
    for _ in range(2):
        assert isinstance(get_quota_tracker().hold(route, request), Hold)


def test_a_text_that_contains_a_key_is_not_sent(server: EmbeddingServer) -> None:
    with pytest.raises(InvalidRequest, match="contains the key mistral_key_2") as caught:
        embed(["fine", "my key is made-up-mistral-2"])
    assert "made-up" not in str(caught.value)
    assert not server.received


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        ([], "the list of texts is empty; give at least one text to embed"),
        (["one", " "], "text 1 is empty"),
        (["one", 2], "value 1 is of type int"),
        (["one", "word " * 20_000], "text 1 is too long: 100,000 characters, about 25,000 tokens"),
    ],
)
def test_invalid_texts_are_refused_before_anything_is_sent(
    server: EmbeddingServer, texts: list[Any], problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        embed(texts)
    assert not server.received


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (None, ("mistral", "mistral-embed")),
        ("google", ("google", "gemini-embedding-001")),
        ("gemini-embedding-001", ("google", "gemini-embedding-001")),
        ("openai/text-embedding-3-large", ("openai", "text-embedding-3-large")),
        ("mistral/codestral-embed", ("mistral", "codestral-embed")),
        ("mistral/mistral/embed", ("mistral", "mistral/embed")),
    ],
)
def test_a_model_can_be_named_in_several_ways(
    server: EmbeddingServer, named: str | None, found: tuple[str, str]
) -> None:
    assert choose_model(get_configuration(), named) == found


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("mistral-embd", "unknown embedding model 'mistral-embd'; did you mean 'mistral-embed'"),
        ("groq", "groq has no embedding model; known models: mistral/mistral-embed, google/"),
    ],
)
def test_an_unknown_model_is_an_error_that_lists_the_known_ones(
    server: EmbeddingServer, named: str, problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        choose_model(get_configuration(), named)


def test_a_model_of_another_provider_is_an_error_that_names_it(server: EmbeddingServer) -> None:
    with pytest.raises(ConfigurationError, match=r"google is not among .* object .groq, mistral."):
        choose_model(get_configuration(), "gemini-embedding-001", among=["groq", "mistral"])


def test_the_first_provider_with_a_key_is_used_and_free_ones_first(
    server: EmbeddingServer, tmp_path: Path
) -> None:
    def first(**keys: int) -> str:
        return choose_model(load_configuration(server.environment(keys), tmp_path))[0]

    assert first(openai=1, google=1) == "google"
    assert first(openai=1) == "openai"
    with pytest.raises(NoKeys, match="set MISTRAL_API_KEY, GOOGLE_API_KEY, OPENAI_API_KEY"):
        first(groq=1)


def test_a_configured_service_can_embed(server: EmbeddingServer, tmp_path: Path) -> None:
    """If it answers no prompts, it needs no other model."""
    (tmp_path / "arche_magic.toml").write_text(
        f'[providers.mine]\nbase_url = "{server.url}/openai/v1"\nembedding_models = ["nomic"]\n'
    )
    use_configuration(load_configuration(directory=tmp_path))
    configuration = get_configuration()
    assert choose_model(configuration) == ("mine", "nomic")
    request = embedding_request(["one"], configuration, "mine", "nomic")
    assert list(get_llm_provider().ask(request).vectors[0]) == vector_of("one")
    assert "encoding_format" not in server.received[0].body
    with pytest.raises(ConfigurationError, match="mine has only embedding models"):
        get_llm_provider("mine").generate("hello")
    with pytest.raises(NoKeys, match=r"no API key for groq .* openai is configured\. Set GROQ_"):
        get_llm_provider().generate("hello")


def test_published_limits_have_a_source(server: EmbeddingServer) -> None:
    for provider, model in MODELS.items():
        llm = IntelligentLLMOrchestrator(providers=[provider])
        request = embedding_request(["one"], llm.configuration, provider, model)
        for limit in llm.configuration.default_limits(llm.routes(request)[0]):
            assert limit.source
            assert limit.evidence == "published"
    embed(["one"], "google")
    shown = {
        standing.limit: standing.amount
        for standing in get_llm_provider().quota_tracker.standings("google")
        if standing.model == MODELS["google"]
    }
    assert shown == {
        "requests_per_minute": 100, "input_tokens_per_minute": 30_000, "requests_per_day": 1_000,
    }  # fmt: skip


def test_prompts_are_not_sent_to_embedding_models(server: EmbeddingServer) -> None:
    names = get_configuration().resolve_model(None)
    assert not {"mistral-embed", *MODELS.values()} & {
        m for models in names.values() for m in models
    }
