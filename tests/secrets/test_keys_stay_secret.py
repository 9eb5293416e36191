"""No key, and no eight characters of one, in anything that is shown, logged or written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from leaks import PLANTED, leaks_in, leaks_in_folder
from secret_parts import PROVIDERS, environment_without_keys

from arche_magic.sandbox import FAILURE_KINDS

SCRIPT = Path(__file__).with_name("everything_shown.py")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_failure_shows_a_key(project: Path, control: str, provider: str) -> None:
    """Whatever fails: messages, tracebacks with their variables, logs, files, objects and parts."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), control, json.dumps(list(FAILURE_KINDS)), provider],
        capture_output=True, cwd=project, env=environment_without_keys(), timeout=300,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    (project / "shown.txt").write_bytes(done.stdout + done.stderr)
    assert done.stdout.rstrip().endswith(b"shown everything"), done.stderr.decode()[-3000:]
    assert done.stdout.count(b"\ninterrupted") == 2
    assert f"{provider} · key 1 · " in done.stdout.decode()
    assert (project / "debug.log").stat().st_size > 10_000
    assert (project / "outputs" / "llm_calls.jsonl").exists()
    assert leaks_in_folder(project) == []


def test_the_search_finds_what_it_looks_for(project: Path) -> None:
    """A search that finds nothing proves nothing unless it finds what is there."""
    (found,) = {line.partition(": ")[0] for line in leaks_in_folder(project, but=())}
    assert found == str(project / ".env")
    for name, text in PLANTED.items():
        assert leaks_in(f"x{text[-9:]}x"), name
        assert not leaks_in(f"x{text[-7:]}x"), name
