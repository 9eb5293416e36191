"""Sandboxes that jobs run against, in a folder of their own per test."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from provider_parts import Clock

from arche_magic.llm_providers.catalog import parse_limits
from arche_magic.llm_providers.config import load_configuration, use_configuration
from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from provider_parts import FastClock, Start

WINDOWS = {"groq": "bucket", "mistral": "rolling", "google": "calendar", "openai": "bucket"}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file of the machine takes part, and nothing stays behind."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user-settings"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "user-settings"))
    monkeypatch.chdir(tmp_path)
    yield
    use_configuration(None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a sandbox and use it: one key of Groq, the ledger in the test's folder.

    `limits` by provider are those of the server, and of the configuration too, so that nothing is
    left to find out; `settings` are fields of the configuration.
    """
    started: list[Sandbox] = []

    def begin(
        keys: dict[str, int] | None = None,
        clock: Clock | FastClock | None = None,
        limits: dict[str, dict[str, int]] | None = None,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> Sandbox:
        time = clock.time if clock else None
        sandbox = Sandbox(keys=keys or {"groq": 1}, clock=time, limits=limits, **options).start()
        started.append(sandbox)
        chosen: dict[str, Any] = {"clock": clock} if clock else {}
        chosen["limits"] = {
            name: parse_limits(
                {limit: amount for limit, amount in table.items() if amount is not None},
                WINDOWS[name],
                "America/Los_Angeles" if name == "google" else "UTC",
            )
            for name, table in (limits or {}).items()
        }
        configuration = load_configuration(sandbox.environment(), tmp_path)
        use_configuration(replace(configuration, **chosen, **(settings or {})))
        return sandbox

    yield begin
    for sandbox in started:
        sandbox.stop()


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
