"""Faults of the older package, `Three_PointO_ArchE.llm_providers`, do not occur here."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from env_file import write_env_file
from provider_parts import (
    MODELS,
    PROVIDERS,
    Clock,
    Start,
    asked,
    run_script,
    server_count,
    used,
)

from arche_magic.llm_providers import (
    ConfigurationError,
    IntelligentLLMOrchestrator,
    LLMProviderError,
    MultiKeyGroqProvider,
    get_llm_provider,
    get_model_for_provider,
)
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.quota_tracker import get_quota_tracker

if TYPE_CHECKING:
    from pathlib import Path


def test_one_request_asks_each_key_once(start: Start, clock: Clock) -> None:
    """Three nested rotations asked the same keys repeatedly."""
    sandbox = start(keys={"groq": 3}, clock=clock)
    sandbox.fail("groq", "rate_limit_day", times=None)
    with pytest.raises(LLMProviderError, match="All Groq API keys have hit rate limits"):
        get_llm_provider().generate("Hello", patience=0)
    assert sorted(str(request.key) for request in sandbox.requests) == [
        "groq_key_1",
        "groq_key_2",
        "groq_key_3",
    ]


def test_the_class_and_the_provider_names_share_one_rotation(start: Start, clock: Clock) -> None:
    """`MultiKeyGroqProvider`, `groq` and `intelligent` share one ledger and one order."""
    start(keys={"groq": 2}, clock=clock)
    providers = (MultiKeyGroqProvider(), get_llm_provider("groq"), IntelligentLLMOrchestrator())
    keys = [provider.generate("Hello").key for provider in (*providers, providers[0])]
    assert sorted(keys) == ["groq_key_1", "groq_key_1", "groq_key_2", "groq_key_2"]


def test_building_the_multi_key_provider_keeps_the_counts(start: Start, clock: Clock) -> None:
    """The older package set the saved counts to zero."""
    start(keys={"groq": 1}, clock=clock)
    MultiKeyGroqProvider().generate("Hello")
    summary = MultiKeyGroqProvider().get_usage_summary()["groq"]
    assert used(summary, "groq_key_1") == 1
    assert used(summary, "groq_key_1", "tokens_per_day") > 0


def test_the_usage_summary_works_in_the_next_process(start: Start, tmp_path: Path) -> None:
    """The older package raised TypeError, because it compared times with and without a zone."""
    sandbox = start()
    write_env_file(tmp_path, sandbox)
    get_llm_provider("groq").generate("Hello")
    code = """
from datetime import UTC, datetime
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
row = get_quota_tracker().get_usage_summary("groq")["groq"]["groq_key_1"]["requests_per_day"]
print(datetime.fromisoformat(row["reset_time"]) > datetime.now(UTC), row["available"])
"""
    assert run_script(code, tmp_path)[0].split() == ["True", "True"]


def test_fallback_reaches_the_third_and_fourth_provider(start: Start, clock: Clock) -> None:
    """The older package alternated between the first two."""
    sandbox = start(clock=clock)
    provider = get_llm_provider()
    sandbox.fail("groq", "server_error", times=None)
    sandbox.fail("mistral", "server_error", times=None)
    assert provider.generate("Hello", patience=0).provider == "google"
    sandbox.fail("google", "server_error", times=None)
    assert provider.generate("Hello", patience=0).provider == "openai"
    assert asked(sandbox) == ["groq", "mistral", "google", "google", "openai"]


def test_the_first_key_is_used_and_counted_like_any_other(start: Start, clock: Clock) -> None:
    """Its index was 0, which the older package treated as "no key"."""
    start(keys={"groq": 2}, clock=clock)
    provider = MultiKeyGroqProvider()
    replies = [provider.generate("Hello") for _ in range(4)]
    summary = provider.get_usage_summary()["groq"]
    for label in ("groq_key_1", "groq_key_2"):
        assert used(summary, label) == [reply.key for reply in replies].count(label) == 2


def test_requests_per_day_are_recorded(start: Start, clock: Clock) -> None:
    """The older package recorded only tokens."""
    sandbox = start(clock=clock)
    for name in ("groq", "google", "openai"):
        for _ in range(3):
            get_llm_provider(name).generate("Hello")
        row = get_quota_tracker().get_usage_summary(name)[name][f"{name}_key_1"]["requests_per_day"]
        assert row["used"] == 3
        assert row["remaining"] == row["limit"] - 3
        assert row["model"] == MODELS[name]
        assert datetime.fromisoformat(row["reset_time"]).tzinfo
    assert server_count(sandbox, "requests") == 9


def test_tokens_per_day_are_the_providers_own_count(start: Start, clock: Clock) -> None:
    """The older package estimated them from the words of the prompt."""
    sandbox = start(keys={"groq": 1}, clock=clock)
    for number in range(3):
        get_llm_provider().generate(f"Prompt {number}")
    spent = server_count(sandbox, "input_tokens") + server_count(sandbox, "output_tokens")
    summary = get_quota_tracker().get_usage_summary("groq")["groq"]
    assert used(summary, "groq_key_1", "tokens_per_day") == spent


def test_a_key_can_be_passed_for_one_provider(start: Start) -> None:
    """`get_llm_provider(name, api_key)` uses only this key of this provider."""
    start(keys={"groq": 2, "mistral": 1})
    second = get_configuration().keys[1].secret()
    provider = get_llm_provider("groq", second)
    assert {provider.generate("Hello").key for _ in range(3)} == {"groq_key_1"}
    used_up = get_llm_provider().quota_tracker.get_usage_summary("groq")["groq"]
    assert [used(used_up, label) for label in ("groq_key_1", "groq_key_2")] == [0, 3]
    for name, key in (("groq", ""), ("groq", " "), ("intelligent", second)):
        with pytest.raises(ConfigurationError, match="api_key"):
            get_llm_provider(name, key)


def test_the_default_model_of_a_provider_is_available(start: Start) -> None:
    """`get_model_for_provider(name)` returns the model that is used if none is named."""
    start()
    for name in PROVIDERS:
        assert get_model_for_provider(name) == get_llm_provider(name).generate("Hello").model
