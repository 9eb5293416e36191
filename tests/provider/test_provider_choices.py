"""Choices for the session: which routes are used, in which order, and how long to wait."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from provider_parts import MODELS, PROVIDERS, Clock, Start, asked

from arche_magic.llm_providers import NoRouteAvailable, get_llm_provider
from arche_magic.llm_providers.config import (
    Choices,
    get_choices,
    get_configuration,
    use_choices,
    use_configuration,
)
from arche_magic.llm_providers.quota_tracker import get_quota_tracker


def test_a_key_that_is_off_is_not_used(start: Start) -> None:
    """The next key is used, and tables omit the first one until it is on again."""
    start(keys={"groq": 2})
    use_choices(get_choices().switched("groq_key_1", on=False))
    assert get_llm_provider().generate("Hello").key == "groq_key_2"
    assert {row.key for row in get_quota_tracker().standings()} == {"groq_key_2"}
    use_choices(get_choices().switched("groq_key_1", on=True))
    assert get_choices() == Choices()
    assert {row.key for row in get_quota_tracker().standings()} == {"groq_key_1", "groq_key_2"}


def test_a_model_that_is_off_is_not_used_even_by_name(start: Start) -> None:
    """Tables omit it although it was used before."""
    sandbox = start()
    get_llm_provider().generate("Hello")
    use_choices(Choices(off=frozenset({f"groq/{MODELS['groq']}"})))
    assert get_llm_provider().generate("Hello").provider == "mistral"
    assert "groq" not in {row.provider for row in get_quota_tracker().standings()}
    use_choices(get_choices().switched("mistral_key_1", on=False))
    with pytest.raises(NoRouteAvailable, match=r"these are switched off: groq · gpt-oss-120b$"):
        get_llm_provider().generate("Hello", model=MODELS["groq"])
    assert asked(sandbox) == ["groq", "mistral"]


def test_the_chosen_order_is_used(start: Start) -> None:
    """Providers that are not named follow in their usual order."""
    start()
    use_choices(Choices(order=("google", "mistral")))
    assert list(get_configuration().providers) == ["google", "mistral", "groq", "openai"]
    assert get_llm_provider().generate("Hello").provider == "google"


def test_a_preferred_provider_may_be_paid(start: Start) -> None:
    """It comes before all others, unless the program prefers another one."""
    start()
    use_choices(Choices(preferred_provider="openai"))
    assert get_llm_provider().generate("Hello").provider == "openai"


def test_the_chosen_patience_applies_unless_a_request_sets_its_own(
    start: Start, clock: Clock
) -> None:
    """With a patience of 0, a closed route is an immediate error; otherwise the request waits."""
    start(keys={"groq": 1}, clock=clock, left={"groq": {"requests_per_minute": 1}})
    get_llm_provider().generate("Hello")
    use_choices(Choices(patience=0.0))
    with pytest.raises(NoRouteAvailable):
        get_llm_provider().generate("Hello")
    assert clock.slept == 0
    assert get_llm_provider().generate("Hello", patience=60)
    assert clock.slept > 0


def test_choices_are_kept_when_files_change(tmp_path: Path) -> None:
    """A key that is added to `.env` later is found, and keys that are off stay off."""
    (tmp_path / ".env").write_text("GROQ_API_KEY=one-of-two\n")
    # A list is accepted too.
    use_choices(Choices(off=["groq_key_1"]))  # type: ignore[arg-type]
    assert get_configuration().routes() == ()
    (tmp_path / ".env").write_text("GROQ_API_KEY=one-of-two\nGROQ_API_KEY_1=two-of-two\n")
    assert [route.key.label for route in get_configuration().routes()] == ["groq_key_2"]


def test_another_configuration_starts_without_choices(start: Start) -> None:
    """Its first Groq key may be a different one."""
    start()
    configuration = get_configuration()
    use_choices(Choices(off=frozenset({"groq_key_1"}), order=("openai",)))
    use_configuration(replace(configuration, patience=1.0))
    assert get_choices() == Choices()
    assert list(get_configuration().providers) == list(PROVIDERS)


def test_a_choice_switches_nothing_on_that_the_configuration_switched_off(start: Start) -> None:
    start(keys={"groq": 2})
    use_configuration(replace(get_configuration(), off=frozenset({"groq_key_1"})))
    use_choices(Choices(patience=1.0))
    assert get_llm_provider().generate("Hello").key == "groq_key_2"


def test_unknown_names_in_choices_are_ignored(start: Start) -> None:
    """A provider that was removed from the settings is removed from the order too."""
    start()
    use_choices(Choices(order=("elsewhere", "openai"), preferred_provider="elsewhere"))
    configuration = get_configuration()
    assert next(iter(configuration.providers)) == "openai"
    assert configuration.preferred_provider is None
