"""Reads `.env`, as editors and password managers write it."""

from __future__ import annotations

import io
import os
import re
import select
import stat
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..files import marked_encoding
from ..processes import new_lock
from ..secrets import Hidden, without_locals

_QUOTES = "\"'\u201c\u201d\u2018\u2019"
# A value with NAME=value on a later line: its quote was never closed.
_ASSIGNMENT = re.compile(r"\n\s*(export\s+)?[A-Za-z_]\w*\s*=")
# References that python-dotenv expands, and those that it does not: of a shell, and of 1Password's
# `op run`.
_REFERENCE = re.compile(r"\$\{([^}:]*)(?::-([^}]*))?\}")
_UNKNOWN_REFERENCE = re.compile(r"\$\w+|\$\(.*|`.*|op://.*", re.DOTALL)
_PIPE_RETRY_SECONDS = 60.0
_PIPE_BYTES = 1_000_000
# The program behind a pipe waits for a reader, so it connects immediately. Then it may first ask
# its user, as 1Password does.
_NO_WRITER_SECONDS, _WRITER_SECONDS, _NAP_SECONDS = 2.0, 30.0, 0.01


class ConfigurationWarning(UserWarning):
    """A problem in a configuration file; the rest of the file is used."""


def clean(value: str) -> str:
    """Return a value without the quotes and spaces around it, hidden because it may be a key."""
    return Hidden(value.strip().strip(_QUOTES).strip())


def clean_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with `clean` values."""
    return {name: clean(Hidden(variables[name])) for name in variables}


_warned: set[str] = set()


def warn_of_configuration(message: str) -> None:
    """Warn in one line, once per process."""
    if message not in _warned:
        _warned.add(message)
        # Without a place in our code, whose line would be printed below the message.
        warnings.warn_explicit(message, ConfigurationWarning, "arche_magic", 0)


@dataclass(frozen=True)
class EnvFile:
    """The contents of a `.env`.

    Attributes:
        variables: the variables that can be used.
        unused: by line number, why a line cannot be used; without its text.
        unusable: by variable, the line that refers to a variable that is not set.
        borrowed: by variable, the variables of the environment that it refers to.
        problem: why the file cannot be read at all, or "".
    """

    variables: Mapping[str, str] = field(default_factory=dict)
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
    expanded as python-dotenv does, from `environment` (the process's if not given) or from the
    lines above.
    """
    found = parse_env_file(path, environment)
    if found.problem:
        warn_of_configuration(f"{path} cannot be read and was skipped: {found.problem}")
    for number, why in found.unused.items():
        warn_of_configuration(f"line {number} of {path} was skipped: {why}")
    return found


@without_locals
def process_variables() -> dict[str, str]:
    """Return the variables of this process's environment."""
    return clean_variables(os.environ)


@without_locals
def environment_hash() -> int:
    """Return a number that changes with the variables of this process's environment."""
    return hash(tuple(os.environ.items()))


@without_locals
def parse_env_file(path: Path, environment: Mapping[str, str] | None = None) -> EnvFile:
    """Parse a `.env` without warnings; a named pipe is read once per process."""
    environment = process_variables() if environment is None else environment
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


def _parse(path: Path, environment: Mapping[str, str]) -> EnvFile:
    # The frames of an error hold the file's text, so only its message leaves this function.
    try:
        text = read_text(path)
    except (OSError, UnicodeError) as error:
        return EnvFile(problem=getattr(error, "strerror", None) or str(error))
    variables: dict[str, str] = {}
    unused: dict[int, str] = {}
    unusable: dict[str, int] = {}
    borrowed: dict[str, frozenset[str]] = {}
    for number, name, text_of_value in _assignments(text):
        if text_of_value is None:
            unused[number] = "not NAME=value in UTF-8"
            continue
        try:
            value, sources = _expanded(text_of_value, variables, borrowed, environment)
        except ValueError as error:
            variables.pop(name, None)
            unused[number], unusable[name] = str(error), number
            continue
        unusable.pop(name, None)
        variables[name], borrowed[name] = clean(value), sources
    return EnvFile(variables, unused, unusable, borrowed)


