"""Folders that a process may not have: a home, and a working directory."""

from __future__ import annotations

from pathlib import Path


def home_folder() -> Path:
    """The user's home folder, or a path that does not exist if there is none.

    A container may run a user whom passwd does not list, without HOME.
    """
    try:
        return Path.home()
    except RuntimeError:
        return Path("/nonexistent")


def working_directory() -> Path | None:
    """The working directory; None if it was removed or may not be read."""
    try:
        return Path.cwd()
    except OSError:
        return None
