"""Documents in one JSON file, shared by all kernels of a machine."""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from .base import Change, Document, T, Upgrade, warn, warn_of_folder
from .kernel_lock import kernel_lock

FILE_VERSION = 1
# How many levels of a document get lines of their own in the file: enough for one line a limit.
_LINE_DEPTH = 4
_dump = json.JSONEncoder().encode
# Enough of the file to hold its version and revision.
_HEAD_BYTES = 64


class _OtherLayout(Exception):
    """The file must be kept aside or taken over, which only the holder of the lock may do."""


class JsonFileStorage:
    """All documents in one readable JSON file, for every thread and kernel of a machine.

    A change takes a lock file beside it, loads, changes, and writes a copy first and then the file
    itself. Both begin and end with their revision: whoever finds the file half written, because
    its kernel was killed, takes the copy. (Writing a new file and renaming it over the old does
    the same at ten times the cost, and fails on Windows while somebody reads.) A file that cannot
    be read as ours is kept aside under another name. Where the disk refuses (read-only, full),
    this process goes on in memory and says so once.

    Args:
        path: the file; its directory is made when first needed.
        upgrade: turns a file in another layout into documents, or returns None if it cannot.
    """

    def __init__(self, path: Path, upgrade: Upgrade | None = None) -> None:
        self.path = path
        self._upgrade = upgrade
        self._thread_lock = threading.RLock()
        self._file_lock: Any = None
        self._name = os.fspath(path)
        self._copy = path.with_name(f"{path.name}.copy")
        self._content = b""
        self._revision = 0
        self._stamp: tuple[int, int, int] | None = None
        self._descriptor = -1
        self._changing = False
        self._documents: dict[str, Document] = {}
        self._texts: dict[str, str] = {}
        self._on_disk = True

    def __repr__(self) -> str:
        return f"JsonFileStorage({str(self.path)!r})"

    def read(self, name: str) -> Document:
        """The document, empty if there is none yet. It is not to be changed."""
        with self._thread_lock:
            try:
                self._load()
            except OSError as error:
                self._leave_disk(error)
            except _OtherLayout:
                self.update(name, lambda document: None)
            return self._documents.get(name, {})

    def update(self, name: str, change: Change[T]) -> T:
        """Run `change` on the document, alone and atomically; return what it returns."""
        with self._thread_lock:
            if not self._on_disk:
                return self._change(name, change)
            try:
                lock = self._lock()
                lock.acquire()
            except OSError as error:
                self._leave_disk(error)
                return self._change(name, change)
            try:
                try:
                    self._load(locked=True)
                except OSError as error:
                    self._leave_disk(error)
                self._changing = True
                before = self._texts.get(name)
                result = self._change(name, change)
                if self._texts[name] != before:
                    self._save()
                return result
            finally:
                self._changing = False
                lock.release()

    def _change(self, name: str, change: Change[T]) -> T:
        document: Document = json.loads(self._texts.get(name, "{}"))
        result = change(document)
        self._documents[name] = document
        self._texts[name] = _lines(document, 1, _LINE_DEPTH)
        return result

    def _lock(self) -> Any:
        if self._file_lock is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file_lock = kernel_lock(f"{self.path}.lock")
        return self._file_lock

    def _load(self, *, locked: bool = False) -> None:
        # What is read inside a change was loaded under its lock.
        if not self._on_disk or self._changing:
            return
        if self._is_unchanged():
            return
        content = _read_bytes(self.path)
        if content == self._content:
            return
        found = _parse(content)
        if found is None:
            if not locked:
                raise _OtherLayout
            copy = _read_bytes(self._copy)
            found = _parse(copy) if copy and _is_ours(content) else None
        if found is None:
            found = self._take_over(content), 0
            # The file is gone until the next write.
            content = b""
        self._documents, self._revision = found
        self._texts = {
            name: _lines(document, 1, _LINE_DEPTH) for name, document in self._documents.items()
        }
        self._content = content
        self._remember()

    def _is_unchanged(self) -> bool:
        """Whether the file is what was read or written last: every change raises its revision."""
        try:
            status = os.stat(self._name)  # noqa: PTH116  # a dozen times a call
        except FileNotFoundError:
            return False
        if self._stamp != (status.st_ino, status.st_size, status.st_mtime_ns):
            return False
        return os.pread(self._descriptor, _HEAD_BYTES, 0) == self._content[:_HEAD_BYTES]

    def _remember(self) -> None:
        """Keep the file open, to see by its first bytes whether it has changed."""
        if not hasattr(os, "pread"):
            # Windows: an open file could not be kept aside. It is read anew each time.
            return
        try:
            status = os.stat(self._name)  # noqa: PTH116  # a dozen times a call
            if self._stamp is None or status.st_ino != self._stamp[0]:
                self._forget()
                self._descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            self._forget()
            return
        self._stamp = (status.st_ino, status.st_size, status.st_mtime_ns)

    def _forget(self) -> None:
        if self._stamp is not None:
            os.close(self._descriptor)
        self._stamp = None

    def _take_over(self, content: bytes) -> dict[str, Document]:
        """Keep a file that is not in our layout aside, and take over what can be read of it."""
        upgraded: dict[str, Document] | None = None
        try:
            data = json.loads(content.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            self._keep_aside("damaged", "is damaged")
            return {}
        if isinstance(data, dict) and "documents" in data:
            version = re.sub(r"[^\w.-]", "", str(data.get("version")))[:20]
            self._keep_aside(f"version-{version}", f"has version {version}, not {FILE_VERSION}")
        elif isinstance(data, dict) and self._upgrade and (upgraded := self._upgrade(data)):
            self._keep_aside("older", "has the older layout; its counts were taken over")
        else:
            self._keep_aside("unknown", "has an unknown layout")
        return upgraded or {}

    def _keep_aside(self, suffix: str, why: str) -> None:
        aside = self.path.with_name(f"{self.path.stem}.{suffix}-{time.time_ns()}.json")
        self.path.replace(aside)
        warn(f"the ledger {self.path} {why}; it is kept as {aside.name} and a new one begins")

    def _save(self) -> None:
        if not self._on_disk:
            return
        revision = self._revision + 1
        body = ",\n".join(f"  {json.dumps(name)}: {text}" for name, text in self._texts.items())
        content = (
            f'{{\n "version": {FILE_VERSION},\n "revision": {revision},\n "documents": {{\n{body}\n'
            f' }},\n "complete": {revision}\n}}\n'
        ).encode()
        try:
            _overwrite(self._copy, content)
            _overwrite(self.path, content)
            self._content, self._revision = content, revision
            self._remember()
        except OSError as error:
            self._leave_disk(error)

    def _leave_disk(self, error: OSError) -> None:
        if self._on_disk:
            self._on_disk = False
            warn_of_folder(
                self.path.parent,
                f"the ledger {self.path} cannot be kept ({error.strerror or error}); "
                "counting in memory until this process ends",
            )


def _parse(content: bytes) -> tuple[dict[str, Document], int] | None:
    """Documents and revision of a file in our layout; None for another, or for half a file."""
    if not content.strip():
        return {}, 0
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not data:
        return {}, 0
    if not isinstance(data, dict) or data.get("version") != FILE_VERSION:
        return None
    documents, revision = data.get("documents"), data.get("revision", 0)
    if not isinstance(documents, dict) or not all(map(_is_document, documents.values())):
        return None
    return (documents, revision) if data.get("complete", 0) == revision else None


def _is_ours(content: bytes) -> bool:
    """Whether a file that cannot be read begins as ours do, as far as it goes."""
    head = f'{{\n "version": {FILE_VERSION},\n'.encode()
    return content[: len(head)] == head[: len(content)]


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _overwrite(path: Path, content: bytes) -> None:
    """Write a file in place, without a moment in which it is empty."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
        if os.fstat(descriptor).st_size > len(content):
            os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def _is_document(value: object) -> bool:
    return isinstance(value, dict)


def _lines(value: Any, indent: int, depth: int) -> str:
    """JSON with one line per entry down to `depth`; json.dumps' own indent is ten times slower."""
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        # What the encoder would write, without building one for each number.
        return repr(value)
    if depth == 0 or not isinstance(value, dict) or not value:
        return _dump(value)
    pad = "\n" + " " * (indent + 2)
    entries = [f"{pad}{_quoted(key)}: {_lines(value[key], indent + 1, depth - 1)}" for key in value]
    return f"{{{','.join(entries)}\n{' ' * (indent + 1)}}}"


@lru_cache(maxsize=1024)
def _quoted(key: str) -> str:
    return _dump(key)
