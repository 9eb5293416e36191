"""The `.env` of a project."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from arche_magic.sandbox import Sandbox


def write_env_file(folder: Path, sandbox: Sandbox) -> Path:
    """A `.env` with everything that the sandbox provides, readable only by its owner."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".env"
    lines = [f"{name}={value}\n" for name, value in sandbox.environment().items()]
    path.write_text("".join(lines), encoding="utf-8")
    path.chmod(0o600)
    return path
