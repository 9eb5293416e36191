"""Where documents live: in memory, or in one JSON file shared by all kernels of a machine.

Storage is dumb: it reads a named JSON document, and it changes one alone and atomically. What the
documents mean is the ledger's business.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Document = dict[str, Any]
Change = Callable[[Document], T]
Upgrade = Callable[[Document], "dict[str, Document] | None"]
# merge(before, ours, theirs) adds to `theirs` what happened between `before` and `ours`.
Merge = Callable[[Document, Document, Document], None]

FILE_VERSION = 1
# How many levels of a document get lines of their own in the file: enough for one line a limit.
_LINE_DEPTH = 4
_REDIS_SCHEMES = ("redis", "rediss", "unix")


class LedgerWarning(UserWarning):
    """The ledger cannot be kept where it should be; calls go on all the same."""


class _OtherLayout(Exception):
    """The file must be kept aside or taken over, which only the holder of the lock may do."""


class Storage(Protocol):
    """Named JSON documents."""

    def read(self, name: str) -> Document:
        """The document, empty if there is none yet. It is not to be changed."""
        ...

    def update(self, name: str, change: Change[T]) -> T:
        """Run `change` on the document, alone and atomically; return what it returns.

        If `change` raises, nothing is written.
        """
        ...


class MemoryStorage:
    """Documents of this process only."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def read(self, name: str) -> Document:
        """The document, empty if there is none yet."""
        document: Document = json.loads(self._texts.get(name, "{}"))
        return document

    def update(self, name: str, change: Change[T]) -> T:
        """Run `change` on the document, alone and atomically; return what it returns."""
        with self._lock:
            document = self.read(name)
            result = change(document)
            self._texts[name] = json.dumps(document)
            return result

    def put(self, name: str, document: Document) -> None:
        """Set a document as a whole."""
        with self._lock:
            self._texts[name] = json.dumps(document)


class JsonFileStorage:
    """All documents in one readable JSON file, for every thread and kernel of a machine.

    A change takes a lock file beside it, loads, changes, writes a new file and puts it in place
    of the old, so a reader or a crash never meets half a file. A file that cannot be read as ours
    is kept aside under another name. Where the disk refuses (read-only, full), this process goes
    on in memory and says so once.

    Args:
        path: the file; its directory is made when first needed.
        upgrade: turns a file in another layout into documents, or returns None if it cannot.
    """

    def __init__(self, path: Path, upgrade: Upgrade | None = None) -> None:
        self.path = path
        self._upgrade = upgrade
        self._thread_lock = threading.RLock()
        self._file_lock: Any = None
        self._content = b""
        self._seen: tuple[int, int, int] | None = None
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
            self._file_lock = _kernel_lock(f"{self.path}.lock")
        return self._file_lock

    def _load(self, *, locked: bool = False) -> None:
        # What is read inside a change was loaded under its lock.
        if not self._on_disk or self._changing:
            return
        # Two files written within one tick of the clock can have the same stamp. That is good
        # enough to look, and not for a change, which compares the bytes.
        seen = self._stamp()
        if not locked and seen is not None and seen == self._seen:
            return
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        self._seen = seen
        if content == self._content:
            return
        documents = _parse(content)
        if documents is None:
            if not locked:
                raise _OtherLayout
            documents = self._take_over(content)
            # The file is gone until the next write.
            content = b""
        self._documents = documents
        self._texts = {
            name: _lines(document, 1, _LINE_DEPTH) for name, document in documents.items()
        }
        self._content = content

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

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
        _warn(f"the ledger {self.path} {why}; it is kept as {aside.name} and a new one begins")

    def _save(self) -> None:
        if not self._on_disk:
            return
        body = ",\n".join(f"  {json.dumps(name)}: {text}" for name, text in self._texts.items())
        content = f'{{\n "version": {FILE_VERSION},\n "documents": {{\n{body}\n }}\n}}\n'.encode()
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            beside.write_bytes(content)
            beside.replace(self.path)
            self._content, self._seen = content, self._stamp()
        except OSError as error:
            beside.unlink(missing_ok=True)
            self._leave_disk(error)

    def _leave_disk(self, error: OSError) -> None:
        if self._on_disk:
            self._on_disk = False
            warn_of_folder(
                self.path.parent,
                f"the ledger {self.path} cannot be kept ({error.strerror or error}); "
                "counting in memory until this process ends",
            )


