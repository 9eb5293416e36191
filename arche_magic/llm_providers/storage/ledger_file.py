"""The bytes of a ledger's file and of its copy: what is where, and what must be written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..files import open_ours, overwrite_ours, patch_ours, read_ours, read_unchanging
from .file_text import head_of, places_of, tail_of, whole_file

# The first bytes of the file, which contain its version and revision.
_HEAD_BYTES = 64
# Writing a smaller file as a whole takes less time than writing parts of it.
_LARGE_BYTES = 16_384


class BeingWritten(Exception):
    """Another process writes the file again and again while it is read."""


class LedgerFile:
    """The file of a ledger and its copy, as this process read or wrote them last.

    Each change is written to the copy first, so one of the two is always whole. Of a large file
    only the beginning, the documents that changed, and the end are written. This needs a copy that
    is equal to the file: its ends show that, and this process writes both as a whole once, in case
    a power failure tore the copy.

    Args:
        path: the file.
        copy: its copy.

    Attributes:
        content: the content of the file; empty if it has another layout, or does not exist.
    """

    def __init__(self, path: Path, copy: Path) -> None:
        self._path, self._copy = path, copy
        self._name = os.fspath(path)
        self.content = bytearray()
        self._revision = 0
        self._places: dict[str, tuple[int, int]] = {}
        self._has_written = False
        self._stamp: tuple[int, int, int] | None = None
        self._descriptor = -1

    def __del__(self) -> None:
        self._forget()

    def is_unchanged(self) -> bool:
        """Whether the file is as it was last read or written; each change raises its revision."""
        status = self._status()
        if status is None or self._stamp != (status.st_ino, status.st_size, status.st_mtime_ns):
            return False
        return os.pread(self._descriptor, _HEAD_BYTES, 0) == self.content[:_HEAD_BYTES]

    def read(self, *, locked: bool) -> bytes | None:
        """The file, or None if there is none; `locked` says that no other process writes it.

        Raises:
            BeingWritten: another process keeps writing it.
            OSError: it cannot be read.
        """
        try:
            content = read_ours(self._path) if locked else read_unchanging(self._path)
        except FileNotFoundError:
            return None
        if content is None:
            raise BeingWritten
        return content

    def note(self, content: bytes, entries: Mapping[str, bytes], revision: int) -> None:
        """Remember what was read; `content` is empty if it must be written as a whole."""
        self.content, self._revision, self._places = bytearray(content), revision, {}
        if self._has_written and whole_file(entries.values(), revision) == content:
            self._places = places_of(entries, revision)
        self._remember(self._status())

    def write(self, entries: Mapping[str, bytes], changed: Iterable[str]) -> None:
        """Write the next revision, with these documents, to the copy and to the file.

        `changed` are the names of the documents that differ from what is in the file.

        Raises:
            OSError: it cannot be written.
        """
        revision, whole = self._revision + 1, b""
        parts = self._parts(entries, changed, revision)
        for path in (self._copy, self._path):
            status = patch_ours(path, self.content, parts) if parts else None
            if status is None:
                whole = whole or whole_file(entries.values(), revision)
                status = overwrite_ours(path, whole)
        if whole:
            self.content, self._has_written = bytearray(whole), True
            self._places = places_of(entries, revision)
        else:
            for place, part in parts:
                self.content[place : place + len(part)] = part
        self._revision = revision
        self._remember(status)

    def _parts(
        self, entries: Mapping[str, bytes], changed: Iterable[str], revision: int
    ) -> list[tuple[int, bytes]]:
        """What to write, and where; [] if the file must be written as a whole.

        The revision at the beginning comes first and that at the end last, so that a file shows
        whether all parts were written.
        """
        head, tail = head_of(revision), tail_of(revision)
        if len(self.content) < _LARGE_BYTES or len(head) != len(head_of(self._revision)):
            return []
        parts = [(0, head)]
        for name in changed:
            place, size = self._places.get(name, (0, 0))
            if len(entries[name]) != size:
                return []
            parts.append((place, entries[name]))
        return [*parts, (len(self.content) - len(tail), tail)]

    def _status(self) -> os.stat_result | None:
        try:
            return os.stat(self._name)  # noqa: PTH116  # several times a call
        except FileNotFoundError:
            return None

    def _remember(self, status: os.stat_result | None) -> None:
        """Keep the file open, so that its first bytes show whether it has changed.

        `status` is that of the file as it was read or written; None if there is none.
        """
        # On Windows, an open file cannot be renamed, so it is read again each time.
        if status is None or not hasattr(os, "pread"):
            self._forget()
            return
        if self._stamp is None or status.st_ino != self._stamp[0]:
            self._forget()
            try:
                self._descriptor = open_ours(self._path, os.O_RDONLY)
            except FileNotFoundError:
                return
        self._stamp = (status.st_ino, status.st_size, status.st_mtime_ns)

    def _forget(self) -> None:
        stamp, self._stamp = self._stamp, None
        # An interrupt between these lines leaves the file open. In the other order, a later call
        # would close a descriptor that another file has by then.
        if stamp is not None:
            os.close(self._descriptor)