def _assignments(text: str) -> Iterator[tuple[int, str, str | None]]:
    """Yield the lines with their numbers, names and values; None for an invalid value or line."""
    from dotenv.parser import parse_stream

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
            if parsed.key and parsed.value is not None and is_text(parsed.key + parsed.value):
                yield number, clean(parsed.key), parsed.value
            elif parsed.error or parsed.key:
                yield number, "", None


def _expanded(
    value: str,
    variables: Mapping[str, str],
    borrowed: Mapping[str, frozenset[str]],
    environment: Mapping[str, str],
) -> tuple[str, frozenset[str]]:
    """Replace the references in a value; also return the variables of the environment it refers to.

    Raises:
        ValueError: a reference cannot be expanded; the message does not contain the value.
    """
    if _UNKNOWN_REFERENCE.fullmatch(clean(value)):
        raise ValueError("it is a reference, and only ${NAME} is expanded")
    taken: set[str] = set()

    def replaced(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name in environment:
            taken.add(name)
            return environment[name]
        taken.update(borrowed.get(name, ()))
        if (name not in variables and default is None) or "${" in (default or ""):
            raise ValueError("it refers to a variable that is not set")
        return variables.get(name, default or "")

    expanded = _REFERENCE.sub(replaced, value)
    if "${" in _REFERENCE.sub("", value):
        raise ValueError("it refers to a variable that is not set")
    return expanded, frozenset(taken)


def read_text(path: Path) -> str:
    """Return the text of a file, decoded by its byte order mark, else as UTF-8.

    Bytes that are not UTF-8 become lone surrogates, see `is_text`.

    Raises:
        OSError: the file cannot be read, or no program writes to the pipe.
        UnicodeError: the file has zero bytes and no byte order mark, so it is not UTF-8.
    """
    content = _read_pipe(path) if stat.S_ISFIFO(path.stat().st_mode) else path.read_bytes()
    if encoding := marked_encoding(content):
        return content.decode(encoding)
    if b"\0" in content:
        raise UnicodeError("it has zero bytes and no byte order mark; save it as UTF-8")
    return content.decode("utf-8", errors="surrogateescape")


def is_text(text: str) -> bool:
    """Return whether a part of the text from `read_text` was UTF-8."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def _read_pipe(path: Path) -> bytes:
    """Return the content of a named pipe, up to where its writer closes it."""
    # Two kernels that read the pipe at the same time would each get a part of the text. So they
    # take turns, by a lock on the folder: opening the pipe itself would start its writer.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        _lock(folder)
        return _read_alone(path)
    finally:
        os.close(folder)


def _read_alone(path: Path) -> bytes:
    # Without O_NONBLOCK, opening the pipe would wait forever for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        content, began = b"", time.monotonic()
        while len(content) < _PIPE_BYTES:
            try:
                piece = os.read(descriptor, 65_536)
            except BlockingIOError:
                if time.monotonic() > began + _WRITER_SECONDS:
                    raise OSError("the program behind this pipe does not finish writing") from None
                # Not a sleep, because a writer that opens the pipe again would send everything
                # twice.
                poll.poll(1000 * _NAP_SECONDS)
                continue
            if not piece and content:
                return content
            if not piece:
                if time.monotonic() > began + _NO_WRITER_SECONDS:
                    raise OSError("it is a named pipe, and no program writes to it")
                time.sleep(_NAP_SECONDS)
            content += piece
    finally:
        os.close(descriptor)
    if once := _repeated(content):
        # The writer must notice that the rest is not read, before the next kernel opens the pipe.
        time.sleep(10 * _NAP_SECONDS)
        return once
    raise OSError("it is a named pipe that does not end")


def _lock(descriptor: int) -> None:
    """Lock the folder, unless another process holds the lock for too long."""
    import fcntl

    ends = time.monotonic() + _WRITER_SECONDS
    while time.monotonic() < ends:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_NAP_SECONDS)
        except OSError:
            # Some file systems have no locks.
            return
        else:
            return


def _repeated(content: bytes) -> bytes:
    """Return the text that a writer repeats because it reopens the pipe too quickly; or b""."""
    beginning = content[: content.find(b"\n") + 1]
    length = content.find(beginning, 1)
    while beginning and length > 0:
        if content[length : 2 * length] == content[:length]:
            return content[:length]
        length = content.find(beginning, length + 1)
    return b""
