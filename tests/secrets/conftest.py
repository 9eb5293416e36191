"""A sandbox with the planted keys, and a folder whose `.env` contains them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from leaks import keys_of
from loopback import Handler, serving
from secret_parts import PROVIDERS, write_env_file

from arche_magic.sandbox import Sandbox


@pytest.fixture
def planted() -> Iterator[Sandbox]:
    """A sandbox whose keys are the planted ones."""
    with Sandbox(keys={name: keys_of(name) for name in PROVIDERS}) as sandbox:
        yield sandbox


@pytest.fixture
def project(planted: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the keys in its `.env`, and in it the working directory."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own-settings"))
    folder = tmp_path / "project"
    folder.mkdir()
    write_env_file(folder, planted)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def control(planted: Sandbox) -> Iterator[str]:
    """An address that lets another process make the sandbox fail: `?provider=…&kind=…`."""

    class Control(Handler):
        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            planted.reset()
            planted.fail(asked["provider"][0], asked["kind"][0], times=None)
            self.answer(200, b"")

    with serving(Control) as url:
        yield f"{url}/"
