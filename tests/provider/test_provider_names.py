"""The providers that a name selects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from env_file import write_env_file
from provider_parts import PROVIDERS, Start, asked

from arche_magic import openai_client
from arche_magic.llm_providers import (
    ConfigurationError,
    IntelligentLLMOrchestrator,
    LLMProviderError,
    MultiKeyGroqProvider,
    get_llm_provider,
)
from arche_magic.llm_providers.config import use_configuration
from arche_magic.llm_providers.quota_tracker import get_quota_tracker

if TYPE_CHECKING:
    from pathlib import Path

    from arche_magic.sandbox import Sandbox


@pytest.mark.parametrize("name", [None, "intelligent", "Intelligent ", ""])
def test_without_a_name_all_providers_are_used(sandbox: Sandbox, name: str | None) -> None:
    """None and `intelligent` mean the same."""
    provider = get_llm_provider(name)
    assert type(provider) is IntelligentLLMOrchestrator
    assert provider.get_stats()["available_providers"] == list(PROVIDERS)
    assert provider.generate("Hello")


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_providers_name_selects_only_that_provider(sandbox: Sandbox, name: str) -> None:
    """No other provider gets the request."""
    reply = get_llm_provider(name).generate("Hello")
    assert reply.provider == name
    assert asked(sandbox) == [name]


def test_the_variable_sets_the_default_provider(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ARCHE_LLM_PROVIDER in the environment or in `.env` applies if no name is given."""
    use_configuration(None)
    env_file = write_env_file(tmp_path, sandbox)
    monkeypatch.setenv("ARCHE_LLM_PROVIDER", "mistral")
    assert get_llm_provider().generate("Hello").provider == "mistral"
    assert get_llm_provider("google").generate("Hello").provider == "google"
    monkeypatch.delenv("ARCHE_LLM_PROVIDER")
    env_file.write_text(env_file.read_text() + "ARCHE_LLM_PROVIDER=openai\n")
    assert get_llm_provider(None).generate("Hello").provider == "openai"


def test_an_unknown_name_is_an_error_with_the_closest_name(sandbox: Sandbox) -> None:
    """The message also lists the known ones."""
    with pytest.raises(ConfigurationError, match=r"unknown provider 'grok'; did you mean 'groq'\?"):
        get_llm_provider("grok")
    with pytest.raises(ConfigurationError, match="unknown provider 'grok'"):
        IntelligentLLMOrchestrator(preferred_provider="grok")
    with pytest.raises(ConfigurationError, match="unknown provider 'grok'"):
        get_quota_tracker().get_usage_summary("grok")


@pytest.mark.parametrize("name", [5, b"groq", ["groq"]])
def test_a_name_that_is_not_text_is_an_error_in_one_line(sandbox: Sandbox, name: Any) -> None:
    """This holds wherever a provider is named."""
    for use in (
        lambda: get_llm_provider(name),
        lambda: IntelligentLLMOrchestrator(preferred_provider=name),
        lambda: get_quota_tracker().get_usage_summary(name),
        lambda: openai_client(provider=name),
    ):
        with pytest.raises(ConfigurationError, match=r"^the name of a provider is of type "):
            use()
    with pytest.raises(ConfigurationError, match=r"^set_limits"):
        get_quota_tracker().set_limits(name, requests_per_day=5)


@pytest.mark.parametrize("providers", [[], "groq"])
def test_providers_must_be_a_list_of_names(sandbox: Sandbox, providers: Any) -> None:
    """An empty list must not mean all of them."""
    with pytest.raises(ConfigurationError, match="providers must be a list of names"):
        IntelligentLLMOrchestrator(providers=providers)


def test_a_model_of_other_providers_is_named_with_them(sandbox: Sandbox) -> None:
    """The object has some providers, and none of them has the model."""
    two = IntelligentLLMOrchestrator(providers=["groq", "mistral"])
    for model in ("gemini-3.5-flash-lite", "google/gemini-3.5-flash-lite"):
        with pytest.raises(ConfigurationError, match=r"of google; the providers .* groq, mistral$"):
            two.generate("Hello", model=model)
    assert asked(sandbox) == []


def test_an_unknown_default_is_an_error_only_if_it_is_used(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong variable does not affect a provider that is selected by name."""
    use_configuration(None)
    write_env_file(tmp_path, sandbox)
    monkeypatch.setenv("ARCHE_LLM_PROVIDER", "opnai")
    with pytest.raises(ConfigurationError, match=r"ARCHE_LLM_PROVIDER in .* mean 'openai'"):
        get_llm_provider()
    assert get_llm_provider("groq").generate("Hello")


def test_without_keys_the_error_names_the_variables() -> None:
    """Creating a provider works, so that a notebook loads; a request fails."""
    with pytest.raises(LLMProviderError, match=r"No available LLM providers.*GROQ_API_KEY.*\.env"):
        get_llm_provider().generate("Hello")
    with pytest.raises(LLMProviderError, match="Set MISTRAL_API_KEY in"):
        get_llm_provider("mistral").generate("Hello")


def test_the_groq_provider_accepts_a_list_of_keys(start: Start) -> None:
    """Labels follow the given order, blank keys are refused, duplicates are dropped."""
    sandbox = start(keys={"groq": 2})
    first, second = (key.secret() for key in get_llm_provider().configuration.keys)
    provider = MultiKeyGroqProvider(api_keys=[second, first, second])
    assert provider.generate("Hello").key == "groq_key_1"
    assert sandbox.requests[-1].key == "groq_key_2"
    assert list(provider.get_usage_summary()["groq"]) == ["groq_key_1", "groq_key_2"]
    with pytest.raises(ConfigurationError, match="key 2 is blank"):
        MultiKeyGroqProvider(api_keys=[first, "  "])
    with pytest.raises(ConfigurationError, match="api_key is not text"):
        MultiKeyGroqProvider(api_keys=[None])  # type: ignore[list-item]
    for wrong in (first, 5):
        with pytest.raises(ConfigurationError, match="api_keys must be a list of keys"):
            MultiKeyGroqProvider(api_keys=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no API key"):
        MultiKeyGroqProvider(api_keys=[])
