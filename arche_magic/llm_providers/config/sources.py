"""The sources of the configuration: the environment, `.env` and the settings files.

The nearest file from the working directory upward counts, unless another user could have put it
there.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..files import home_folder, working_directory
from .env_file import (
    EnvFile,
    is_text,
    parse_env_file,
    process_variables,
    read_env_file,
    read_text,
    warn_of_configuration,
)
from .settings_table import TRUST_BASE_URLS, TRUST_KEY_VARIABLES, check_settings

SETTINGS_FILE = "arche_magic.toml"


@dataclass(frozen=True)
class Sources:
    """Variables and settings, and the files they come from.

    Attributes:
        environment: variables of the environment; they take precedence over those of `.env`.
        dotenv, env_file: what `.env` says, and the file that was read, if any.
        settings, settings_file: what the settings file that counts here says, and that file.
        own_settings: what the user's own settings file says. Only it decides what a project's
            files may do, and which routes are private.
        of_process: whether they are those of this process; its session and Colab's secrets then
            count as well.
    """

    environment: Mapping[str, str] = field(repr=False)
    dotenv: EnvFile = field(default_factory=EnvFile, repr=False)
    env_file: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    settings_file: Path | None = None
    own_settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    of_process: bool = False

    @cached_property
    def variables(self) -> Mapping[str, str]:
        """The variables of the environment and of `.env`."""
        return {**self.dotenv.variables, **self.environment}

    @property
    def project_file(self) -> Path | None:
        """The settings file, if it is not the user's own."""
        return self.settings_file if self.settings_file != own_settings_file() else None

    def where_set(self, name: str) -> str:
        """`NAME in /…/.env` for a variable that only that file sets, else ""."""
        from_file = name in self.dotenv.variables and name not in self.environment
        return f"{name} in {self.env_file}" if from_file else ""

    def named(self, name: str) -> str:
        """Return a variable's name for messages, with where it is set if that is known."""
        return self.where_set(name) or (f"{name} in the environment" if self.of_process else name)

    def borrowed(self, name: str) -> frozenset[str]:
        """Return the variables of the environment that a variable of `.env` refers to."""
        return self.dotenv.borrowed.get(name, frozenset()) if self.where_set(name) else frozenset()

    def check_references(self, names: Iterable[str]) -> None:
        """Check that variables of `.env` that decide where prompts, keys and files go can be used.

        Somebody else may have written `.env`: `http://127.0.0.1/${SECRET}` in it would send any
        variable of the environment. And if a reference is to a variable that is not set, ignoring
        the line would send prompts to another address.
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

    The user's own settings file also counts as the settings file if the project has none.

    Raises:
        ConfigurationError: a settings file cannot be read or has a wrong setting.
    """
    environment = process_variables()
    env_file = nearest(".env", directory)
    own_file = own_settings_file()
    settings = own = _own_settings(own_file)
    settings_file = own_file if own else None
    file = nearest(SETTINGS_FILE, directory)
    if file and file != own_file.resolve():
        settings, settings_file = _read_settings(file), file
        # Others may have written a project's file, so it can only make prompts more private.
        own_only = [name for name in (TRUST_BASE_URLS, TRUST_KEY_VARIABLES) if name in settings]
        if settings.get("private", {}).get("routes"):
            own_only.append("[private] routes")
        if own_only:
            raise ConfigurationError(
                f"{file}: {own_only[0]} is only allowed in your own settings, {own_file}"
            )
    return Sources(
        environment,
        read_env_file(env_file, environment) if env_file else EnvFile(),
        env_file,
        settings,
        settings_file,
        own,
        of_process=True,
    )


def own_settings_folder() -> Path:
    """Return the folder of the user's own settings, which no project's file can change."""
    variable, below = "XDG_CONFIG_HOME", Path(".config")
    if sys.platform == "win32":
        variable, below = "APPDATA", Path("AppData", "Roaming")
    named = Path(os.environ.get(variable, ""))
    # A relative path would be inside the working directory, where others may write.
    return (named if named.is_absolute() else home_folder() / below) / "arche_magic"


