"""`%llm_serve` in a kernel: other programs use its keys until it stops."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import openai
import pytest
from notebook_kernel import Kernel

from arche_magic.sandbox import Sandbox


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def client(kernel: Kernel) -> openai.OpenAI:
    base_url, token = kernel.value("(server.base_url, server.api_key)")
    return openai.OpenAI(base_url=base_url, api_key=token, max_retries=0)


def ask(llm: openai.OpenAI, text: str) -> str:
    reply = llm.chat.completions.create(model="auto", messages=[{"role": "user", "content": text}])
    return reply.choices[0].message.content or ""


def test_a_program_uses_the_keys_of_the_kernel(tmp_path: Path) -> None:
    """From start to stop, with its own line in the statistics; a restart frees the port."""
    kernel = Kernel(tmp_path)
    try:
        with Sandbox(keys={"groq": 1}) as sandbox:
            kernel.use(sandbox)
            assert "%llm_serve starts it" in kernel.run("%llm_serve status").printed
            started = kernel.run("server = %llm_serve --port 0")
            llm, token = client(kernel), kernel.value("server.api_key")
            assert f"export OPENAI_BASE_URL={llm.base_url}".rstrip("/") in started.printed
            assert "$(cat " in started.printed
            assert token not in str(started.messages)
            assert token not in str(kernel.run("server").messages)
            assert "You asked: “from outside”" in ask(llm, "from outside")
            # The configuration is the current one.
            kernel.run("%llm_sandbox --keys mistral=1")
            assert "mistral" in ask(llm, "rehearsed")
            kernel.run("%llm_sandbox stop")
            assert len(sandbox.requests) == 1
            kernel.run("%llm -q from the notebook")
            kernel.run("by_client = %llm_stats --by client")
            rows = kernel.value("sorted(zip(by_client['client'], by_client['requests']))")
            assert rows == [("(notebook or script)", 1), ("OpenAI/Python", 1)]
            assert "Already serving" in kernel.run("server = %llm_serve").printed
            assert "Serving" in kernel.run("%llm_serve status").printed
            refused = kernel.run("%llm_serve --allow-origin https://app.example.org")
            assert "the server is already running at http://127.0.0.1:" in refused.message
            port = kernel.value("server.port")
            assert "has stopped" in kernel.run("%llm_serve stop").printed
            assert not is_open(port)
            assert kernel.run("%llm_serve stop").printed == "The server is not running.\n"
            kernel.run(f"server = %llm_serve --port {port}")
            assert is_open(port)
            path = Path(kernel.value("str(server.token_file)"))
            assert path.exists()
            kernel.manager.restart_kernel()
            kernel.client.wait_for_ready(timeout=120)
            assert not is_open(port)
            assert not path.exists()
            kernel.run("%load_ext arche_magic")
            kernel.run(f"server = %llm_serve --port {port} start")
            assert is_open(port)
            unloaded = kernel.run("%unload_ext arche_magic").printed
            assert re.fullmatch(r"The server at http://\S+ has stopped\.\n", unloaded)
            assert not is_open(port)
    finally:
        kernel.stop()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("restart", "'restart' is not start, stop or status"),
        ("--port 99999", "port 99999 is not between"),
        ("--port many", "'many' is not a whole number"),
        ("--allow-origin *", "'*' is not the origin of a web page"),
        ("--port 1 stop", "stop takes no options"),
        ("--por 1", "did you mean '--port'?"),
    ],
)
def test_an_invalid_option_is_an_error_in_one_line(kernel: Kernel, line: str, said: str) -> None:
    """And nothing is started."""
    cell = kernel.run(f"%llm_serve {line}")
    assert cell.status == "error"
    assert said in cell.message
    assert kernel.run("%llm_serve stop").printed == "The server is not running.\n"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("arche_magic.toml", "patience = 'long'\n", "patience"),
        ("arche_magic.toml", "[providers\n", "cannot be read"),
        (".env", "GROQ_API_KEY=made-up\nGROQ_BASE_URL=nowhere\n", "GROQ_BASE_URL"),
        (".env", "GROQ_API_KEY\n", "line 1: not NAME=value in UTF-8, and no key is configured"),
        (".env", "a\0b", "it has zero bytes and no byte order mark; save it as UTF-8"),
    ],
)
def test_it_does_not_start_with_broken_settings(
    kernel: Kernel, file: str, content: str, said: str
) -> None:
    """One line says what is wrong; once that is fixed, the server starts."""
    path = kernel.folder / file
    path.write_text(content)
    path.chmod(0o600)
    try:
        failed = kernel.run("%llm_serve --port 0")
    finally:
        path.unlink()
    assert failed.error_name == "ConfigurationError"
    assert "%llm_serve: the server was not started: " in failed.message
    assert str(path) in failed.message
    assert said in failed.message
    assert kernel.run("%llm_serve stop").printed == "The server is not running.\n"
    assert "Serving" in kernel.run("%llm_serve --port 0").printed


def test_help_shows_the_options(kernel: Kernel) -> None:
    """`%llm_serve?` has usage, examples and options."""
    shown = kernel.page("%llm_serve?")
    for part in (
        "%llm_serve [OPTIONS] [start]",
        "server = %llm_serve",
        "--port N",
        "--allow-origin",
    ):
        assert part in shown
