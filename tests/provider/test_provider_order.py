"""Which route answers, in which order, and what the error says if none is left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from provider_parts import MODELS, NOON, PROVIDERS, Clock, Start, asked

from arche_magic.llm_providers import (
    ConfigurationError,
    IntelligentLLMOrchestrator,
    LLMProviderError,
    MultiKeyGroqProvider,
    NoRouteAvailable,
    get_llm_provider,
)

TWO_LEFT = {
    "groq": {"requests_per_day": 2},
    "mistral": {"requests_per_minute": 2},
    "google": {"requests_per_day": 2},
}


def test_each_provider_takes_over_when_the_previous_one_is_spent(
    start: Start, clock: Clock
) -> None:
    """Groq, Mistral, Google, and the paid provider last."""
    start(clock=clock, left=TWO_LEFT)
    provider = get_llm_provider()
    replies = [provider.generate(f"Prompt {n}", patience=0) for n in range(8)]
    assert [reply.provider for reply in replies] == [
        *("groq", "groq"),
        *("mistral", "mistral"),
        *("google", "google"),
        *("openai", "openai"),
    ]
    outcomes = [attempt.outcome for attempt in replies[-1].attempts]
    assert outcomes == ["skipped", "skipped", "skipped", "served"]


def test_each_key_takes_over_when_the_previous_one_is_spent(start: Start, clock: Clock) -> None:
    """A second key is another route with its own quota."""
    start(keys={"groq": 3}, clock=clock, left={"groq": {"requests_per_day": 2}})
    provider = MultiKeyGroqProvider()
    keys = [provider.generate(f"Prompt {n}", patience=0).key for n in range(6)]
    assert sorted(keys) == sorted(["groq_key_1", "groq_key_2", "groq_key_3"] * 2)


def test_a_preferred_provider_comes_first_even_if_it_is_paid(start: Start, clock: Clock) -> None:
    """If it is closed, the others follow in their order."""
    sandbox = start(clock=clock)
    provider = IntelligentLLMOrchestrator(preferred_provider="openai")
    assert provider.generate("Hello").provider == "openai"
    sandbox.fail("openai", "no_credit", times=None)
    assert provider.generate("Hello").provider == "groq"
    assert asked(sandbox) == ["openai", "openai", "groq"]


def test_paid_routes_are_used_only_if_no_free_route_opens_in_time(
    start: Start, clock: Clock
) -> None:
    """With enough patience, the request waits for the free route instead of paying."""
    sandbox = start(
        keys={"groq": 1, "openai": 1}, clock=clock, limits={"groq": {"requests_per_minute": 1}}
    )
    provider = get_llm_provider()
    assert provider.generate("One").provider == "groq"
    assert provider.generate("Two", patience=90).provider == "groq"
    assert "openai" not in asked(sandbox)
    assert clock.slept == pytest.approx(60, abs=2)
    assert provider.generate("Three", patience=5).provider == "openai"
    assert clock.slept == pytest.approx(60, abs=2)


def test_only_the_first_groq_key_is_used_on_request(start: Start, clock: Clock) -> None:
    """`enable_multi_key_groq=False`: nothing is sent with the other keys."""
    sandbox = start(keys={"groq": 3}, clock=clock, left={"groq": {"requests_per_day": 2}})
    provider = IntelligentLLMOrchestrator(enable_multi_key_groq=False)
    assert [provider.generate("Hello").key for _ in range(2)] == ["groq_key_1"] * 2
    with pytest.raises(NoRouteAvailable):
        provider.generate("Hello", patience=0)
    assert {request.key for request in sandbox.requests} == {"groq_key_1"}


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_provider_option_restricts_a_request_to_one_provider(start: Start, name: str) -> None:
    """Even if it fails, no other provider gets the prompt."""
    sandbox = start()
    provider = get_llm_provider()
    assert provider.generate("Hello", provider=name).provider == name
    sandbox.fail(name, "server_error", times=None)
    with pytest.raises(NoRouteAvailable):
        provider.generate("Hello", provider=name, patience=0)
    assert set(asked(sandbox)) == {name}


@pytest.mark.parametrize(
    ("model", "provider", "arrives"),
    [
        ("openai/gpt-oss-20b", None, "openai/gpt-oss-20b"),
        ("gpt-oss-120b", None, "openai/gpt-oss-120b"),
        ("groq/openai/gpt-oss-120b", None, "openai/gpt-oss-120b"),
        ("openai/gpt-oss-120b", "groq", "openai/gpt-oss-120b"),
        ("mistral-large-latest", None, "mistral-large-latest"),
        ("mistral/mistral-large-latest", None, "mistral-large-latest"),
        ("google/gemini-3.8-flash", None, "gemini-3.8-flash"),
        ("gpt-4o-mini", None, "gpt-4o-mini"),
        ("openai/gpt-4o-mini", None, "gpt-4o-mini"),
        ("gpt-5.4-mini", "openai", "gpt-5.4-mini"),
    ],
)
def test_a_model_name_finds_its_provider(
    start: Start, model: str, provider: str | None, arrives: str
) -> None:
    """A bare name, `provider/model`, and a vendor's prefix that looks like a provider."""
    sandbox = start()
    reply = get_llm_provider().generate("Hello", model=model, provider=provider)
    request = sandbox.requests[-1]
    owner = "groq" if "oss" in model else reply.provider
    assert (request.provider, request.model) == (owner, arrives)
    assert (reply.provider, reply.model) == (owner, arrives)


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_model_is_never_sent_to_another_provider(start: Start, clock: Clock, name: str) -> None:
    """Even if its own provider is down, and no fallback is left."""
    sandbox = start(clock=clock)
    sandbox.fail(name, "overloaded", times=None)
    with pytest.raises(NoRouteAvailable):
        get_llm_provider().generate("Hello", model=MODELS[name], patience=0)
    assert set(asked(sandbox)) == {name}
    assert {request.model for request in sandbox.requests} == {MODELS[name]}


