"""Shared by the tests of the configuration."""

from __future__ import annotations

from collections.abc import Callable

from arche_magic.llm_providers.config import Configuration

# Writes a `.env` and an `arche_magic.toml`, and reads them.
Load = Callable[..., Configuration]


def keys_of(configuration: Configuration, provider: str = "groq") -> list[str]:
    return [key.secret() for key in configuration.keys if key.provider == provider]
