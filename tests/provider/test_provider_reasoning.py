"""Replies whose tokens all went into reasoning: a failure that says so, and is never kept."""

from __future__ import annotations

import sqlite3

import pytest
from provider_parts import MODELS, PROVIDERS, Clock, Start, asked

from arche_magic.bulk import Job
from arche_magic.llm_providers import IncompleteReply, get_llm_provider
from arche_magic.llm_providers.config import get_configuration

REASONED = "<think>" + "Let me see. " * 100 + "</think>Four."
SAYS = "used all 30 tokens for reasoning; raise --max-tokens"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", PROVIDERS)
def test_a_reply_that_is_all_reasoning_is_a_failure(
    start: Start, name: str, streamed: bool
) -> None:
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
    """One that is open now, and with less reasoning."""

    def write(model: str, _: object) -> str:
        return "Four." if model == MODELS["mistral"] else REASONED

    sandbox = start(keys={"groq": 2, "mistral": 1}, reply=write)
    reply = get_llm_provider().generate("2 + 2?", max_tokens=30)
    assert (reply, reply.provider) == ("Four.", "mistral")
    assert asked(sandbox) == ["groq", "mistral"]
    assert SAYS in reply.attempts[0].why


def test_where_no_other_model_is_open_nobody_waits(start: Start, clock: Clock) -> None:
    """The user can raise the limit sooner; the error has the reasons of all routes."""
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


def test_a_reply_that_is_all_reasoning_is_not_kept(start: Start) -> None:
    """The next call asks again, and so it does where an earlier version kept an empty text."""
    sandbox = start(keys={"groq": 1}, reply=lambda *_: REASONED)
    provider = get_llm_provider()
    for _ in range(2):
        with pytest.raises(IncompleteReply):
            provider.generate("2 + 2?", max_tokens=30, keep=True)
    assert len(sandbox.requests) == 2
    provider.generate("2 + 2?", keep=True)
    with sqlite3.connect(get_configuration().replies) as connection:
        connection.execute("UPDATE replies SET text = ''")
    connection.close()
    assert provider.generate("2 + 2?", keep=True).endswith("Four.")
    assert len(sandbox.requests) == 4


def test_a_row_that_is_all_reasoning_is_an_error(start: Start) -> None:
    """A job asks it once; the next run tells its error, and asks it again if that is wanted."""
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


def test_a_row_kept_as_empty_by_an_earlier_version_is_asked_again(start: Start) -> None:
    """It never had an answer."""
    sandbox = start(keys={"groq": 1})
    (first,) = Job(["2 + 2?"])
    with sqlite3.connect(get_configuration().replies) as connection:
        connection.execute("UPDATE replies SET text = ''")
    connection.close()
    (row,) = Job(["2 + 2?"])
    assert row.reply == first.reply
    assert len(sandbox.requests) == 2
