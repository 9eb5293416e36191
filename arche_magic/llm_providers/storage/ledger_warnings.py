"""Warnings about the ledger and kept replies, each once per process."""

from __future__ import annotations

import warnings
from pathlib import Path

from ..files import NotOurs

_refusing: set[Path] = set()
_said: set[str] = set()


class LedgerWarning(UserWarning):
    """The ledger or replies cannot be stored in their place; requests are still sent."""


def warn_of_file(path: Path, error: OSError, message: str) -> None:
    """Warn that a file cannot be used, once per process and cause.

    A full or read-only disk is the same cause for all files of a folder. A link in place of a file
    concerns only that file.
    """
    cause = Path(error.filename) if isinstance(error, NotOurs) else path.parent
    if cause not in _refusing:
        _refusing.add(cause)
        warn(message)


def warn(message: str) -> None:
    """Warn about the ledger."""
    warnings.warn(message, LedgerWarning, stacklevel=2)


def warn_once(message: str) -> None:
    """Warn about the ledger, once per process and message."""
    if message not in _said:
        _said.add(message)
        warn(message)
