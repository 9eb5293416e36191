"""Shared by the tests of secrets: a project's folder with keys, a process without any."""

from __future__ import annotations

import os
from pathlib import Path

from leaks import keys_of

from arche_magic.sandbox import Sandbox

BASE_URLS = {
    "groq": "GROQ_BASE_URL",
    "mistral": "MISTRAL_BASE_URL",
    "google": "GOOGLE_GEMINI_BASE_URL",
    "openai": "OPENAI_BASE_URL",
}
PROVIDERS = tuple(BASE_URLS)


def all_at(url: str) -> dict[str, str]:
    """Variables with the first planted key of each provider, and this address for all of them."""
    keys = {f"{name.upper()}_API_KEY": keys_of(name)[0] for name in PROVIDERS}
    return keys | dict.fromkeys(BASE_URLS.values(), url)


def write_env_file(folder: Path, sandbox: Sandbox) -> Path:
    """Write a `.env` with the variables of a sandbox, readable only by its owner."""
    path = folder / ".env"
    lines = [f"{name}={value}\n" for name, value in sandbox.environment().items()]
    path.write_text("".join(lines), encoding="utf-8")
    path.chmod(0o600)
    return path


def loud_environment(**more: str) -> dict[str, str]:
    """This process's variables and these; SDKs are told to log everything."""
    loud = {"OPENAI_LOG": "debug", "GROQ_LOG": "debug", "MISTRAL_DEBUG": "true"}
    return {**os.environ, **loud, **more}
