"""The home folder and the working directory, which a process may lack, and paths in them."""

from __future__ import annotations

from pathlib import Path

from .errors import InvalidRequest
from .tracebacks import without_locals


@without_locals
def home_folder() -> Path:
    """The user's home folder, or a path that does not exist if there is none.

    A container may run as a user who is not in passwd and has no HOME.
    """
    nowhere = Path("/nonexistent")
    try:
        home = Path.home()
    except RuntimeError:
        return nowhere
    # An empty HOME would mean the working directory.
    return home if home.is_absolute() else nowhere


def working_directory() -> Path | None:
    """The working directory; None if it was removed or may not be read."""
    try:
        return Path.cwd()
    except OSError:
        return None


def absolute(path: Path) -> Path:
    """The absolute path; unchanged if there is no working directory."""
    return (working_directory() or Path()) / path


def expanded(path: str | Path) -> Path:
    """A path that a user typed, with `~` for a home folder.

    Raises:
        InvalidRequest: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InvalidRequest(
            f"{path}: there is no home folder for ~; write the path without it"
        ) from None
