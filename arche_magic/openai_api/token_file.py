"""The file with the server's token, which only its user can read."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from arche_magic.llm_providers.config import own_settings_folder
from arche_magic.llm_providers.errors import ConfigurationError

_TOKEN_BYTES = 32
# A shorter text could be guessed.
_FEWEST_CHARACTERS = 20
_LONGEST_FILE = 1000


def new_token(port: int) -> tuple[str, Path]:
    """Return a new token and the file that it is written to, which is named after the port.

    The file is in the folder of the user's own settings. In a project's folder it could be shared
    or committed with the project.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    path = own_settings_folder() / f"server-{port}.token"
    with suppress(OSError):
        path.unlink()
    return _create(path), path


def kept_token(path: Path) -> str:
    """Return the token in a file that the user names; a missing file is created with a new token.

    Raises:
        ConfigurationError: other users can read the file, it has no token, or it cannot be read or
            written.
    """
    if not os.path.lexists(path):
        return _create(path)
    try:
        # Without O_NONBLOCK, opening a named pipe waits for its other end.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_LONGEST_FILE) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise ConfigurationError(f"the token file {path}: {error.strerror}") from None
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(f"other users can open the token file {path}: chmod 600 {path}")
    token = content.decode("ascii", "replace").strip()
    if len(token) < _FEWEST_CHARACTERS or any(not "!" <= sign <= "~" for sign in token):
        raise ConfigurationError(
            f"the token file {path} must hold one word of {_FEWEST_CHARACTERS} characters or more; "
            "delete it to get a new token"
        )
    return token


def forget_token(path: Path, token: str) -> None:
    """Delete the file, unless another server has written its own token there meanwhile."""
    with suppress(OSError):
        if path.read_text("ascii", "replace").strip() == token:
            path.unlink()


def _create(path: Path) -> str:
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Fails if anything is there, so that it follows no link of somebody else.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{token}\n")
    except OSError as error:
        raise ConfigurationError(
            f"the server's token cannot be written to {path}: {error.strerror}"
        ) from None
    return token
