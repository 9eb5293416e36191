"""The ledger's file and its copy: their format and how they are written.

A file begins and ends with its revision, so that part of a file is never mistaken for all of it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from ..bounded import library
from ..files import open_ours, overwrite_ours, patch_ours, read_ours, read_unchanging
from .documents import Document

FILE_VERSION = 3
# Documents of older versions are read unchanged; `quota.codec` converts them.
_READABLE = (1, 2, FILE_VERSION)
_HEAD = re.compile(rb'\{\n "version": 3,\n "revision": (\d+),\n "documents": \{\n  "')
_TAIL = re.compile(rb'\n \},\n "complete": (\d+)\n\}\n\Z')
_TAIL_BYTES, _LONGEST_NUMBER = 64, 400
# Room in an entry, in bytes.
_SPARE_SPACES, _MOST_SPACES = 512, 4096
# This occurs only between two documents: lines inside a document begin with three or more spaces.
_SEPARATOR, _BETWEEN = b",\n", b',\n  "'
# The end of a mapping, and the quote before the next key. If the quote ends a text instead, one of
# these characters follows.
_MAPPING_ENDS = re.compile(rb'\},"(?![:,}\]])')
# The first bytes of the file, which contain its version and revision.
_HEAD_BYTES = 64
# Writing a smaller file as a whole takes less time than writing parts of it.
_LARGE_BYTES = 16_384


class LockRequired(Exception):
    """Only the holder of the lock can read the file.

    Others write it again and again, or it must be kept aside or converted.
    """


class LedgerFile:
    """The file of a ledger and its copy, as this process read or wrote them last.

    Each change is written to the copy first, so one of the two is always whole. In a large file,
    only the beginning, the documents that changed, and the end are written. This requires a copy
    that is equal to the file. The beginning and the end of the copy show that, and this process
    first writes both files as a whole, in case a power failure damaged the copy.

    `content` is that of the file; empty if it has another layout, or does not exist.
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

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # At the end of a process, Python may have deleted the names of this module and of `os`.
        if self._stamp is not None:
            close(self._descriptor)

    def is_unchanged(self) -> bool:
        """Whether the file has the revision that was read or written."""
        status = self._status()
        if status is None or self._stamp != (status.st_ino, status.st_size, status.st_mtime_ns):
            return False
        return os.pread(self._descriptor, _HEAD_BYTES, 0) == self.content[:_HEAD_BYTES]

    def read(self, *, locked: bool) -> bytes | None:
        """The file, or None if there is none; `locked` says that no other process writes it.

        Raises:
            LockRequired: another process keeps writing it.
            OSError: it cannot be read.
        """
        try:
            content = read_ours(self._path) if locked else read_unchanging(self._path)
        except FileNotFoundError:
            return None
        if content is None:
            raise LockRequired
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
        """The parts to write and their positions; [] if the file must be written as a whole."""
        # The head comes first and the tail last, so that a file shows if all parts were written.
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
        """Keep the file open, so that its first bytes show whether it has changed."""
        # On Windows, an open file cannot be renamed, so it is read again each time.
        if status is None or not hasattr(os, "pread"):
            self._forget()
            return
        if self._stamp is None or status.st_ino != self._stamp[0]:
            self._forget()
            try:
                self._descriptor = open_ours(self._path, os.O_RDONLY)
            except OSError:
                # It was read or written, so it is only read again each time.
                return
        self._stamp = (status.st_ino, status.st_size, status.st_mtime_ns)

    def _forget(self) -> None:
        stamp, self._stamp = self._stamp, None
        # An interrupt between these lines leaves the file open. In the other order, a later call
        # would close a descriptor that another file has by then.
        if stamp is not None:
            os.close(self._descriptor)


def whole_file(entries: Iterable[bytes], revision: int) -> bytes:
    """The content of a file with these documents, as `entry_of` writes them."""
    return b"".join((head_of(revision), _SEPARATOR.join(entries), tail_of(revision)))


def head_of(revision: int) -> bytes:
    """The beginning of a file of that revision, up to its first document."""
    head = f'{{\n "version": {FILE_VERSION},\n "revision": {revision},\n "documents": {{\n'
    return head.encode()


