"""Warnings about the ledger and kept replies, each once per process or failure."""

from __future__ import annotations

import warnings
from pathlib import Path

from ..files import NotOurs

_refusing: set[Path] = set()
_said: set[str] = set()


class LedgerWarning(UserWarning):
    """The ledger or replies cannot be stored in their place; requests are still sent."""


def warn_of_file(path: Path, error: OSError, message: str) -> None:
    """Warn that a file cannot be used, once per process and cause until it `works_again`.

    A full or read-only disk is the same cause for all files of a folder. A link in place of a file
    concerns only that file.
    """
    cause = Path(error.filename) if isinstance(error, NotOurs) else path.parent
    if cause not in _refusing:
        _refusing.add(cause)
        warn(message)


def works_again(path: Path) -> None:
    """Let the next failure of a file be a new cause, because the file was just written."""
    for cause in list(_refusing):
        if path.parent in (cause, cause.parent):
            _refusing.discard(cause)


def warn(message: str) -> None:
    """Warn about the ledger."""
    # Without a place in our code, whose line would be printed below the message.
    warnings.warn_explicit(message, LedgerWarning, "arche_magic", 0)


def warn_once(message: str) -> None:
    """Warn about the ledger, once per process and message."""
    if message not in _said:
        _said.add(message)
        warn(message)
