"""Several choices, log probabilities, efforts and usage, where the real services have them."""

from __future__ import annotations

import math

import pytest


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_openai_gives_several_choices(shared, connect, streamed):
    """`n` replies come with their own index; the usage counts all of them."""
    client = connect(shared, "openai")
    usage = {"stream_options": {"include_usage": True}} if streamed else {}
    reply = client._create("Tell me more", "gpt-4.1-mini", stream=streamed, n=3, **usage)
    if streamed:
        chunks = list(reply)
        texts = {0: "", 1: "", 2: ""}
        for chunk in chunks:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        tokens = chunks[-1].usage.completion_tokens
    else:
        texts = {choice.index: choice.message.content for choice in reply.choices}
        tokens = reply.usage.completion_tokens
    assert sorted(texts) == [0, 1, 2]
    assert len(set(texts.values())) > 1
    assert tokens == sum(math.ceil(len(text.encode()) / 4) for text in texts.values())


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_openai_gives_log_probabilities(shared, connect, streamed):
    """Each piece of the text has its own and as many alternatives as asked for."""
    client = connect(shared, "openai")
    reply = client._create("hi", "gpt-4.1-mini", stream=streamed, logprobs=True, top_logprobs=2)
    found = list(reply) if streamed else [reply]
    choices = [chunk.choices[0] for chunk in found]
    entries = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    text = "".join((c.delta if streamed else c.message).content or "" for c in choices)
    assert "".join(entry.token for entry in entries) == text
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in entries)


@pytest.mark.parametrize(("model", "options", "status"), [
    ("gpt-4.1-mini", {"top_logprobs": 2}, 400),
    ("gpt-4.1-mini", {"logprobs": True, "top_logprobs": 21}, 400),
    ("gpt-4.1-mini", {"n": 129}, 400),
    ("gpt-4.1-mini", {"reasoning_effort": "low"}, 400),
    ("gpt-5-nano", {"logprobs": True}, 403),
])  # fmt: skip
def test_openai_refuses_options_that_a_model_lacks(shared, connect, model, options, status):
    """An option may be out of bounds, lack a condition, or not exist for the model."""
    assert connect(shared, "openai").refused("hi", model, **options).status == status


def test_reasoning_models_take_an_effort(shared, connect):
    """The sandbox accepts reasoning_effort for the models that accept it."""
    assert connect(shared, "openai").ask("hi", "gpt-5-nano", reasoning_effort="low").text
    groq = connect(shared, "groq")
    assert groq.ask("hi", reasoning_effort="high").text
    assert groq.refused("hi", reasoning_effort="none").status == 400


@pytest.mark.parametrize("options", [{"n": 2}, {"logprobs": True}, {"top_logprobs": 1}])
def test_groq_refuses_several_choices_and_log_probabilities(shared, connect, options):
    """Its documentation names them as unsupported."""
    refused = connect(shared, "groq").refused("hi", **options)
    assert refused.status == 400
    assert next(iter(options)) in refused.message


@pytest.mark.parametrize("options", [{"logprobs": False}, {"top_logprobs": None, "logit_bias": {}}])
def test_groq_accepts_unsupported_options_that_ask_for_nothing(shared, connect, options):
    """Clients send the default values of options too."""
    assert connect(shared, "groq").ask("hi", **options).text


def test_usage_of_a_stream_comes_only_when_asked_for(shared, connect):
    """With include_usage, the last chunk of OpenAI's stream has the usage and no choices."""
    client = connect(shared, "openai")
    for options, wanted in (
        ({"stream_options": {"include_usage": True}}, True),
        ({"stream_options": {"include_usage": False}}, False),
        ({}, False),
    ):
        chunks = list(client.stream("hi", tools=client.tools(), **options))
        assert bool(chunks[-1].usage) == wanted == (not chunks[-1].choices)
