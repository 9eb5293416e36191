"""The text of a configuration file, as editors and password managers write it."""

from __future__ import annotations

import os
import select
import stat
import time
from pathlib import Path

from ..files import marked_encoding

_PIPE_BYTES = 1_000_000
# The program behind a pipe waits for a reader, so it connects at once. Then it may first ask its
# user, as 1Password does.
_NO_WRITER_SECONDS, _WRITER_SECONDS, _NAP_SECONDS = 2.0, 30.0, 0.01


def read_text(path: Path) -> str:
    """Return the text of a file, decoded by its byte order mark, else as UTF-8.

    Bytes that are not UTF-8 become lone surrogates, so that lines without any can be used.

    Raises:
        OSError: the file cannot be read, or no program writes to the pipe.
        UnicodeError: the encoding is not UTF-8 and there is no byte order mark.
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
    """Return the content of a named pipe, up to where its writer closes it.

    Raises:
        OSError: no program writes to it, or it does not end within the time or size allowed.
    """
    # Two kernels that read the pipe at the same time would each get a part of the text. So they
    # take turns, by a lock on the folder: opening the pipe itself would start its writer.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        _lock(folder)
        return _read_alone(path)
    finally:
        os.close(folder)


def _read_alone(path: Path) -> bytes:
    # Without O_NONBLOCK, opening the pipe would wait for a writer forever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        content, began = b"", time.monotonic()
        while len(content) < _PIPE_BYTES:
            try:
                piece = os.read(descriptor, 65_536)
            except BlockingIOError:
                if time.monotonic() > began + _WRITER_SECONDS:
                    raise OSError("the program behind this pipe does not finish writing") from None
                _wait_for_more(descriptor)
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
        return once
    raise OSError("it is a named pipe that does not end")


def _lock(descriptor: int) -> None:
    """Lock it, unless another process holds the lock for too long."""
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


def _wait_for_more(descriptor: int) -> None:
    # Returns at once: a writer that opens the pipe again would send everything a second time.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(1000 * _NAP_SECONDS)


def _repeated(content: bytes) -> bytes:
    """Return the text that a writer repeats because it reopens the pipe too quickly; or b""."""
    beginning = content[: content.find(b"\n") + 1]
    length = content.find(beginning, 1)
    while beginning and length > 0:
        if content[length : 2 * length] == content[:length]:
            return content[:length]
        length = content.find(beginning, length + 1)
    return b""
