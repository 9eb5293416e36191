"""Finds the configuration files, checks their owners and readers, and reads `.env`."""

from __future__ import annotations

import io
import os
import re
import shlex
import stat
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..processes import new_lock
from ..secrets import Hidden, without_locals
from .file_contents import is_text, read_text

_QUOTES = "\"'\u201c\u201d\u2018\u2019"
# A value with NAME=value on a later line: its quote was never closed.
_ASSIGNMENT = re.compile(r"\n\s*(export\s+)?[A-Za-z_]\w*\s*=")


# References that python-dotenv expands, `${NAME}` and `${NAME:-default}`, and those that it does
# not: of a shell, and of 1Password's `op run`.
_REFERENCE = re.compile(r"\$\{([^}:]*)(?::-([^}]*))?\}")
_UNKNOWN_REFERENCE = re.compile(r"\$\w+|\$\(.*|`.*|op://.*", re.DOTALL)
_PIPE_RETRY_SECONDS = 60.0


class ConfigurationWarning(UserWarning):
    """Something about a configuration file that the user should know; its other lines count."""


class Variables(dict[str, str]):
    """Variables by name, without quotes and spaces around their values.

    Some of them are keys, so neither a repr nor a traceback with local variables shows a value.
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        super().__init__()
        for name in variables or ():
            self[name] = clean(Hidden((variables or {})[name]))

    def __repr__(self) -> str:
        return f"Variables({', '.join(self)})"


def clean(value: str) -> str:
    """Return the value without the quotes and spaces that people write around it."""
    return Hidden(value.strip().strip(_QUOTES).strip())


_warned: set[str] = set()
_warning_lock = new_lock()


def warn_once(message: str) -> None:
    """Warn in one line, once per process."""
    with _warning_lock:
        if message in _warned:
            return
        _warned.add(message)
    # Without a place in our code, whose line would be printed below the message.
    warnings.warn_explicit(message, ConfigurationWarning, "arche_magic", 0)


def nearest(name: str, directory: Path) -> Path | None:
    """Return the file of that name in the directory, or in the nearest directory above it.

    Files of other users are skipped with a warning. Otherwise, anybody who can write into a
    directory above (such as /tmp) could configure everybody who works below it.
    """
    for path, problem in candidates(name, directory):
        if not problem:
            return path
        warn_once(f"{path} {problem}")
    return None


def candidates(name: str, directory: Path) -> Iterator[tuple[Path, str]]:
    """Yield files of that name from the directory upward, each with why it is skipped, or ""."""
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
        elif not is_trusted(path, directory):
            problem = (
                "belongs to another user and was skipped; if you trust it, work in its owner's "
                "folder or copy it into your own"
            )
        yield path, problem


def _is_readable_kind(path: Path) -> bool:
    """Return whether a path is a file, or a named pipe called `.env`; False if it cannot be seen.

    Password managers mount `.env` as a named pipe.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or (stat.S_ISFIFO(mode) and path.name == ".env")


def is_trusted(path: Path, directory: Path) -> bool:
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


def warn_of_readers(path: Path) -> None:
    """Warn if other users of the machine can read or change a file that holds keys."""
    if others_reach(path):
        command = f"chmod 600 {shlex.quote(str(path))}"
        warn_once(f"other users of this machine can read the keys in {path}; run: {command}")


def others_reach(path: Path) -> bool:
    """Return whether other users of the machine can read or change the file."""
    if not hasattr(os, "geteuid"):
        return False
    try:
        folders = [folder.stat().st_mode for folder in path.resolve().parents]
        file = path.stat()
    except OSError:
        return False
    everybody = file.st_mode & (stat.S_IROTH | stat.S_IWOTH)
    # Most systems give each user a group of their own, which has no other member.
    group = file.st_mode & (stat.S_IRGRP | stat.S_IWGRP) and file.st_gid != file.st_uid
    return bool(everybody and all(mode & stat.S_IXOTH for mode in folders)) or bool(
        group and all(mode & (stat.S_IXGRP | stat.S_IXOTH) for mode in folders)
    )


@dataclass(frozen=True)
class EnvFile:
    """The contents of a `.env`.

    Attributes:
        variables: the variables that can be used.
        unused: by line number, why a line cannot be used; without its text.
        unusable: by variable, the line that refers to a variable that is not set.
        borrowed: by variable, the variables of the environment to which it refers.
        problem: why the file cannot be read at all, or "".
    """

    variables: Variables = field(default_factory=Variables)
    unused: Mapping[int, str] = field(default_factory=dict)
    unusable: Mapping[str, int] = field(default_factory=dict)
    borrowed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    problem: str = ""