if sys.platform == "win32":

    def _kernel_lock(path: str) -> Any:
        from filelock import FileLock

        return FileLock(path, poll_interval=0.001, thread_local=False)

else:
    import fcntl

    class _KernelLock:
        """Keeps other kernels out, as filelock does by the same call, in a tenth of its time.

        Threads queue on a lock of their own before. Opened anew each time, so that neither a fork
        nor a deleted lock file lets two in for long.
        """

        def __init__(self, path: str) -> None:
            self._path = path
            self._descriptor = -1

        def acquire(self) -> None:
            """Wait until no other kernel has it."""
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor

        def release(self) -> None:
            """Let the next one in."""
            # A child forked meanwhile has the descriptor too, so closing alone would not do.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)

    def _kernel_lock(path: str) -> Any:
        return _KernelLock(path)


_refusing_folders: set[Path] = set()


def warn_of_folder(folder: Path, message: str) -> None:
    """Warn that a folder takes no files, once per process: its files share the one cause."""
    if folder not in _refusing_folders:
        _refusing_folders.add(folder)
        _warn(message)


_opened: dict[str, Storage] = {}
_opening = threading.Lock()


def open_storage(
    location: str, upgrade: Upgrade | None = None, merge: Merge | None = None
) -> Storage:
    """The storage of this process for a location: a path, `memory://NAME`, or a Redis URL.

    Asking again for a location gives the same storage. `upgrade` is for files, `merge` for Redis;
    without it, what is counted while Redis is away is dropped.

    Raises:
        ValueError: a URL of another kind.
        ConfigurationError: redis-py is missing, or it does not take the URL.
    """
    scheme = location.partition("://")[0] if "://" in location else ""
    if scheme not in ("", "memory", *_REDIS_SCHEMES):
        raise ValueError(f"{scheme}:// is no storage; use a path, redis:// or memory://")
    name = location if scheme else str(Path(location).absolute())
    with _opening:
        if name not in _opened:
            if scheme == "memory":
                _opened[name] = MemoryStorage()
            elif scheme:
                # By its name: it is built on this module, and needed by few.
                redis_storage = import_module(".redis_storage", __package__)
                _opened[name] = redis_storage.RedisStorage(location, merge or _drop)
            else:
                _opened[name] = JsonFileStorage(Path(name), upgrade)
        return _opened[name]


def _drop(before: Document, ours: Document, theirs: Document) -> None:
    """Merge nothing."""


def _parse(content: bytes) -> dict[str, Document] | None:
    """The documents of a file in our layout, or None if it is in another."""
    if not content.strip():
        return {}
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not data:
        return {}
    if not isinstance(data, dict) or data.get("version") != FILE_VERSION:
        return None
    documents = data.get("documents")
    if not isinstance(documents, dict) or not all(map(_is_document, documents.values())):
        return None
    return documents


def _is_document(value: object) -> bool:
    return isinstance(value, dict)


def _lines(value: Any, indent: int, depth: int) -> str:
    """JSON with one line per entry down to `depth`; json.dumps' own indent is ten times slower."""
    if depth == 0 or not isinstance(value, dict) or not value:
        return json.dumps(value)
    pad = " " * (indent + 2)
    entries = ",\n".join(
        f"{pad}{json.dumps(key)}: {_lines(item, indent + 1, depth - 1)}"
        for key, item in value.items()
    )
    return f"{{\n{entries}\n{' ' * (indent + 1)}}}"


def _warn(message: str) -> None:
    warnings.warn(message, LedgerWarning, stacklevel=2)
