"""Shared by the tests of secrets: a project's folder with keys, a process without any."""

from __future__ import annotations

import os
from pathlib import Path

from arche_magic.sandbox import Sandbox

PROVIDERS = ("groq", "mistral", "google", "openai")


def write_env_file(folder: Path, sandbox: Sandbox) -> Path:
    """Write a `.env` with the variables of a sandbox, readable only by its owner."""
    path = folder / ".env"
    lines = [f"{name}={value}\n" for name, value in sandbox.environment().items()]
    path.write_text("".join(lines), encoding="utf-8")
    path.chmod(0o600)
    return path


def environment_without_keys(**more: str) -> dict[str, str]:
    """This process's variables without our configuration; SDKs are told to log everything."""
    ours = ("GROQ_", "MISTRAL_", "GOOGLE_", "GEMINI_", "OPENAI_", "ARCHE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    loud = {"OPENAI_LOG": "debug", "GROQ_LOG": "debug", "MISTRAL_DEBUG": "true"}
    return {**kept, **loud, **more}
