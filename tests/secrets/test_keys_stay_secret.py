"""No key, and no eight characters of one, are shown, logged or written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from leaks import PLANTED, leaks_in, leaks_in_folder
from secret_parts import PROVIDERS, loud_environment

from arche_magic.sandbox import FAILURE_KINDS

SCRIPT = Path(__file__).with_name("everything_shown.py")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_failure_shows_a_key(project: Path, provider: str) -> None:
    """The search covers messages, tracebacks with variables, logs, files, and parts of objects."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(list(FAILURE_KINDS)), provider],
        capture_output=True, cwd=project, env=loud_environment(), timeout=300,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    (project / "shown.txt").write_bytes(done.stdout + done.stderr)
    assert done.stdout.rstrip().endswith(b"shown everything"), done.stderr.decode()[-3000:]
    assert done.stdout.count(b"\ninterrupted") == 2
    assert f"{provider} · key 1 · " in done.stdout.decode()
    assert (project / "debug.log").stat().st_size > 10_000
    assert (project / "outputs" / "llm_calls.jsonl").exists()
    assert leaks_in_folder(project) == []


def test_the_search_finds_planted_keys(project: Path) -> None:
    """A search proves nothing unless it finds planted keys."""
    (found,) = {line.partition(": ")[0] for line in leaks_in_folder(project, but=())}
    assert found == str(project / ".env")
    for name, text in PLANTED.items():
        assert leaks_in(f"x{text[-9:]}x"), name
        assert not leaks_in(f"x{text[-7:]}x"), name


LEAVING = """
import logging
from leaks import PLANTED, SANDBOX

def test_file(tmp_path):
    (tmp_path / "left.txt").write_text(PLANTED["groq_key_1"][-9:])

def test_sandbox(tmp_path):
    (tmp_path / "log.jsonl").write_text(SANDBOX["google_key_2"][:17])

def test_print():
    print(PLANTED["mistral_key_1"])

def test_log():
    logging.error(PLANTED["openai_key_1"])

def test_nothing(tmp_path):
    (tmp_path / "left.txt").write_text(SANDBOX["google_key_2"][:15])
"""


def test_a_run_that_leaves_a_key_behind_fails(tmp_path: Path) -> None:
    """A key in a file, output or log of any test makes the run fail."""
    (tmp_path / "test_leaving.py").write_text(LEAVING)
    tests, left = Path(__file__).parents[1], tmp_path / "run"
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-rA", "--show-capture=no", f"--basetemp={left}", "test_leaving.py"],
        cwd=tmp_path, env=loud_environment(PYTHONPATH=f"{tests}:{tests.parent}"),
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    shutil.rmtree(left)
    assert done.returncode == 1, done.stderr
    errors = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("ERROR ")]
    ended = [name.partition("::")[2] for name in errors]
    assert ended == ["test_print", "test_log", "test_nothing"]  # The last one ends the run.
    for found in ("left.txt: groq_key_1", "log.jsonl: sandbox google_key_2"):
        assert found in done.stdout
    assert "test_nothing0" not in done.stdout
