"""The sources of the configuration: the environment, `.env` and the settings files."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from .base_url_policy import Trusted, own_settings_folder, read_trusted
from .env_file import (
    EnvFile,
    Variables,
    is_trusted,
    nearest,
    process_variables,
    read_env_file,
    warn_once,
)
from .file_contents import is_text, read_text
from .privacy import Private, combined, read_private
from .settings_table import PRIVATE, TRUST_BASE_URLS, TRUST_KEY_VARIABLES, check_settings

SETTINGS_FILE = "arche_magic.toml"


@dataclass(frozen=True)
class Sources:
    """Variables and settings, and the files they come from.

    Attributes:
        environment: variables of the environment; they take precedence over those of `.env`.
        dotenv: what `.env` says.
        env_file: the `.env` that was read, if any.
        settings: the contents of the settings file.
        settings_file: the settings file that was read, if any.
        trusted: the base URLs that the user trusts.
        trusted_variables: variables that a project's files may use as keys.
        project_file: the settings file, if it is not the user's own.
        private: what the user and the project say about private prompts.
    """

    environment: Mapping[str, str] = field(repr=False)
    dotenv: EnvFile = field(default_factory=EnvFile, repr=False)
    env_file: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    settings_file: Path | None = None
    trusted: Trusted = False
    trusted_variables: frozenset[str] = frozenset()
    project_file: Path | None = None
    private: Private = field(default_factory=Private)

    @property
    def in_file(self) -> Variables:
        """The variables of `.env`."""
        return self.dotenv.variables

    @property
    def variables(self) -> Variables:
        """The variables of the environment and of `.env`."""
        return Variables({**self.in_file, **self.environment})

    def where_set(self, name: str) -> str:
        """`NAME in /…/.env` for a variable that only that file sets, else ""."""
        from_file = name in self.in_file and name not in self.environment
        return f"{name} in {self.env_file}" if from_file else ""

    def borrowed(self, name: str) -> frozenset[str]:
        """Return the variables of the environment to which a variable of `.env` refers."""
        return self.dotenv.borrowed.get(name, frozenset()) if self.where_set(name) else frozenset()

    def check_references(self, names: Iterable[str]) -> None:
        """Check variables that decide where prompts, keys and files go.

        Somebody else may have written `.env`: `http://127.0.0.1/${SECRET}` in it would send any
        variable of the environment. And if a reference is to a variable that is not set, ignoring
        the line would send prompts to another address.

        Raises:
            ConfigurationError: one of them in `.env` refers to the environment, or to a variable
                that is not set.
        """
        for name in names:
            if name in self.dotenv.unusable and name not in self.environment:
                raise ConfigurationError(
                    f"line {self.dotenv.unusable[name]} of {self.env_file}: {name} refers to a "
                    "variable that is not set"
                )
            if borrowed := self.borrowed(name):
                raise ConfigurationError(
                    f"{self.where_set(name)} refers to {', '.join(sorted(borrowed))} in the "
                    f"environment; only keys may do that. Set {name} itself in the environment"
                )


def find_sources(directory: Path | None) -> Sources:
    """Read the environment and the nearest files from a directory upward.

    The user's own settings file is in their configuration folder. It alone decides which base URLs
    are trusted and which routes are private; its other settings count if the project has no
    settings file.

    Raises:
        ConfigurationError: a settings file cannot be read or has a wrong setting.
    """
    environment = process_variables()
    env_file = nearest(".env", directory) if directory else None
    dotenv = read_env_file(env_file, environment) if env_file else EnvFile()
    own_file = own_settings_folder() / SETTINGS_FILE
    own = _own_settings(own_file)
    trusted = read_trusted(own.pop(TRUST_BASE_URLS, False))
    trusted_variables = frozenset(own.pop(TRUST_KEY_VARIABLES, []))
    try:
        private = read_private(own.pop(PRIVATE, {}))
    except ValueError as error:
        raise ConfigurationError(f"{own_file}: {error}") from None
    file = nearest(SETTINGS_FILE, directory) if directory else None
    sources = Sources(
        environment, dotenv, env_file, own, own_file if own else None, trusted, trusted_variables,
        private=private,
    )  # fmt: skip
    if file is None or file == own_file.resolve():
        return sources
    settings = _read_settings(file)
    for name in (TRUST_BASE_URLS, TRUST_KEY_VARIABLES):
        if name in settings:
            raise ConfigurationError(f"{file}: {name} counts only in your own settings, {own_file}")
    try:
        private = combined(private, settings.pop(PRIVATE, {}), file, own_file)
    except ValueError as error:
        raise ConfigurationError(f"{file}: {error}") from None
    return replace(
        sources, settings=settings, settings_file=file, project_file=file, private=private
    )


def _own_settings(path: Path) -> dict[str, Any]:
    """Return the user's own settings; {} if there are none or the folder cannot be read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        warn_once(f"your own settings {path} cannot be read and are ignored ({error.strerror})")
        return {}
    return _read_settings(path) if path.is_file() and is_trusted(path, path.parent) else {}


def _read_settings(path: Path) -> dict[str, Any]:
    # Raised here, so that the error's frames hold no key that somebody wrote into the file.
    settings, problem = _parse(path)
    if problem:
        raise ConfigurationError(f"{path}{problem}")
    return settings


def _parse(path: Path) -> tuple[dict[str, Any], str]:
    """Return the settings and "", or {} and what is wrong with them."""
    try:
        text = read_text(path)
        if not is_text(text):
            raise ValueError("it is not UTF-8")
        settings = tomllib.loads(text)
    except (OSError, ValueError) as error:
        return {}, f" cannot be read: {getattr(error, 'strerror', None) or error}"
    try:
        check_settings(settings)
    except ValueError as error:
        from ..redaction import without_key_like

        return {}, f": {without_key_like(str(error))}"
    return settings, ""
