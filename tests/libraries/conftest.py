"""One sandbox and one server per file. Each test starts with unused keys in the environment."""

from __future__ import annotations

import os
import tempfile
from itertools import count
from typing import TYPE_CHECKING

import pytest
from library_parts import KEYS

from arche_magic.openai_api.server import Server
from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# DSPy stores replies in the home folder, and reads this when it is imported.
_folder = tempfile.TemporaryDirectory(prefix="libraries-")
os.environ["DSPY_CACHEDIR"] = _folder.name
# Otherwise DSPy and LiteLLM download a table of models.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
_stores = count()


@pytest.fixture(scope="module")
def providers() -> Iterator[Sandbox]:
    """The simulated providers of a file."""
    with Sandbox(keys=KEYS) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def sandbox(
    providers: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Sandbox:
    """The keys are in the environment, as a user has them, and no quota is used."""
    providers.reset()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARCHE_QUOTA_STORE", f"memory://libraries-{next(_stores)}")
    for name, value in providers.environment().items():
        monkeypatch.setenv(name, value)
    return providers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The OpenAI API on a port, as `%llm_serve` starts it."""
    with Server(port=0, token_file=tmp_path_factory.mktemp("server") / "token") as server:
        yield server
