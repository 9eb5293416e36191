"""A separate folder for each test, and sandboxes with a configuration for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from provider_parts import ONE_KEY_EACH, Clock, FastClock, Start

from arche_magic.llm_providers.config import load_configuration, use_configuration
from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def own_folder(own_settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the test's folder, where the user's own settings are too."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a sandbox and use it: one key per provider, the ledger in the test's folder.

    `settings` are fields of the configuration; a `clock` is shared with the sandbox.
    """
    started: list[Sandbox] = []

    def begin(
        keys: dict[str, int] | None = None,
        clock: Clock | FastClock | None = None,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> Sandbox:
        time = clock.time if clock else None
        sandbox = Sandbox(keys=keys or ONE_KEY_EACH, clock=time, **options).start()
        started.append(sandbox)
        chosen = {"clock": clock} if clock else {}
        configuration = load_configuration(sandbox.environment(), tmp_path)
        use_configuration(replace(configuration, **chosen, **(settings or {})))
        return sandbox

    yield begin
    for sandbox in started:
        sandbox.stop()


@pytest.fixture
def sandbox(start: Start) -> Sandbox:
    """All four providers with one key each, in real time."""
    return start()
