"""The inputs of each choice of a route are recorded, and give the same choice again."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from arche_magic.llm_providers import LLMProviderError, get_llm_provider
from arche_magic.llm_providers.attempt_log import Ended, attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.reply import Attempt, Reply

if TYPE_CHECKING:
    from provider_parts import Clock, Start


def last() -> Ended:
    ended = attempt_log(get_configuration().store).last
    assert ended is not None
    return ended


def asked(attempts: tuple[Attempt, ...]) -> list[tuple[str, str, str]]:
    """The routes that were called, in order."""
    return [(a.provider, a.key, a.model) for a in attempts if a.outcome != "skipped"]


def chosen_again(ended: Reply | Ended) -> list[tuple[str, str, str]]:
    """The open routes that the records choose, in order."""
    choices = [(decision, decision.choice()) for decision in ended.decisions]
    return [c.route.name for d, c in choices if c.route and c.opens_at <= d.at]


def test_the_records_of_a_reply_choose_the_same_routes(start: Start, clock: Clock) -> None:
    """After failures, with closed routes and keys, and for a reply that was pickled."""
    sandbox = start(keys={"groq": 2, "mistral": 1, "google": 1, "openai": 1}, clock=clock)
    provider = get_llm_provider()
    replies = [provider.generate("One")]
    sandbox.fail("groq_key_2", "server_error")
    sandbox.fail("groq_key_1", "rate_limit_day")
    sandbox.fail("mistral", "unauthorized")
    replies += [provider.generate(f"Prompt {number}") for number in range(6)]
    assert {reply.provider for reply in replies} >= {"groq", "google"}
    for reply in (*replies, pickle.loads(pickle.dumps(replies[-1]))):
        assert chosen_again(reply) == asked(reply.attempts)
        assert chosen_again(reply)[-1] == (reply.provider, reply.key, reply.model)


def test_a_wait_is_one_record(start: Start, clock: Clock) -> None:
    """The ledger is read many times meanwhile. The repeated choice waits for the same route."""
    start(keys={"groq": 1, "openai": 1}, clock=clock, limits={"groq": {"requests_per_minute": 2}})
    provider = get_llm_provider()
    for number in range(2):
        provider.generate(f"Prompt {number}")
    reply = provider.generate("Three", patience=100)
    assert reply.provider == "groq"
    refused, waited, answered = reply.decisions
    assert refused.choice().opens_at == refused.at
    assert answered.choice().opens_at <= answered.at
    choice = waited.choice()
    assert choice.route is not None
    assert choice.route.provider == "groq"
    assert choice.opens_at - waited.at == pytest.approx(30, abs=2)
    # OpenAI was open and considered, but it costs money.
    assert [entry.provider for entry in waited.considered] == ["groq", "openai"]


def test_a_failed_request_keeps_its_records(start: Start, clock: Clock) -> None:
    """The last record chooses no route."""
    sandbox = start(clock=clock)
    sandbox.fail("*", "server_error", times=None)
    with pytest.raises(LLMProviderError) as caught:
        get_llm_provider().generate("Hello", patience=0)
    ended = last()
    assert ended.attempts == caught.value.attempts
    assert chosen_again(ended) == asked(ended.attempts)
    assert ended.decisions[-1].choice().route is None
    assert [entry.provider for entry in ended.decisions[-1].considered] == [
        "groq", "mistral", "google", "openai"
    ]  # fmt: skip
