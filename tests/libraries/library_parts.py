"""Shared by the tests of all libraries: a schema, a tool, and who answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.config import get_configuration

if TYPE_CHECKING:
    from arche_magic.llm_providers.reply import Attempt
    from arche_magic.sandbox import Sandbox

KEYS = {"groq": 2, "mistral": 1, "google": 1, "openai": 1}
PROVIDERS = tuple(KEYS)
# The sandbox's model calls the tool that the prompt names, with its values.
ASK_FOR_TEMPERATURE = "Use temperature with city=Oslo."
WHAT_OPENS_WHEN = r"No available LLM providers: groq · key 1 · gpt-oss-120b opens in \d+ min"


class City(BaseModel):
    """A city."""

    name: str
    population: int


def temperature(city: str) -> str:
    """Tell the temperature in a city."""
    return f"21 degrees in {city}"


def keys_that_answered() -> list[str]:
    """The keys that answered requests, in order."""
    return [attempt.key for attempt in _served()]


def providers_that_answered() -> list[str]:
    """The providers that answered requests, in order."""
    return [attempt.provider for attempt in _served()]


def _served() -> list[Attempt]:
    attempts = attempt_log(get_configuration().store).session()
    return [attempt for attempt in attempts if attempt.outcome == "served"]


def spend(sandbox: Sandbox, key: str) -> None:
    """Use up the rest of today's quota of a key, or of all keys with `*`."""
    sandbox.fail(key, "rate_limit_day", times=None)
