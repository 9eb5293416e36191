"""The attributes of a reply."""

from __future__ import annotations

import copy
import json
import pickle
from typing import TYPE_CHECKING

import pytest
from provider_parts import MODELS, PROVIDERS

from arche_magic.bulk import Job
from arche_magic.llm_providers import Reply, Usage, get_llm_provider
from arche_magic.llm_providers.request import Message

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox


def test_a_reply_is_a_string_with_attributes(sandbox: Sandbox) -> None:
    """It is a `str` with its route, its usage, its attempts and its seconds."""
    reply = get_llm_provider().generate("Why is the sky blue?")
    assert isinstance(reply, str)
    assert "You asked: “Why is the sky blue?”" in reply
    assert (reply.provider, reply.key, reply.model) == ("groq", "groq_key_1", MODELS["groq"])
    assert [attempt.outcome for attempt in reply.attempts] == ["served"]
    assert 0 < reply.seconds < 10
    assert (reply.finish_reason, reply.cost) == ("stop", 0.0)
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert reply.standing == "29 of 30 requests left this minute"


def test_a_reply_survives_pickle_copy_and_comparison(sandbox: Sandbox) -> None:
    """Its text decides equality, and no attribute is lost."""
    reply = get_llm_provider().generate("Hello")
    for twin in (pickle.loads(pickle.dumps(reply)), copy.copy(reply), copy.deepcopy(reply)):
        assert type(twin) is Reply
        assert twin == reply == str(reply)
        assert hash(twin) == hash(str(reply))
        assert twin.__dict__ == reply.__dict__
        assert twin.attempts[0].key == "groq_key_1"
    assert type(reply.upper()) is str
    assert reply + "!" == f"{reply}!"
    assert reply != get_llm_provider().generate("Another prompt")


@pytest.mark.parametrize("name", PROVIDERS)
def test_usage_is_the_providers_count(sandbox: Sandbox, name: str) -> None:
    """This holds for plain and streamed requests to every provider."""
    provider = get_llm_provider(name)
    plain = provider.generate("Tell me about rivers.")
    stream = provider.stream("Tell me about mountains, at length.")
    pieces = list(stream)
    assert stream.reply is not None
    assert "".join(pieces) == stream.reply
    assert len(pieces) > 1
    count = sandbox.usage()[f"{name}_key_1"][MODELS[name]]
    assert count["requests"] == 2
    assert count["input_tokens"] == plain.usage.input_tokens + stream.reply.usage.input_tokens
    assert count["output_tokens"] == plain.usage.output_tokens + stream.reply.usage.output_tokens
    for reply in (plain, stream.reply):
        attempt = reply.attempts[-1]
        assert Usage(attempt.input_tokens, attempt.output_tokens) == reply.usage


@pytest.mark.parametrize("name", PROVIDERS)
def test_plain_and_streamed_replies_are_the_same(sandbox: Sandbox, name: str) -> None:
    """They only differ in how they arrive."""
    provider = get_llm_provider(name)
    stream = provider.stream("Hello")
    text = "".join(stream)
    plain = provider.generate("Hello")
    assert stream.reply is not None
    assert text == plain
    assert (stream.reply.usage, stream.reply.finish_reason) == (plain.usage, plain.finish_reason)
    assert stream.reply.attempts[-1].first_token_s is not None
    assert plain.attempts[-1].first_token_s is None


def test_a_stream_has_its_reply_when_it_ends(sandbox: Sandbox) -> None:
    """Before, it has none; reading on afterwards yields nothing."""
    stream = get_llm_provider().stream("Hello")
    next(stream)
    assert stream.reply is None
    rest = list(stream)
    assert rest
    assert stream.reply is not None
    assert list(stream) == []
    assert stream.reply.provider == "groq"


def test_an_abandoned_stream_is_counted_and_recorded(sandbox: Sandbox) -> None:
    """The attempt is `interrupted`, which is not an error, and the next request works."""
    provider = get_llm_provider("groq")
    stream = provider.stream("Hello [tokens=2000]")
    next(stream)
    stream.close()
    assert list(stream) == []
    assert stream.reply is None
    stats = provider.get_stats()
    assert (stats["total_calls"], stats["errors"], stats["provider_calls"]) == (1, 0, {})
    summary = stats["quota_summary"]["groq"]["groq_key_1"]
    assert summary["tokens_per_minute"]["used"] > 0
    assert provider.generate("Hello")


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_conversation_is_sent_turn_by_turn(sandbox: Sandbox, name: str) -> None:
    """Roles and order are kept, under the provider's names."""
    get_llm_provider(name).generate_chat(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "Two"},
            {"role": "user", "content": "Three"},
        ]
    )
    body = sandbox.requests[-1].body
    if name == "google":
        assert body["systemInstruction"]["parts"] == [{"text": "Be brief."}]
        turns = [(turn["role"], turn["parts"][0]["text"]) for turn in body["contents"]]
        assert turns == [("user", "One"), ("model", "Two"), ("user", "Three")]
    else:
        turns = [(turn["role"], turn["content"]) for turn in body["messages"]]
        assert turns == [
            ("system", "Be brief."),
            ("user", "One"),
            ("assistant", "Two"),
            ("user", "Three"),
        ]


@pytest.mark.parametrize("prompt", ["Grüße, 世界 🌍", "{braces} {{twice}} %s", "a\u2028b\x00c"])
def test_a_prompt_is_sent_unchanged(sandbox: Sandbox, prompt: str) -> None:
    """It is not treated as a template."""
    get_llm_provider().generate(prompt)
    assert sandbox.requests[-1].body["messages"][-1]["content"] == prompt


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_lone_surrogate_in_a_prompt_is_replaced(sandbox: Sandbox, name: str) -> None:
    """As in replies, wherever it is: it cannot be encoded."""
    cut, whole = "cut \ud83d", "cut \ufffd"
    provider = get_llm_provider(name)
    options = {
        "system": cut,
        "stop": [cut],
        "schema": {"type": "object", "properties": {"a": {"type": "string", "description": cut}}},
    }
    for reply in (
        provider.generate(cut, **options),
        provider.generate_chat([{"role": "user", "content": cut}], **options),
        provider.generate_chat([Message("user", cut)], **options),
        provider.preview(cut, **options) and provider.generate(cut, **options),
    ):
        assert reply
        sent = json.dumps(sandbox.requests[-1].body, ensure_ascii=False)
        sent.encode()
        assert sent.count(whole) == 4
    list(provider.stream(cut))
    (row,) = Job([cut], llm=provider, allow_paid=True)
    assert row.reply
    assert whole in json.dumps(sandbox.requests[-1].body, ensure_ascii=False)
