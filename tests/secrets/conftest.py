"""A sandbox with the planted keys, and a folder whose `.env` contains them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from env_file import write_env_file
from leaks import keys_of
from provider_parts import PROVIDERS

from arche_magic.sandbox import Sandbox


@pytest.fixture
def planted() -> Iterator[Sandbox]:
    """A sandbox whose keys are the planted ones."""
    with Sandbox(keys={name: keys_of(name) for name in PROVIDERS}) as sandbox:
        yield sandbox


@pytest.fixture
def project(planted: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the keys in its `.env`, and in it the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    write_env_file(folder, planted)
    monkeypatch.chdir(folder)
    return folder
