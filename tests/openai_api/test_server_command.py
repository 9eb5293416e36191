"""`python -m arche_magic serve`: the server in a terminal or a script."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pexpect
import pytest

from arche_magic.sandbox import Sandbox

COMMAND = [sys.executable, "-m", "arche_magic", "serve"]
Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def serve(sandbox_env: Sandbox) -> Iterator[Run]:
    """Start the command in a folder whose `.env` has the sandbox's keys."""
    running: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen([*COMMAND, *words], stdout=pipe, stderr=pipe, text=True)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def variables(process: subprocess.Popen[str]) -> dict[str, str]:
    """The variables of a shell that runs the printed lines."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    shown = "\n".join([*lines, 'printf "%s %s" "$OPENAI_BASE_URL" "$OPENAI_API_KEY"'])
    done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, check=True)
    base_url, token = done.stdout.split()
    assert token not in shown
    return {"base_url": base_url, "api_key": token}


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for another process on Windows")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted(serve: Run, sent: signal.Signals) -> None:
    """A client needs only the printed lines. Ctrl+C ends the server with 0 and frees the port.

    Nothing is printed about malformed requests, because in a kernel it would appear in a cell.
    """
    process = serve("--port", "0")
    given = variables(process)
    llm = openai.OpenAI(**given)
    asked = llm.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "Say hello."}]
    )
    assert "Say hello." in (asked.choices[0].message.content or "")
    port = int(given["base_url"].removesuffix("/v1").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"not HTTP\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    process.send_signal(sent)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_terminal_shows_the_token(serve: Run, tmp_path: Path) -> None:
    """It can be copied there; `--token-file` keeps it for the next start."""
    path = tmp_path / "token"
    words = [*COMMAND[1:], "--port", "0", "--token-file", str(path)]
    terminal = pexpect.spawn(COMMAND[0], words, encoding="utf-8", timeout=60, use_poll=True)
    terminal.expect(r"OPENAI_API_KEY=(\S+)\r\n")
    token = path.read_text().strip()
    assert terminal.match.group(1) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert variables(serve("--port", "0", "--token-file", str(path)))["api_key"] == token


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--port", "{taken}"], 1, "port {taken} cannot be used"),
        (["--port", "70000"], 1, "port 70000 is not between 1 and 65,535"),
        (["--port", "many"], 2, "invalid int value: 'many'"),
        (["--allow-origin", "*"], 1, "'*' is not the origin of a web page"),
        (["--token-file", "."], 1, "Is a directory"),
        (["--help"], 0, "--allow-origin URL"),
    ],
)
def test_a_failed_start_is_reported_in_one_line(
    serve: Run, words: list[str], status: int, says: str
) -> None:
    """The exit status is 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = serve(*(word.format(taken=port) for word in words))
        out, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert says.format(taken=port) in (out if status == 0 else error)
    if status == 1:
        assert error.count("\n") == 1


def test_missing_packages_are_named(sandbox_env: Sandbox) -> None:
    """The message is one line."""
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from arche_magic.__main__ import main; sys.exit(main(['serve']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == (
        "python -m arche_magic: the server needs starlette and uvicorn: "
        "pip install 'arche_magic[server]'\n"
    )


def test_without_keys_it_warns_and_starts(serve: Run, tmp_path: Path) -> None:
    """A key that is added to `.env` later is used from the next request on."""
    env_file = tmp_path / ".env"
    keys = env_file.read_text()
    env_file.write_text("")
    process = serve("--port", "0")
    llm = openai.OpenAI(**variables(process), max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="No available LLM providers"):
        llm.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}])
    env_file.write_text(keys)
    assert llm.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "Hi"}]
    ).model
    process.terminate()
    assert process.communicate(timeout=20)[1].startswith("Warning: no API key is configured")
