"""Where configuration comes from: the environment, `.env`, and the settings files."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .env_file import Variables, is_trusted, nearest, read_env_file
from .errors import ConfigurationError
from .privacy import SETTING as PRIVATE
from .privacy import Private, both, read_private
from .trust import SETTING as TRUST
from .trust import Trusted, own_settings_folder, read_trusted

SETTINGS_FILE = "arche_magic.toml"
SETTINGS = (
    "default_provider", "order", "patience", "timeouts", "providers", "limits", "accounts",
    "replay", "budget", PRIVATE, TRUST,
)  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """What configures us, and which file says so; the environment comes before `.env`.

    `project_file` is the settings file if it is not the user's own.
    """

    environment: Mapping[str, str] = field(repr=False)
    in_file: Mapping[str, str] = field(default_factory=dict, repr=False)
    env_file: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    settings_file: Path | None = None
    trusted: Trusted = False
    project_file: Path | None = None
    private: Private = field(default_factory=Private)

    @property
    def variables(self) -> Variables:
        """Both together."""
        return Variables({**self.in_file, **self.environment})

    def said_in(self, name: str) -> str:
        """`NAME in /…/.env` for a variable that only the file has, else ""."""
        from_file = name in self.in_file and name not in self.environment
        return f"{name} in {self.env_file}" if from_file else ""


def find_sources(directory: Path) -> Sources:
    """The process's environment and the nearest files.

    The user's own settings file lies in their configuration folder. It alone says which base URLs
    are trusted and which routes are private, and the rest of it counts where a project has no
    settings file.
    """
    environment, env_file = Variables(os.environ), nearest(".env", directory)
    in_file = read_env_file(env_file) if env_file else {}
    own_file = own_settings_folder() / SETTINGS_FILE
    own: dict[str, Any] = {}
    if own_file.is_file() and is_trusted(own_file, own_file.parent):
        own = _read_settings(own_file)
    try:
        trusted = read_trusted(own.pop(TRUST, False))
        private = read_private(own.pop(PRIVATE, {}))
    except ValueError as error:
        raise ConfigurationError(f"{own_file}: {error}") from None
    file = nearest(SETTINGS_FILE, directory)
    if file is None or file == own_file.resolve():
        where = own_file if own else None
        return Sources(environment, in_file, env_file, own, where, trusted, private=private)
    settings = _read_settings(file)
    if TRUST in settings:
        raise ConfigurationError(f"{file}: {TRUST} counts only in your own settings, {own_file}")
    try:
        private = both(private, settings.pop(PRIVATE, {}), file, own_file)
    except ValueError as error:
        raise ConfigurationError(f"{file}: {error}") from None
    return Sources(environment, in_file, env_file, settings, file, trusted, file, private)


def _read_settings(path: Path) -> dict[str, Any]:
    # Keys that somebody wrote in here by mistake are not in the frames of the error.
    settings, problem = _parse(path)
    if problem:
        raise ConfigurationError(f"{path}{problem}")
    return settings


def _parse(path: Path) -> tuple[dict[str, Any], str]:
    """The settings, or none and what is wrong with them."""
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        return {}, f" cannot be read: {error}"
    for name in settings:
        if name not in SETTINGS:
            hint = did_you_mean(name, SETTINGS)
            if "API_KEY" in name:
                hint = "; keys go into the environment or into .env"
            return {}, f": unknown setting {name!r}{hint}"
    return settings, ""


def table(settings: Mapping[str, Any], name: str, of: str = "") -> dict[str, Any]:
    """A table of the settings, empty if it is not there.

    Raises:
        ValueError: there is something else in its place.
    """
    found = settings.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{of}{name} is {found!r}; it must be a table")
    return found


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'groq'?` for a near miss, else nothing."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
