"""Files that configure us: which is nearest, whose it is, who can read it, what `.env` says."""

from __future__ import annotations

import io
import os
import re
import shlex
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path

from .errors import ConfigurationError
from .forks import new_lock

_QUOTES = "\"'\u201c\u201d\u2018\u2019"
# A NAME=value on a later line of one value: its quote was never closed.
_ASSIGNMENT = re.compile(r"\n\s*(export\s+)?[A-Za-z_]\w*\s*=")


class ConfigurationWarning(UserWarning):
    """Something about a configuration file that its user should know; its other lines count."""


class Variables(dict[str, str]):
    """Variables by name, without quotes and spaces around their values.

    Keys are among them, so no repr, and no traceback that lists local variables, shows a value.
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        super().__init__({name: clean(value) for name, value in (variables or {}).items()})

    def __repr__(self) -> str:
        return f"Variables({', '.join(self)})"


def clean(value: str) -> str:
    """The value without the quotes and spaces that people write around it."""
    return value.strip().strip(_QUOTES).strip()


_told: set[str] = set()
_telling = new_lock()


def tell(message: str) -> None:
    """Warn in one line, once per process."""
    with _telling:
        if message in _told:
            return
        _told.add(message)
    # Not at a place in our code: its line would be printed below the message.
    warnings.warn_explicit(message, ConfigurationWarning, "arche_magic", 0)


def nearest(name: str, directory: Path) -> Path | None:
    """The file of that name in the directory, or in the nearest one above it.

    One that belongs to another user is passed over with a warning: whoever may write into a
    directory above (such as /tmp) could otherwise configure everybody who works below it.
    """
    directory = directory.resolve()
    for folder in (directory, *directory.parents):
        path = folder / name
        if path.is_file():
            if is_trusted(path, directory):
                return path
            tell(
                f"{path} belongs to another user and was passed over; if you trust it, work in its "
                "owner's folder or copy it into your own"
            )
    return None


def is_trusted(path: Path, directory: Path) -> bool:
    """Whether a file is by this user, by the system, or by whoever owns the working directory."""
    if not hasattr(os, "geteuid"):
        return True
    try:
        owners = {path.lstat().st_uid, path.stat().st_uid}
        # Who works in somebody's folder (a container on a mounted one, say) trusts its owner, if
        # nobody else can put files there.
        own = directory.stat()
    except OSError:
        return False
    trusted = {0, os.geteuid()}
    if not own.st_mode & stat.S_IWOTH:
        trusted.add(own.st_uid)
    return owners <= trusted


def tell_of_readers(path: Path) -> None:
    """Warn if other users of the machine can read a file that holds keys, or change it."""
    if others_reach(path):
        command = f"chmod 600 {shlex.quote(str(path))}"
        tell(f"other users of this machine can read the keys in {path}; run: {command}")


def others_reach(path: Path) -> bool:
    """Whether other users of the machine can read the file, or change it."""
    if not hasattr(os, "geteuid"):
        return False
    try:
        folders = [folder.stat().st_mode for folder in path.resolve().parents]
        file = path.stat()
    except OSError:
        return False
    everybody = file.st_mode & (stat.S_IROTH | stat.S_IWOTH)
    # A group of the user's own, as most systems give one, has nobody else in it.
    group = file.st_mode & (stat.S_IRGRP | stat.S_IWGRP) and file.st_gid != file.st_uid
    return bool(everybody and all(mode & stat.S_IXOTH for mode in folders)) or bool(
        group and all(mode & (stat.S_IXGRP | stat.S_IXOTH) for mode in folders)
    )


def read_env_file(path: Path) -> Variables:
    """Variables of a `.env` file; tolerates a BOM, CRLF, `export`, spaces and stray quotes.

    A line that cannot be read is named in a ConfigurationWarning, without its value.

    Raises:
        ConfigurationError: the file cannot be read at all.
    """
    # An error on the way holds the file's text; it ends in `_parse`, and only its words get here.
    variables, wrong_lines, problem = _parse(path)
    if problem:
        raise ConfigurationError(f"{path} cannot be read: {problem}")
    for number in wrong_lines:
        tell(f"line {number} of {path} is no NAME=value and was passed over")
    return variables


def _parse(path: Path) -> tuple[Variables, list[int], str]:
    """Variables, the numbers of lines that cannot be read, and why the file cannot be, or ""."""
    from dotenv.parser import parse_stream

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return Variables(), [], str(error)
    variables, wrong_lines = Variables(), []
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
            if parsed.key and parsed.value is not None:
                variables[clean(parsed.key)] = clean(parsed.value)
            elif parsed.error or parsed.key:
                wrong_lines.append(number)
    return variables, wrong_lines, ""
