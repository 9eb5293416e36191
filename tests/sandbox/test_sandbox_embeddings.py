"""Embeddings through each SDK: vectors, limits, and the errors of wrong requests."""

from __future__ import annotations

import base64
import math
import struct

import pytest

MODELS = {
    "mistral": ("mistral-embed", 1_024),
    "google": ("gemini-embedding-001", 3_072),
    "openai": ("text-embedding-3-small", 1_536),
}


@pytest.mark.parametrize("provider", MODELS)
def test_equal_texts_have_equal_unit_vectors(shared, connect, provider):
    """A text has one vector of length 1, at any position in a request."""
    client = connect(shared, provider)
    first, other, again = client.embed(["red apples", "old ships", "red apples"])
    (alone,) = client.embed(["red apples"])
    assert first == again == alone != other
    assert len(first) == MODELS[provider][1]
    assert math.hypot(*first) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("provider", MODELS)
def test_texts_that_share_words_are_closer(shared, connect, provider):
    """The cosine follows the words that two texts have in common."""
    vectors = connect(shared, provider).embed(
        [
            "The cat sleeps on the warm sofa",
            "A cat sleeps on a sofa",
            "Interest rates rose in March",
        ]
    )
    near, far = (
        sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:]
    )
    assert near > 0.5
    assert far < 0.3


@pytest.mark.parametrize(("provider", "option"), [
    ("openai", "dimensions"),
    ("google", "output_dimensionality"),
])  # fmt: skip
def test_shorter_vectors_begin_like_whole_ones(shared, connect, provider, option):
    """Cut vectors have length 1 and the direction of the start of the whole vector."""
    client = connect(shared, provider)
    (whole,) = client.embed(["a text about autumn"])
    (short,) = client.embed(["a text about autumn"], **{option: 256})
    assert len(short) == 256
    assert math.hypot(*short) == pytest.approx(1.0, abs=1e-5)
    start = math.hypot(*whole[:256])
    assert short == pytest.approx([value / start for value in whole[:256]], abs=1e-6)


@pytest.mark.parametrize("provider", ["openai", "mistral"])
def test_base64_contains_the_same_numbers(shared, connect, provider):
    """32-bit floats in base64 are the floats of the other format."""
    client = connect(shared, provider)
    url = f"{shared.url}/{provider}/v1/embeddings"
    bodies = [
        client._http.post(
            url,
            headers={"Authorization": f"Bearer {client.key}"},
            json={"model": MODELS[provider][0], "input": "hi", "encoding_format": kind},
        ).json()
        for kind in ("float", "base64")
    ]
    floats, packed = (body["data"][0]["embedding"] for body in bodies)
    numbers = struct.unpack(f"<{len(floats)}f", base64.b64decode(packed))
    assert list(numbers) == pytest.approx(floats)


def test_openai_reports_the_tokens_of_all_texts(shared, connect):
    """Usage has the tokens of the input. Input that consists of tokens is counted too."""
    client = connect(shared, "openai")
    model = MODELS["openai"][0]
    reply = client.sdk.embeddings.create(model=model, input=["eight ch", "four"])
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (3, 3)
    reply = client.sdk.embeddings.create(model=model, input=[[1, 2, 3], [4]])
    assert (len(reply.data), reply.usage.prompt_tokens) == (2, 4)


def test_google_embeds_one_text_by_its_own_method(shared, connect):
    """`embedContent` answers with one vector, the same as in a batch."""
    client = connect(shared, "google")
    (batched,) = client.embed(["hello"])
    response = client._http.post(
        f"{shared.url}/google/v1beta/models/gemini-embedding-001:embedContent",
        headers={"x-goog-api-key": client.key},
        json={"content": {"parts": [{"text": "hello"}]}},
    )
    assert response.json()["embedding"]["values"] == batched


def test_mistral_embed_has_one_size(shared, connect):
    """Mistral names an option that the model does not have."""
    client = connect(shared, "mistral")
    refused = client.refused_embedding(["hello"], output_dimension=256)
    assert (refused.status, refused.body["code"]) == (400, "3051")
    assert refused.body["message"] == "output_dimension is not supported by mistral-embed"


def test_groq_has_no_embeddings(shared, connect):
    """Groq answers with 404."""
    client = connect(shared, "groq")
    refused = client.refused_embedding(["hello"], model="nomic-embed-text-v1_5")
    assert (refused.status, refused.body["error"]["code"]) == (404, "unknown_url")