# The contents of named pipes, and until when they are valid. Reading one may ask for a password.
_pipes: dict[tuple[str, int, int], tuple[EnvFile, float]] = {}
_reading_pipes = new_lock()


def read_env_file(path: Path, environment: Mapping[str, str] | None = None) -> EnvFile:
    """Parse a `.env` file, and warn about lines that cannot be used, without their text.

    Tolerates a BOM, CRLF, `export`, spaces and stray quotes. `${NAME}` and `${NAME:-default}` are
    expanded as python-dotenv does, from the environment or from the lines above.

    Args:
        path: the file.
        environment: variables to which `${NAME}` can refer; the process's if not given.
    """
    found = parse_env_file(path, environment)
    if found.problem:
        warn_once(f"{path} cannot be read and was skipped: {found.problem}")
    for number, why in found.unused.items():
        warn_once(f"line {number} of {path} was skipped: {why}")
    return found


@without_locals
def process_variables() -> Variables:
    """Return the variables of this process's environment."""
    return Variables(os.environ)


@without_locals
def environment_hash() -> int:
    """Return a number that changes with the variables of this process's environment."""
    return hash(tuple(os.environ.items()))


@without_locals
def process_variable(name: str) -> str:
    """Return one variable of this process's environment, or ""."""
    return os.environ.get(name, "")


@without_locals
def parse_env_file(path: Path, environment: Mapping[str, str] | None = None) -> EnvFile:
    """Parse a `.env` without warnings; a named pipe is read once per process."""
    environment = process_variables() if environment is None else Variables(environment)
    try:
        status = path.stat()
    except OSError as error:
        return EnvFile(problem=error.strerror or str(error))
    if not stat.S_ISFIFO(status.st_mode):
        return _parse(path, environment)
    pipe = str(path), status.st_dev, status.st_ino
    with _reading_pipes:
        found, until = _pipes.get(pipe, (EnvFile(), 0.0))
        if time.monotonic() >= until:
            found = _parse(path, environment)
            until = time.monotonic() + _PIPE_RETRY_SECONDS if found.problem else float("inf")
            _pipes[pipe] = found, until
    return found


def _parse(path: Path, environment: Variables) -> EnvFile:
    from dotenv.parser import parse_stream

    # The frames of an error hold the file's text, so only its message leaves this function.
    try:
        text = read_text(path)
    except OSError as error:
        return EnvFile(problem=error.strerror or str(error))
    except UnicodeError as error:
        return EnvFile(problem=str(error))
    variables, unused, unusable = Variables(), {}, {}
    borrowed: dict[str, frozenset[str]] = {}
    for binding in parse_stream(io.StringIO(text)):
        if not binding.error and not _ASSIGNMENT.search(binding.value or ""):
            lines = [(binding.original.line, binding)]
        else:
            # One unclosed quote swallows everything up to the next: read line by line instead.
            lines = [
                (binding.original.line + offset, parsed)
                for offset, line in enumerate(binding.original.string.split("\n"))
                for parsed in parse_stream(io.StringIO(re.sub(f"[{_QUOTES}]", "", line)))
            ]
        for number, parsed in lines:
            if not parsed.key or parsed.value is None or not is_text(parsed.key + parsed.value):
                if parsed.error or parsed.key:
                    unused[number] = "not NAME=value in UTF-8"
                continue
            name = clean(parsed.key)
            value, sources = _expanded(parsed.value, variables, borrowed, environment)
            variables.pop(name, None)
            if value is None:
                unused[number] = (
                    "it is a reference, and only ${NAME} is expanded"
                    if _UNKNOWN_REFERENCE.fullmatch(clean(parsed.value))
                    else "it refers to a variable that is not set"
                )
                unusable[name] = number
                continue
            unusable.pop(name, None)
            variables[name], borrowed[name] = clean(value), sources
    return EnvFile(variables, unused, unusable, borrowed)


def _expanded(
    value: str,
    variables: Variables,
    borrowed: Mapping[str, frozenset[str]],
    environment: Variables,
) -> tuple[str | None, frozenset[str]]:
    """Replace the references in a value; also return the variables of the environment it refers to.

    None instead of the value if a reference is to a variable that is not set.
    """
    if _UNKNOWN_REFERENCE.fullmatch(clean(value)):
        return None, frozenset()
    taken: set[str] = set()
    missing: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name in environment:
            taken.add(name)
            return environment[name]
        taken.update(borrowed.get(name, ()))
        if (name not in variables and default is None) or "${" in (default or ""):
            missing.append(name)
        return variables.get(name, default or "")

    expanded = _REFERENCE.sub(replaced, value)
    if missing or "${" in _REFERENCE.sub("", value):
        return None, frozenset()
    return expanded, frozenset(taken)
