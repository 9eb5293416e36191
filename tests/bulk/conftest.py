"""Sandboxes for jobs, in a separate folder for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from embedding_server import running_server, server
from provider_fixtures import clock, own_folder
from provider_fixtures import start as start_sandbox

from arche_magic.llm_providers.catalog import parse_limits

if TYPE_CHECKING:
    from provider_parts import Start

    from arche_magic.sandbox import Sandbox

__all__ = ["clock", "own_folder", "running_server", "server", "start_sandbox"]
WINDOWS = {"groq": "bucket", "mistral": "rolling", "google": "calendar", "openai": "bucket"}


@pytest.fixture
def start(start_sandbox: Start) -> Start:
    """Start a sandbox and use it: one key of Groq, the ledger in the test's folder.

    `limits` by provider apply to the server and to the configuration, so that nothing has to be
    learned; `settings` are fields of the configuration.
    """

    def begin(
        keys: dict[str, int] | None = None,
        limits: dict[str, dict[str, int]] | None = None,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> Sandbox:
        known = {
            name: parse_limits(
                {limit: amount for limit, amount in table.items() if amount is not None},
                WINDOWS[name],
                "America/Los_Angeles" if name == "google" else "UTC",
            )
            for name, table in (limits or {}).items()
        }
        chosen = {"limits": known, **(settings or {})}
        return start_sandbox(keys=keys or {"groq": 1}, limits=limits, settings=chosen, **options)

    return begin


@pytest.fixture
def sandbox(start: Start) -> Sandbox:
    """Groq, Mistral, Gemini with one key each, in real time, without a limit in reach."""
    plenty = {"requests_per_minute": 100_000, "requests_per_day": 100_000}
    tokens = {"tokens_per_minute": 10**8, "tokens_per_day": 10**9}
    return start(
        keys={"groq": 1, "mistral": 1, "google": 1},
        limits={
            "groq": plenty | tokens,
            "mistral": plenty | tokens,
            "google": plenty | {"input_tokens_per_minute": 10**8},
        },
    )
