"""The password in a Redis URL is used to log in, and never shown."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from leaks import PLANTED, leaks_in, leaks_in_folder
from redis_server import RedisServer
from secret_parts import loud_environment

from arche_magic.sandbox import Sandbox

PASSWORD = PLANTED["redis_password"]
# A user's program, and then everything that can be seen of it.
PROGRAM = f"""
import logging, os, signal, sys, threading, warnings
sys.path.insert(0, {str(Path(__file__).parent)!r})
logging.basicConfig(level=logging.DEBUG, filename="debug.log")
from everything_shown import copies_of, show_error, show_parts
from arche_magic.llm_providers import get_llm_provider, get_quota_tracker, LLMProviderError
from arche_magic.llm_providers import attempt_log, loop, storage
from arche_magic.llm_providers.config import get_configuration
import arche_magic.__main__ as command_line

if sys.argv[1] == "interrupt":
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    configuration = get_configuration()
    print(configuration, vars(configuration), str(configuration.store), f"{{configuration.store}}")
    tracker = get_quota_tracker()
    print(get_llm_provider().generate("Hello", patience=0).provider)
    command_line.main(["quota"])
    for value in (tracker, tracker.storage, configuration, configuration.store):
        show_parts(value)
        for made in copies_of(value):
            show_parts(made)
except (LLMProviderError, KeyboardInterrupt) as error:
    print(type(error).__name__)
    show_error(error)
for module in (attempt_log, loop, storage):
    show_parts(vars(module))
print("shown everything")
"""


def shown_with(url: str, folder: Path, sandbox: Sandbox, what: str = "") -> str:
    """The output of the program with this ledger; nothing may contain the password."""
    environment = loud_environment(**sandbox.environment(), ARCHE_QUOTA_STORE=url)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, what], capture_output=True, cwd=folder, env=environment,
        timeout=120, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    shown = done.stdout + done.stderr
    assert done.stdout.rstrip().endswith(b"shown everything"), shown[-3000:].decode()
    assert not leaks_in(shown)
    assert leaks_in_folder(folder) == []
    return shown.decode()


@pytest.fixture
def locked_redis(tmp_path: Path) -> Iterator[int]:
    """The port of a Redis server with the planted password."""
    with RedisServer(tmp_path, password=PASSWORD) as server:
        yield server.port


def test_a_ledger_with_a_password_does_not_show_it(
    locked_redis: int, tmp_path: Path, planted: Sandbox
) -> None:
    """It works, and no object, cache, copy or log contains the password."""
    url = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{locked_redis}/0"
    shown = shown_with(url, tmp_path, planted)
    assert f"redis://127.0.0.1:{locked_redis}/0" in shown
    assert "does not answer" not in shown
    in_query = f"redis://127.0.0.1:{locked_redis}/0?password={quote(PASSWORD, safe='')}"
    assert "does not answer" not in shown_with(in_query, tmp_path, planted)


def test_a_wrong_password_is_not_shown(locked_redis: int, tmp_path: Path, planted: Sandbox) -> None:
    """No request is sent, and the error has the reason without the URL."""
    wrong = quote(PASSWORD[::-1] + PASSWORD[:12], safe="")
    shown = shown_with(f"redis://somebody:{wrong}@127.0.0.1:{locked_redis}/0", tmp_path, planted)
    assert "Redis refuses changes: it does not accept the user name or the password" in shown


@pytest.mark.parametrize(
    "form", ["redis://:{}@127.0.0.1:1/0", "redis://a:{}@[::1", "redis:/:{}@localhost:1/0"]
)
def test_an_invalid_url_is_not_shown(form: str, tmp_path: Path, planted: Sandbox) -> None:
    """Unescaped characters in a password break the URL. The error does not quote it."""
    shown_with(form.format(PASSWORD), tmp_path, planted)


def test_an_interrupt_while_redis_hangs_shows_no_password(tmp_path: Path, planted: Sandbox) -> None:
    """The traceback omits the frames of the client, which contain the password."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = hanging.getsockname()[1]
        url = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/0"
        shown = shown_with(url, tmp_path, planted, "interrupt")
    assert "\nKeyboardInterrupt\n" in shown
