"""`python -m arche_magic`, for use outside notebooks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

import arche_magic
from arche_magic.__main__ import main
from arche_magic.llm_providers import LLMProviderError, get_llm_provider
from arche_magic.sandbox import Sandbox


def test_quota_prints_a_line_per_limit(
    sandbox_env: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table shows what this folder's kernels have used."""
    get_llm_provider("groq").generate("Say hello.")
    assert main(["quota", "groq"]) == 0
    table = capsys.readouterr().out
    assert "groq · key 1 · gpt-oss-120b" in table
    assert "requests/day" in table
    assert "mistral" not in table
    assert "paid" not in table
    assert main(["quota", "openai"]) == 0
    assert "\n  paid\n" in capsys.readouterr().out


def test_quota_as_json_is_the_usage_summary(sandbox_env: Sandbox) -> None:
    """The figures are on standard output, with times as ISO strings."""
    get_llm_provider("groq").generate("Say hello.")
    done = subprocess.run(
        [sys.executable, "-m", "arche_magic", "quota", "--json"],
        capture_output=True, text=True, check=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    summary = json.loads(done.stdout)
    assert set(summary) == {"groq", "mistral", "google", "openai"}
    assert summary["groq"]["groq_key_1"]["requests_per_day"]["used"] == pytest.approx(1, abs=0.1)
    assert summary["groq"]["groq_key_1"]["requests_per_day"]["reset_time"].endswith("+00:00")


def test_reset_reopens_a_rejected_key(
    sandbox_env: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """After `quota reset`, a working key is used again."""
    sandbox_env.fail("openai", "unauthorized", times=1)
    provider = get_llm_provider("openai")
    with pytest.raises(Exception, match="key refused"):
        provider.generate("Say hello.")
    with pytest.raises(Exception, match="key refused"):
        provider.generate("Say hello.")
    assert main(["quota", "reset", "openai_key_1"]) == 0
    assert provider.generate("Say hello.").provider == "openai"
    capsys.readouterr()
    assert main(["quota", "reset", "openai_key_9"]) == 1
    assert "openai_key_1" in capsys.readouterr().err


def environment() -> dict[str, str]:
    """The environment without the terminal width that pytest sets."""
    return {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}


def command(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell does, with redirected output."""
    return subprocess.run(
        [sys.executable, "-m", "arche_magic", *words],
        cwd=cwd, env={**environment(), **variables}, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL, check=False, encoding=variables.get("PYTHONIOENCODING", "utf-8"),
    )  # fmt: skip


def test_the_table_is_followed_by_the_forecast(sandbox_env: Sandbox, tmp_path: Path) -> None:
    """The same lines are shown in a notebook."""
    get_llm_provider("mistral").generate("Say hello.")
    last = command("quota", cwd=tmp_path).stdout.splitlines()[-1]
    assert last.startswith("Room on the free routes for prompts like the last one (")


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--version"], 0, f"arche_magic {arche_magic.__version__}"),
        (["--help"], 0, "python -m arche_magic quota reset KEY"),
        (["quota", "--help"], 0, "usage: python -m arche_magic quota [PROVIDER] [--json]"),
        (["quota", "openai"], 0, "openai · key 1 · gpt-4.1-mini"),
        ([], 2, "COMMAND"),
        (["qouta"], 2, "quota"),
        (["quota", "--jsn"], 2, "--jsn"),
        (["quota", "groq", "mistral"], 2, "one PROVIDER at most, not 'groq mistral'"),
        (["quota", "reset"], 2, "reset takes one KEY; there are groq_key_1, groq_key_2"),
        (["quota", "reset", "groq_key_1", "groq_key_2"], 2, "reset takes one KEY"),
        (["quota", "reset", "groq_key_1", "--json"], 2, "cannot be combined with --json"),
        (["quota", "reset", "groq_key_9"], 1, "no key is called 'groq_key_9'"),
        (["quota", "grok"], 1, "did you mean 'groq'"),
        (["quota", ""], 1, "unknown provider ''"),
        (["doctor", "--help"], 0, "usage: python -m arche_magic doctor [-h] [--send]"),
        (["doctor"], 0, "nothing wrong"),
        (["doctor", "groq"], 2, "unrecognized arguments: groq"),
    ],
)
def test_the_exit_status_shows_the_result(
    sandbox_env: Sandbox, tmp_path: Path, words: list[str], status: int, says: str
) -> None:
    """0 is success, 1 an error and 2 wrong arguments; both print a line on stderr."""
    done = command(*words, cwd=tmp_path)
    assert done.returncode == status
    assert says in (done.stdout if status == 0 else done.stderr)
    assert (done.stderr if status == 0 else done.stdout) == ""
    assert "Traceback" not in done.stderr


def test_without_keys_it_says_what_to_set(tmp_path: Path) -> None:
    """An empty table would not help."""
    for words in (["quota"], ["quota", "--json"], ["quota", "reset", "groq_key_1"]):
        done = command(*words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert "set GROQ_API_KEY" in done.stderr
        assert done.stderr.count("\n") == 1
    done = command("quota", "groq", cwd=tmp_path)
    assert "no key of groq is configured: set GROQ_API_KEY" in done.stderr


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_narrow_console_gets_complete_lines(
    sandbox_env: Sandbox, tmp_path: Path, columns: int
) -> None:
    """Columns that do not fit are omitted, and headings and sentences wrap."""
    sandbox_env.fail("mistral", "unauthorized")
    with pytest.raises(LLMProviderError):
        get_llm_provider("mistral").generate("Hello")
    get_llm_provider("groq").generate("Hello")
    console = pexpect.spawn(
        sys.executable, ["-m", "arche_magic", "quota"], cwd=str(tmp_path), encoding="utf-8",
        env=environment(), dimensions=(50, columns), timeout=120, use_poll=True,
    )  # fmt: skip
    lines = console.read().splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("  requests/day") for line in lines)
    words = " ".join(line.strip() for line in lines)
    assert "mistral · key 1 · mistral-small-latest · closed: key refused (401)" in words
    assert any(line.endswith(" of 1,000 left") or " of 1,000 left  " in line for line in lines)


def test_a_console_without_unicode_gets_ascii_characters(
    sandbox_env: Sandbox, tmp_path: Path
) -> None:
    """Characters that cannot be encoded do not end the command."""
    get_llm_provider("groq").generate("Hello")
    done = command("quota", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "groq - key 1 - gpt-oss-120b - open" in done.stdout
    assert "##########" in done.stdout
    assert "?" not in done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_not_an_error(sandbox_env: Sandbox, unbuffered: str) -> None:
    """A reader such as `head` leaves, at the first line or before the last, and nothing is said."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "arche_magic", "quota"], stdout=pipe, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered}, check=False, timeout=120,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_interrupt_ends_a_command_in_one_line(tmp_path: Path) -> None:
    """Ctrl+C while a service does not answer shows no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        variables = {"GROQ_API_KEY": "gsk_one", "GROQ_BASE_URL": url}
        with subprocess.Popen(
            [sys.executable, "-m", "arche_magic", "doctor"], cwd=tmp_path,
            env={**environment(), **variables}, stderr=subprocess.PIPE, text=True,
        ) as doctor:  # fmt: skip
            connection, _ = silent.accept()
            with connection:
                doctor.send_signal(signal.SIGINT)
                # The service would have 15 s.
                _, said = doctor.communicate(timeout=10)
    assert (doctor.returncode, said) == (1, "python -m arche_magic: interrupted\n")


def test_a_key_is_not_reset_if_the_ledger_cannot_be_written(
    sandbox_env: Sandbox, tmp_path: Path
) -> None:
    """A warning says why, without a source line, and the command does not claim success."""
    (tmp_path / "file").write_text("")
    store = str(tmp_path / "file" / "ledger.json")
    done = command("quota", "reset", "groq_key_1", cwd=tmp_path, ARCHE_QUOTA_STORE=store)
    assert (done.returncode, done.stdout) == (1, "")
    why, result = done.stderr.splitlines()
    assert why.startswith("Warning: the ledger ")
    assert "groq_key_1 was not reset" in result


def test_an_unknown_provider_is_an_error_in_one_line(
    sandbox_env: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has a hint and no traceback."""
    assert main(["quota", "grok"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("columns", [60, 100])
def test_the_list_of_services_fits_the_console(
    columns: int,
    sandbox_env: Sandbox,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only addresses are longer than a line; for an unused key, its line of settings is shown."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("ZAI_API_KEY", "a-key-that-is-made-up")
    assert main(["services"]) == 0
    shown = capsys.readouterr().out
    words = [word for line in shown.splitlines() if len(line) > columns for word in [line.strip()]]
    assert all(word.startswith("https://") for word in words), words
    assert "add the line [providers.zai]" in " ".join(shown.split())
    assert "a-key-that-is-made-up" not in shown


def test_the_exit_status_of_the_doctor_is_1_if_something_is_wrong(
    sandbox_env: Sandbox, tmp_path: Path
) -> None:
    """Standard output says what is wrong and what to do, without a key."""
    sandbox_env.fail("groq_key_2", "unauthorized")
    done = command("doctor", "--send", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    wrong = next(number for number, line in enumerate(lines) if line.startswith("wrong"))
    assert "groq_key_2" in lines[wrong]
    assert lines[wrong + 1].split() == [">", "replace", "it:", "https://console.groq.com/keys"]
    assert lines[-1] == "1 wrong, 0 to look at"
    assert not any(
        value in done.stdout + done.stderr
        for name, value in sandbox_env.environment().items()
        if name.endswith(("KEY", "1", "2", "3"))
    )


@pytest.mark.parametrize("command", ["enable", "disable", "quota", "doctor", "services", "serve"])
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The list of commands names it, and its own help states the exit status."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert f"\n    {command} " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: python -m arche_magic {command}")
    assert "exit status: 0" in shown