@pytest.mark.parametrize(("provider", "texts", "status", "words"), [
    ("openai", [], 400, "empty array"),
    ("openai", ["", "x"], 400, "cannot be an empty string"),
    ("openai", ["x"] * 2_049, 400, "maximum length 2048"),
    ("openai", ["word " * 8_000], 400, "maximum context length is 8192 tokens"),
    ("openai", ["word " * 6_000] * 41, 400, "max 300000 tokens per request"),
    ("mistral", [], 422, "too_short"),
    ("mistral", ["x"] * 513, 400, "Too many inputs in request"),
    ("mistral", ["word " * 7_000], 400, "exceeding max 8192 tokens"),
    ("mistral", ["word " * 5_000] * 3, 400, "Too many tokens overall"),
    ("google", ["x"] * 101, 400, "at most 100 requests can be in one batch"),
    ("google", [""], 400, "The text content is empty."),
])  # fmt: skip
def test_wrong_input_is_refused(shared, connect, provider, texts, status, words):
    """Empty and too large input is refused in the provider's words, and nothing is charged."""
    client = connect(shared, provider)
    before = shared.usage().get(f"{provider}_key_1", {}).get(MODELS[provider][0], {})
    refused = client.refused_embedding(texts)
    assert refused.status == status
    assert words in str(refused.body)
    after = shared.usage()[f"{provider}_key_1"][MODELS[provider][0]]
    assert after["requests"] == before.get("requests", 0)


def test_too_many_dimensions_are_refused(shared, connect):
    """More numbers than the model has are refused."""
    refused = connect(shared, "openai").refused_embedding(["x"], dimensions=1_537)
    assert (refused.status, "less than or equal to 1536" in refused.message) == (400, True)


@pytest.mark.parametrize(
    ("provider", "status"), [("openai", 403), ("mistral", 400), ("google", 404)]
)
def test_chat_models_refuse_embeddings_and_embedders_refuse_chats(
    shared, connect, provider, status
):
    """A model of the other kind is refused, in both directions."""
    client = connect(shared, provider)
    chat = {"openai": "gpt-4.1-mini", "mistral": "mistral-small-latest"}.get(
        provider, "gemini-3.8-flash"
    )
    assert client.refused_embedding(["x"], model=chat).status == status
    assert client.refused("hi", MODELS[provider][0]).status == (
        404 if provider == "openai" else status
    )


@pytest.mark.parametrize(("provider", "limit", "header"), [
    ("openai", "requests_per_minute", "x-ratelimit-remaining-requests"),
    ("mistral", "requests_per_minute", "x-ratelimit-remaining-req-minute"),
])  # fmt: skip
def test_limits_count_embeddings(start, connect, clock, provider, limit, header):
    """Each request counts, the headers show what is left, and a 429 follows."""
    sandbox = start(limits={provider: {limit: 2}}, clock=clock)
    client = connect(sandbox, provider)
    client.embed(["one"])
    assert client.headers[header] == "1"
    client.embed(["two"])
    assert client.refused_embedding(["three"]).status == 429
    clock.advance(60)
    assert client.embed(["four"])


def test_google_counts_every_text_of_a_batch(start, connect, clock):
    """A batch of three texts is three requests for the limit; the 429 names the limit."""
    sandbox = start(limits={"google": {"requests_per_minute": 5}}, clock=clock)
    client = connect(sandbox, "google")
    client.embed(["a", "b", "c"])
    refused = client.refused_embedding(["d", "e", "f"])
    assert refused.status == 429
    assert "embed_content_free_tier_requests, limit: 5" in refused.message
    assert "EmbedContentRequestsPerMinutePerProjectPerModel-FreeTier" in str(refused.body)
    assert client.embed(["d", "e"])


@pytest.mark.parametrize("provider", MODELS)
def test_tokens_of_embeddings_are_charged(start, connect, clock, provider):
    """The tokens of all texts count for the account."""
    sandbox = start(clock=clock)
    connect(sandbox, provider).embed(["eight ch", "four"])
    (count,) = sandbox.usage()[f"{provider}_key_1"].values()
    assert (count["requests"], count["input_tokens"], count["output_tokens"]) == (1, 3, 0)
    (limits,) = sandbox.quota()[f"{provider}_key_1"].values()
    name = "input_tokens_per_minute" if provider == "google" else "tokens_per_minute"
    assert limits[name]["used"] == 3


@pytest.mark.parametrize("provider", MODELS)
def test_requested_failures_affect_embeddings(start, connect, provider):
    """A requested failure affects a request for embeddings like any other."""
    sandbox = start()
    sandbox.fail(provider, "overloaded")
    client = connect(sandbox, provider)
    assert client.refused_embedding(["x"]).status == 503
    assert client.embed(["x"])