def own_settings_file() -> Path:
    """Return the path of the user's own settings."""
    return own_settings_folder() / SETTINGS_FILE


def nearest(name: str, directory: Path | None) -> Path | None:
    """Return the file of that name in the directory, or in the nearest directory above it.

    Files of other users are skipped with a warning. Otherwise, anybody who can write into a
    directory above (such as /tmp) could configure everybody who works below it.
    """
    for path, problem in candidates(name, directory):
        if not problem:
            return path
        warn_of_configuration(f"{path} {problem}")
    return None


def env_file_problem() -> str:
    """Return the first problem of the `.env` that applies here; "" if it has none."""
    path = nearest(".env", working_directory())
    if path is None:
        return ""
    found = parse_env_file(path)
    lines = (f"line {number}: {why}" for number, why in found.unused.items())
    problem = found.problem or next(lines, "")
    return f"{path}: {problem}" if problem else ""


def candidates(name: str, directory: Path | None) -> Iterator[tuple[Path, str]]:
    """Yield files of that name from the directory upward, each with why it is skipped, or ""."""
    if directory is None:
        return
    directory = directory.resolve()
    for folder in (directory, *directory.parents):
        path = folder / name
        if not _is_readable_kind(path):
            continue
        problem = ""
        if not path.resolve().is_relative_to(folder):
            problem = (
                f"is a link to {path.resolve()}, outside its folder, and was skipped; replace it "
                "with a copy"
            )
        elif not _is_trusted(path, directory):
            problem = (
                "belongs to another user and was skipped; if you trust it, work in its owner's "
                "folder or copy it into your own"
            )
        yield path, problem


def _is_readable_kind(path: Path) -> bool:
    """Return whether a path is a file, or a `.env` that a password manager mounts as a pipe."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or (stat.S_ISFIFO(mode) and path.name == ".env")


def _is_trusted(path: Path, directory: Path) -> bool:
    """Return whether a file belongs to this user, root, or the owner of the working directory."""
    if not hasattr(os, "geteuid"):
        return True
    try:
        owners = {path.lstat().st_uid, path.stat().st_uid}
        # Somebody who works in a folder of another user (in a container, for example) trusts its
        # owner, provided that nobody else can put files there.
        own = directory.stat()
    except OSError:
        return False
    trusted = {0, os.geteuid()}
    if not own.st_mode & stat.S_IWOTH:
        trusted.add(own.st_uid)
    return owners <= trusted


def how_to_hide(path: Path) -> str:
    """Return the command that hides a file with keys from other users; "" if it is hidden."""
    if not hasattr(os, "geteuid"):
        return ""
    try:
        folders = [folder.stat().st_mode for folder in path.resolve().parents]
        file = path.stat()
    except OSError:
        return ""
    everybody = file.st_mode & (stat.S_IROTH | stat.S_IWOTH)
    # Most systems give each user a personal group without other members.
    group = file.st_mode & (stat.S_IRGRP | stat.S_IWGRP) and file.st_gid != file.st_uid
    reached = everybody and all(mode & stat.S_IXOTH for mode in folders)
    reached = reached or (group and all(mode & (stat.S_IXGRP | stat.S_IXOTH) for mode in folders))
    return f"chmod 600 {shlex.quote(str(path))}" if reached else ""


def _own_settings(path: Path) -> Mapping[str, Any]:
    """Return the user's own settings; {} if there are none or the folder cannot be read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        warn_of_configuration(
            f"your own settings {path} cannot be read and are ignored ({error.strerror})"
        )
        return {}
    return _read_settings(path) if path.is_file() and _is_trusted(path, path.parent) else {}


def _read_settings(path: Path) -> Mapping[str, Any]:
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
    except RecursionError:
        return {}, " cannot be read: its values are nested too deeply"
    try:
        check_settings(settings)
    except ValueError as error:
        return {}, f": {error}"
    return settings, ""
