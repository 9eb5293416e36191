"""The simulated providers in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextmanager
def sandbox_process(*arguments: str) -> Iterator[dict[str, str]]:
    """Start a sandbox with these arguments, until the end of the block; yields its variables."""
    process = subprocess.Popen(
        [sys.executable, "-m", "arche_magic.sandbox", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    variables = {}
    for line in process.stdout:
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            variables[name] = value
            if name == "OPENAI_BASE_URL":  # the last one
                break
    try:
        yield variables
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