def test_a_model_of_another_provider_is_refused_before_anything_is_sent(start: Start) -> None:
    """By name, in both forms."""
    sandbox = start()
    with pytest.raises(ConfigurationError, match="is a model of mistral, not of groq"):
        get_llm_provider("groq").generate("Hello", model="mistral-small-latest")
    with pytest.raises(ConfigurationError, match="is a model of openai, not of google"):
        get_llm_provider().generate("Hello", model="gpt-4o-mini", provider="google")
    with pytest.raises(ConfigurationError, match=r"did you mean 'mistral-small-latest'"):
        get_llm_provider().generate("Hello", model="mistral-smal-latest")
    with pytest.raises(ConfigurationError, match="mistral is not among the providers of this"):
        get_llm_provider("groq").generate("Hello", provider="mistral")
    assert asked(sandbox) == []


def test_a_retired_model_closes_only_itself(start: Start, clock: Clock) -> None:
    """It is requested once, the user is told, and the provider's other models still answer."""
    sandbox = start(clock=clock)
    provider = get_llm_provider("groq")
    for _ in range(3):
        with pytest.raises(NoRouteAvailable, match=r"llama-3\.1-8b-instant"):
            provider.generate("Hello", model="llama-3.1-8b-instant", patience=0)
    assert len(sandbox.requests) == 1
    assert provider.generate("Hello")


def test_when_all_routes_are_closed_the_error_says_what_opens_when(
    start: Start, clock: Clock
) -> None:
    """It has the routes with reasons, the first opening as an aware time, and all attempts."""
    start(
        keys={"groq": 1, "mistral": 1},
        clock=clock,
        limits={"groq": {"requests_per_minute": 1}, "mistral": {"requests_per_minute": 1}},
    )
    provider = get_llm_provider()
    provider.generate("One", patience=0)
    provider.generate("Two", patience=0)
    with pytest.raises(NoRouteAvailable) as caught:
        provider.generate("Three", patience=0)
    error = caught.value
    message = str(error)
    assert message.startswith("No available LLM providers: groq · key 1 · gpt-oss-120b opens in ")
    assert "mistral · key 1 · mistral-small-latest opens in " in message
    assert [attempt.provider for attempt in error.attempts] == ["groq", "mistral"]
    assert all(attempt.outcome in ("skipped", "refused") for attempt in error.attempts)
    opens = error.next_available_at
    assert opens is not None
    assert opens.tzinfo is UTC
    now = datetime.fromtimestamp(NOON, UTC)
    assert now < opens <= now + timedelta(seconds=62)
    assert isinstance(error, LLMProviderError)


@pytest.mark.parametrize("by_class", [True, False])
def test_the_error_for_groq_names_limits_in_the_older_wording(
    start: Start, clock: Clock, by_class: bool
) -> None:
    """Users of the older package look for these words."""
    start(keys={"groq": 2}, clock=clock, limits={"groq": {"requests_per_minute": 1}})
    provider = MultiKeyGroqProvider() if by_class else get_llm_provider("groq")
    for _ in range(2):
        provider.generate("Hello", patience=0)
    with pytest.raises(LLMProviderError, match="All Groq API keys have hit rate limits") as caught:
        provider.generate("Hello", patience=0)
    assert caught.value.next_available_at is not None
    assert "key 2" in str(caught.value)


def test_an_error_has_no_time_if_no_route_opens_by_waiting(start: Start, clock: Clock) -> None:
    """A rejected key stays closed until the user acts."""
    sandbox = start(keys={"mistral": 1}, clock=clock)
    sandbox.fail("mistral", "unauthorized", times=None)
    with pytest.raises(NoRouteAvailable, match=r"No available LLM providers: .*key refused") as got:
        get_llm_provider().generate("Hello", patience=1000)
    assert got.value.next_available_at is None
    assert clock.naps == []


def test_a_prompt_too_large_for_one_route_goes_to_another(start: Start, clock: Clock) -> None:
    """No route is closed: the next short prompt goes to Groq again."""
    sandbox = start(clock=clock)
    provider = get_llm_provider()
    long = "word " * 10_000
    assert provider.generate(long, patience=0).provider == "mistral"
    assert provider.generate("Short", patience=0).provider == "groq"
    with pytest.raises(NoRouteAvailable, match=r"too large: about 12,\d\d\d tokens.*8,000"):
        get_llm_provider("groq").generate(long, patience=0)
    assert asked(sandbox) == ["mistral", "groq"]