def tail_of(revision: int) -> bytes:
    """The end of a file of that revision, after its last document."""
    return f'\n }},\n "complete": {revision}\n}}\n'.encode()


def places_of(entries: Mapping[str, bytes], revision: int) -> dict[str, tuple[int, int]]:
    """The position and the length of each document in the file of `whole_file`, in bytes."""
    places, place = {}, len(head_of(revision))
    for name, entry in entries.items():
        places[name] = place, len(entry)
        place += len(entry) + len(_SEPARATOR)
    return places


def split(content: bytes) -> tuple[dict[str, bytes], int] | None:
    """The documents as entries, not parsed, and the revision of a file that `whole_file` wrote.

    None for any other file.
    """
    head, tail = _HEAD.match(content), _TAIL.search(content, max(0, len(content) - _TAIL_BYTES))
    if not head or not tail or head[1] != tail[1]:
        return None
    entries = {}
    for part in content[head.end() : tail.start()].split(_BETWEEN):
        name, colon, _ = part.partition(b'": ')
        if b"\\" in name or not colon:
            return None
        entries[name.decode()] = b'  "' + part
    return entries, int(head[1])


def parse(content: bytes) -> tuple[dict[str, Document], int] | None:
    """The documents, not yet mended, and the revision of a file of ours, even if it was edited.

    None for a file in another layout and for half a file.
    """
    try:
        data = json.loads(content.decode("utf-8-sig"), parse_int=_whole_number)
    except (ValueError, RecursionError):
        return None
    if data == {}:
        return {}, 0
    if not isinstance(data, dict):
        return None
    version, documents = data.get("version"), data.get("documents")
    revision, complete = data.get("revision", 0), data.get("complete", 0)
    # True equals 1 and 2.0 equals 2, but we write neither.
    if not all(type(number) is int for number in (version, revision, complete)):
        return None
    if version not in _READABLE or not isinstance(documents, dict):
        return None
    return (documents, revision) if complete == revision >= 0 else None


def _whole_number(digits: str) -> float:
    """Python refuses numbers of more than 4,300 digits; as inf, only that value is wrong."""
    return int(digits) if len(digits) <= _LONGEST_NUMBER else math.inf


def is_ours(content: bytes) -> bool:
    """Whether a file that cannot be read begins like one of ours, as far as it goes."""
    heads = (f'{{\n "version": {version},\n'.encode() for version in _READABLE)
    return any(content[: len(head)] == head[: len(content)] for head in heads)


def entry_of(name: str, document: Document, before: int = 0) -> bytes:
    """The name and the JSON of a document, with a line break after each mapping inside it.

    Spaces keep its length as it was `before` (in bytes), or give room for the next change.
    """
    try:
        text: bytes = _fast_json().to_json(document)
    except ValueError:  # half a character, which only the standard library writes
        text = json.dumps(document, separators=(",", ":")).encode()
    # The `indent` of json.dumps is ten times slower.
    entry = b"%b%b" % (_before(name), _MAPPING_ENDS.sub(b'},\n   "', text))
    if len(entry) <= before <= len(entry) + _MOST_SPACES:
        return entry.ljust(before)
    return entry.ljust(len(entry) + _SPARE_SPACES) if before < len(entry) else entry


def entries_of(documents: Mapping[str, Document]) -> dict[str, bytes]:
    """The entries of documents by name, as in a new file."""
    return {name: entry_of(name, document) for name, document in documents.items()}


def read_entry(name: str, entry: bytes) -> Document:
    """A new document from its entry; raises ValueError or RecursionError if it is not JSON."""
    text = entry[len(_before(name)) :]
    try:
        document: Document = _fast_json().from_json(text)
    except ValueError:
        document = json.loads(text)
    return document


@cache
def _fast_json() -> Any:
    """The JSON functions of pydantic, which take half the time of the standard library's.

    Loaded when a ledger is first used, and not when this package is imported.
    """
    return library("pydantic_core")


@lru_cache(maxsize=1024)
def _before(name: str) -> bytes:
    """The bytes before the JSON of a document."""
    return f"  {json.dumps(name)}: ".encode()
