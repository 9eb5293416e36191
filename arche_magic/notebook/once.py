"""Notes that a session shows only once."""

from __future__ import annotations

_shown: set[str] = set()


def once(note: str) -> str:
    """The note, the first time; later ""."""
    if note in _shown:
        return ""
    _shown.add(note)
    return note


def start_again() -> None:
    """Show every note once more."""
    _shown.clear()
