"""Replies whose tokens were all used for reasoning are failures, and are never kept."""

from __future__ import annotations

import pytest
from provider_parts import MODELS, PROVIDERS, Clock, Start, asked

from arche_magic.bulk import Job
from arche_magic.llm_providers import IncompleteReply, get_llm_provider

REASONED = "<think>" + "Let me see. " * 100 + "</think>Four."
SAYS = "used all 30 tokens for reasoning; raise --max-tokens"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", PROVIDERS)
def test_a_reply_with_only_reasoning_is_a_failure(start: Start, name: str, streamed: bool) -> None:
    """The error says what to do; the tokens are counted, and the route stays open."""
    sandbox = start(keys={name: 2}, reply=lambda *_: REASONED)
    provider = get_llm_provider(name)
    ask = provider.stream if streamed else provider.generate
    with pytest.raises(IncompleteReply, match=SAYS) as caught:
        list(ask("2 + 2?", max_tokens=30))
    assert f"{name} ({MODELS[name]}) gave no answer" in str(caught.value)
    # The other key has the same model, which would do the same.
    (attempt,) = caught.value.attempts
    assert (attempt.outcome, attempt.output_tokens) == ("failed", 30)
    assert "opens" not in attempt.why
    assert len(sandbox.requests) == 1
    reply = provider.generate("2 + 2?", patience=0)
    assert reply.endswith("Four.")
    assert all(attempt.outcome == "served" for attempt in reply.attempts)


def test_another_model_may_answer(start: Start) -> None:
    """A model that is open now and reasons less."""

    def write(model: str, _: object) -> str:
        return "Four." if model == MODELS["mistral"] else REASONED

    sandbox = start(keys={"groq": 2, "mistral": 1}, reply=write)
    reply = get_llm_provider().generate("2 + 2?", max_tokens=30)
    assert (reply, reply.provider) == ("Four.", "mistral")
    assert asked(sandbox) == ["groq", "mistral"]
    assert SAYS in reply.attempts[0].why


def test_a_request_does_not_wait_for_another_model(start: Start, clock: Clock) -> None:
    """Users can raise the limit sooner; the error has the reasons of all routes."""
    sandbox = start(
        keys={"groq": 1, "mistral": 1},
        clock=clock,
        left={"mistral": {"requests_per_minute": 0}},
        reply=lambda *_: REASONED,
    )
    with pytest.raises(IncompleteReply, match=SAYS) as caught:
        get_llm_provider().generate("2 + 2?", max_tokens=30, patience=300)
    assert "mistral · key 1" in str(caught.value)
    assert clock.slept == 0
    assert asked(sandbox).count("groq") == 1


def test_a_reply_with_only_reasoning_is_not_kept(start: Start) -> None:
    """The next call asks again."""
    sandbox = start(keys={"groq": 1}, reply=lambda *_: REASONED)
    provider = get_llm_provider()
    for _ in range(2):
        with pytest.raises(IncompleteReply):
            provider.generate("2 + 2?", max_tokens=30, keep=True)
    assert len(sandbox.requests) == 2


def test_a_row_with_only_reasoning_is_an_error(start: Start) -> None:
    """A job asks it once. The next run shows its error, and asks it again on request."""
    sandbox = start(keys={"groq": 2}, reply=lambda *_: REASONED)
    (row,) = Job(["2 + 2?"], max_tokens=30)
    assert SAYS in row.error
    assert row.reply is None
    (row,) = Job(["2 + 2?"], max_tokens=30)
    assert (row.resumed, SAYS in row.error) == (True, True)
    assert len(sandbox.requests) == 1
    (row,) = Job(["2 + 2?"], max_tokens=30, retry_errors=True)
    assert SAYS in row.error
    assert len(sandbox.requests) == 2
