"""`get_stats()`: figures derived from the attempts, so that they cannot disagree."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provider_parts import PROVIDERS, Clock, Start

from arche_magic.llm_providers import (
    IntelligentLLMOrchestrator,
    LLMProviderError,
    MultiKeyGroqProvider,
    get_llm_provider,
)
from arche_magic.llm_providers.config import get_configuration
from arche_magic.sandbox import TEMPORARY_KINDS, Sandbox

Running = tuple[Sandbox, Clock]
KINDS = [*TEMPORARY_KINDS, "unauthorized", "no_credit", "content_filter", "invalid_request"]
numbers = count()


def test_a_new_provider_has_no_counts(start: Start) -> None:
    """All fields of the older package are present, with the available providers."""
    start()
    stats = get_llm_provider().get_stats()
    assert {name: stats[name] for name in ("total_calls", "provider_calls", "fallbacks")} == {
        "total_calls": 0,
        "provider_calls": {},
        "fallbacks": 0,
    }
    assert stats["errors"] == 0
    assert stats["current_provider"] == "groq"
    assert stats["available_providers"] == list(PROVIDERS)
    assert list(stats["quota_summary"]) == list(PROVIDERS)


def test_the_statistics_are_plain_data(start: Start, clock: Clock) -> None:
    """`json.dumps` accepts them before any call, after one, and with all keys closed."""
    sandbox = start(clock=clock)
    providers = (get_llm_provider(), MultiKeyGroqProvider())

    def plain() -> None:
        for provider in providers:
            stats = provider.get_stats()
            assert json.loads(json.dumps(stats, allow_nan=False)) == stats
        usage = providers[1].get_usage_summary()
        assert json.loads(json.dumps(usage, allow_nan=False)) == usage

    plain()
    providers[0].generate("Hello")
    plain()
    sandbox.fail("*", "unauthorized", times=None)
    with pytest.raises(LLMProviderError):
        providers[0].generate("Hello", patience=0)
    plain()
    summary = providers[0].get_stats()["quota_summary"]
    for limits in (limits for keys in summary.values() for limits in keys.values()):
        assert not any(limit["available"] for limit in limits.values())


def test_a_fallback_is_a_reply_after_a_route_that_could_not_answer(
    start: Start, clock: Clock
) -> None:
    """The route failed or was closed. `current_provider` is the last one that answered."""
    sandbox = start(clock=clock)
    provider = get_llm_provider()
    sandbox.fail("groq", "no_credit")
    for _ in range(2):
        assert provider.generate("Hello", patience=0).provider == "mistral"
    stats = provider.get_stats()
    assert (stats["total_calls"], stats["fallbacks"], stats["errors"]) == (2, 2, 0)
    assert stats["provider_calls"] == {"mistral": 2}
    assert stats["current_provider"] == "mistral"


def test_a_request_without_a_reply_is_one_error(start: Start, clock: Clock) -> None:
    """The number of routes does not matter. An invalid request is not an error."""
    sandbox = start(clock=clock)
    sandbox.fail("*", "server_error", times=None)
    provider = get_llm_provider()
    with pytest.raises(LLMProviderError):
        provider.generate("Hello", patience=0)
    with pytest.raises(LLMProviderError):
        provider.generate("")
    stats = provider.get_stats()
    assert (stats["total_calls"], stats["errors"], stats["fallbacks"]) == (1, 1, 0)


def test_streams_count_like_plain_requests(start: Start, clock: Clock) -> None:
    """A broken one is an error, a complete one is a call."""
    sandbox = start(clock=clock)
    provider = get_llm_provider("groq")
    list(provider.stream("Hello"))
    sandbox.fail("groq", "cut_stream")
    with pytest.raises(LLMProviderError):
        list(provider.stream("Hello"))
    stats = provider.get_stats()
    assert (stats["total_calls"], stats["errors"]) == (2, 1)
    assert stats["provider_calls"] == {"groq": 1}


@pytest.fixture
def running(start: Start, clock: Clock) -> Running:
    return start(clock=clock), clock


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    script=st.lists(
        st.tuples(st.sampled_from([*PROVIDERS, "*"]), st.sampled_from(KINDS), st.integers(1, 4)),
        max_size=6,
    ),
    requests=st.integers(1, 5),
)
def test_figures_follow_from_the_attempts_after_any_failure(
    running: Running, script: list[tuple[str, str, int]], requests: int
) -> None:
    """Counting the replies and errors that the caller got gives the same figures."""
    sandbox, clock = running
    clock.now += 1_000_000
    sandbox.reset()
    # A separate ledger for each example.
    store = f"memory://stats-{next(numbers)}"
    configuration = replace(get_configuration(), store=store)
    provider = IntelligentLLMOrchestrator(configuration=configuration)
    for target, kind, times in script:
        sandbox.fail(target, kind, times=times)
    served: Counter[str] = Counter()
    fallbacks = errors = 0
    for number in range(requests):
        try:
            reply = provider.generate(f"Prompt {number}", patience=2)
        except LLMProviderError as error:
            errors += 1
            answered = [attempt.outcome == "served" for attempt in error.attempts]
        else:
            answered = [attempt.outcome == "served" for attempt in reply.attempts[:-1]]
            assert reply.attempts[-1].outcome == "served"
            served[reply.provider] += 1
            fallbacks += len(reply.attempts) > 1
        assert not any(answered)
    stats = provider.get_stats()
    assert stats["total_calls"] == requests == sum(served.values()) + errors
    assert stats["provider_calls"] == dict(served)
    assert (stats["fallbacks"], stats["errors"]) == (fallbacks, errors)
