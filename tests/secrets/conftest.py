"""A sandbox with the planted keys, and a folder whose `.env` contains them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from leaks import keys_of
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

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            planted.reset()
            planted.fail(asked["provider"][0], asked["kind"][0], times=None)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()
