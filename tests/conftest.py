"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from leaks import leaks_in_folder

from arche_magic.llm_providers.config import use_configuration
from arche_magic.sandbox import Sandbox

KEY_VARIABLES = ("GROQ_", "MISTRAL_", "GOOGLE_", "GEMINI_", "OPENAI_", "ARCHE_")


@pytest.fixture(autouse=True)
def no_keys_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees, or spends, a key of whoever runs it."""
    import os

    for name in list(os.environ):
        if name.startswith(KEY_VARIABLES):
            monkeypatch.delenv(name)
    yield
    use_configuration(None)


@pytest.fixture(scope="session", autouse=True)
def nothing_written_holds_a_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After the last test, no file of any test, and none in `build/`, has part of a planted key."""
    yield
    build = Path(__file__).parents[1] / "build"
    folders = [folder for folder in (tmp_path_factory.getbasetemp(), build) if folder.exists()]
    assert [leak for folder in folders for leak in leaks_in_folder(folder)] == []


@pytest.fixture
def sandbox_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox whose keys lie in a `.env` in the working directory, as a user's would."""
    with Sandbox() as sandbox:
        lines = [f"{name}={value}" for name, value in sandbox.environment().items()]
        (tmp_path / ".env").write_text("\n".join(lines))
        monkeypatch.chdir(tmp_path)
        yield sandbox
