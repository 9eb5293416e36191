"""Shared by the tests of the public interface: names, clocks, and scripts in other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clocks import NOON as NOON
from clocks import Clock as Clock
from clocks import FastClock as FastClock

from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Start = Callable[..., Sandbox]
BASE_URLS = {
    "groq": "GROQ_BASE_URL",
    "mistral": "MISTRAL_BASE_URL",
    "google": "GOOGLE_GEMINI_BASE_URL",
    "openai": "OPENAI_BASE_URL",
}
PROVIDERS = tuple(BASE_URLS)
MODELS = {
    "groq": "openai/gpt-oss-120b",
    "mistral": "mistral-small-latest",
    "google": "gemini-3.5-flash-lite",
    "openai": "gpt-4.1-mini",
}
ONE_KEY_EACH = dict.fromkeys(PROVIDERS, 1)


def asked(sandbox: Sandbox) -> list[str]:
    """The provider that each request reached, in order."""
    return [request.provider for request in sandbox.requests]


def server_count(sandbox: Sandbox, name: str) -> int:
    """The sum of one figure over all keys and models of `sandbox.usage()`."""
    return sum(count[name] for models in sandbox.usage().values() for count in models.values())


def start_script(
    code: str,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """Start a user's script in a new process that works in `folder`.

    `command` is placed before the interpreter.
    """
    return subprocess.Popen(
        [*command, sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def run_script(
    code: str,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
) -> tuple[str, str]:
    """The stdout and stderr of a user's script, which must succeed."""
    process = start_script(code, folder, variables, command)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


def used(summary: Mapping[str, Any], key: str, limit: str = "requests_per_day") -> float:
    return float(summary[key][limit]["used"])
