"""Documents in one JSON file, shared by all kernels of a machine."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..bounded import TookTooLong, within
from ..processes import new_lock, new_rlock, reset_in_children
from .documents import (
    Change,
    Document,
    Mend,
    Merge,
    StorageTimeout,
    T,
    Upgrade,
    only_mappings,
    take_ours,
    warn,
    warn_of_file,
    works_again,
)
from .ledger_file import (
    LedgerFile,
    LockRequired,
    entries_of,
    entry_of,
    parse,
    read_entry,
    split,
)
from .locks import KernelLock, acquire, lock_deadline, seconds_left
from .memory import RETRY_SECONDS, OfflineDocuments, offline_storages
from .rescue import BLANK, Rescue

# A file with this name was once a ledger, whatever it contains.
LEDGER_NAME = "llm_quota_tracker.json"
# A reader waits this long for a disk that hangs; then it uses the contents that it read last.
_LONGEST_LOOK_SECONDS = 1.0
# Maximum time that a change waits for the lock of the file before it is made in memory.
_RECONNECT_SECONDS = 0.1

# Documents, the entries they were read from, and the revision.
_Found = tuple[dict[str, Document], dict[str, bytes], int]


class JsonFileStorage:
    """All documents in one readable JSON file, for every thread and kernel of a machine.

    A change locks a file beside it, loads, changes, and writes first a copy and then the file. A
    process that finds the file half written, because a kernel was killed, uses the copy. (Writing
    a new file and renaming it does the same at ten times the cost, and fails on Windows while
    another process reads.) A power failure can tear both, so once a minute a backup is written
    that it cannot tear. A ledger that cannot be read is renamed and kept.

    If the disk refuses (read-only, full, a share without locks), this process continues in memory
    and says so once. At most once a second, a change first tries to return to the file: then what
    was counted meanwhile is added to what others counted. The end of the process tries it too.

    Reading waits for no lock: while this process changes the file, readers get the documents as
    they were before, and a file that another kernel has half written is read from its copy.

    The directory of `path` is created when first needed. For the other arguments see `documents`.
    """

    def __init__(
        self,
        path: Path,
        upgrade: Upgrade | None = None,
        mend: Mend = only_mappings,
        merge: Merge = take_ours,
    ) -> None:
        self.path = path
        self._merge = merge
        # A thread holds this lock while it changes the file.
        self._change_lock = new_rlock()
        # Readers and changes hold this lock while they read the file.
        self._look_lock = new_lock()
        self._file_lock: Any = KernelLock(f"{path}.lock")
        self._rescue = Rescue(path, mend, upgrade)
        self.findings = self._rescue.findings
        self._offline: OfflineDocuments | None = None
        self._next_retry = 0.0
        self.trouble = self.refusal = ""
        self._was_there = self._checked = False
        self._know_nothing()
        reset_in_children(self)

    def _know_nothing(self) -> None:
        self._file = LedgerFile(self.path, self._rescue.copy)
        self._changing = self._rescuing = self._hangs = False
        # This is replaced and never changed, because readers take no lock.
        self._documents: dict[str, Document] = {}
        self._entries: dict[str, bytes] = {}
        # The documents that changed since the file was read or written.
        self._unsaved: set[str] = set()

    @cached_property
    def may_hang(self) -> bool:
        """Whether the file is, or may be, on a network drive."""
        try:
            return within(_LONGEST_LOOK_SECONDS, partial(_may_hang, self.path))
        except TookTooLong:
            return True

    def begin_child(self) -> None:
        """Read again what another thread may have been changing when the process was forked."""
        if self._offline is not None:
            self._offline.begin_child()
        self._know_nothing()

    def read(self, name: str) -> Document:
        """The document, empty if there is none yet. Callers must not change it."""
        return self.read_all(name)[0]

    def read_all(self, *names: str) -> list[Document]:
        """Several documents, in their states at the same time. Callers must not change them."""
        if (offline := self._offline) is not None:
            return offline.read_all(*names)
        documents, none = self._seen(), Document()
        return [documents.get(name, none) for name in names]

    def _seen(self) -> dict[str, Document]:
        """The current documents, or those that were read last if the disk hangs."""
        # While this process makes a change, no other process can change the file.
        if not self._changing and not self._hangs:
            try:
                if self.may_hang:
                    within(_LONGEST_LOOK_SECONDS, self._load)
                else:
                    self._load()
                self._end_trouble()
            except TookTooLong:
                self._hangs = self._look_lock.locked()
            except OSError as error:
                # The next change finds out by itself whether it can be made in the file.
                self._begin_trouble(error)
            except LockRequired:
                try:
                    with lock_deadline(0):
                        self.update("", lambda document: None)
                except StorageTimeout:
                    # Another process is writing the file, or was stopped while it wrote.
                    with contextlib.suppress(OSError):
                        seen = self._rescue.glance()
                        return self._documents if seen is None else seen
        return self._documents

    def update(self, name: str, change: Change[T], *others: str) -> T:
        """Run `change` on the documents, atomically; return its result.

        Raises:
            StorageTimeout: another thread or process held the lock until this thread's deadline.
        """
        if not acquire(self._change_lock):
            raise self._locked()
        try:
            offline = self._offline
            if offline is not None and not self._reconnect(_RECONNECT_SECONDS):
                return offline.update(name, change, *others)
            try:
                self._acquire()
            except OSError as error:
                with contextlib.suppress(OSError, LockRequired):
                    self._load()
                return self._go_offline(error).update(name, change, *others)
            try:
                try:
                    self._load(locked=True)
                except OSError as error:
                    return self._go_offline(error).update(name, change, *others)
                before = self._documents
                result, changed = self._change((name, *others), change)
                if changed or self._rescuing:
                    try:
                        self._save()
                    except OSError as error:
                        self._go_offline(error, before)
                self._end_trouble()
                return result
            finally:
                self._changing = False
                self._file_lock.release()
        finally:
            self._change_lock.release()

    def _change(self, names: tuple[str, ...], change: Change[T]) -> tuple[T, bool]:
        """The result of `change`, and whether it changed anything."""
        documents = {name: dict(self._documents.get(name, {})) for name in names}
        result = change(*documents.values())
        changed = {
            name: document
            for name, document in documents.items()
            if document != self._documents.get(name, {})
        }
        if changed:
            entries = {
                name: entry_of(name, document, len(self._entries.get(name, b"")))
                for name, document in changed.items()
            }
            self._entries = {**self._entries, **entries}
            self._documents = {**self._documents, **changed}
            self._unsaved.update(changed)
        return result, bool(changed)

    def _locked(self) -> StorageTimeout:
        return StorageTimeout(
            f"the ledger {self.path} is locked by another process or thread, so nothing was "
            "changed; try again, or end the kernel that holds the lock"
        )

    def _acquire(self) -> None:
        """Take the lock of the file, if the file is ours or can become ours."""
        if not (self._checked or self._was_there or self.path.name == LEDGER_NAME):
            self._rescue.check_owner()
            self._checked = True
        try:
            taken = self._file_lock.acquire(seconds_left())
        except FileNotFoundError:
            # The folder does not exist yet, or was removed.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._was_there:
                warn(f"the folder of the ledger {self.path} was removed; a new one is created")
            taken = self._file_lock.acquire(seconds_left())
        if not taken:
            raise self._locked()

    def _load(self, *, locked: bool = False) -> None:
        with self._look_lock:
            try:
                if not self._changing:
                    self._look(locked=locked)
            finally:
                self._hangs = False
            if locked:
                # From here on, readers get the previous documents until the file is written.
                self._changing = True

    def _look(self, *, locked: bool) -> None:
        if self._file.is_unchanged():
            return
        content = self._file.read(locked=locked)
        if content and content == self._file.content:
            return
        if content is None:
            self._take(({}, {}, 0), b"")
            return
        found = self._refreshed(content) or self._whole(content)
        if found is None:
            if not locked:
                raise LockRequired
            documents = self._rescue.documents(content)
            found = documents, entries_of(documents), 0
            # The file does not contain these documents before it is written.
            content, self._rescuing = b"", True
        self._take(found, content)

    def _refreshed(self, content: bytes) -> _Found | None:
        """The contents of a file as kernels write it, or None; parses only what has changed."""
        try:
            found = split(content)
            if found is None:
                return None
            entries, revision = found
            documents = {
                name: self._documents[name]
                if self._entries.get(name) == entry and name in self._documents
                else read_entry(name, entry)
                for name, entry in entries.items()
            }
        except (ValueError, RecursionError):
            return None
        changed = [name for name in entries if documents[name] is not self._documents.get(name)]
        if changed and not self._rescue.is_right(documents, *changed):
            return None
        return documents, entries, revision

    def _whole(self, content: bytes) -> _Found | None:
        """The contents of a file in any layout that we can read; None if it cannot be read."""
        if not content.strip(BLANK):
            is_new = not (self._rescue.copy.exists() or self._rescue.backup.exists())
            return ({}, {}, 0) if is_new else None
        found = parse(content)
        if found is None or not self._rescue.is_right(found[0]):
            return None
        documents, revision = found
        return documents, entries_of(documents), revision

    def _take(self, found: _Found, content: bytes) -> None:
        self._documents, self._entries, revision = found
        self._file.note(content, self._entries, revision)
        self._unsaved.clear()
        self._was_there = self._was_there or bool(content)

    def _save(self) -> None:
        self._file.write(self._entries, self._unsaved)
        self._unsaved.clear()
        self._rescuing, self._was_there = False, True
        # The ledger is written even if the backup cannot be.
        with contextlib.suppress(OSError):
            self._rescue.back_up(self._file.content)

    def _go_offline(
        self, error: OSError, before: dict[str, Document] | None = None
    ) -> OfflineDocuments:
        """Continue in memory; `before` are the documents in the file, if they differ from ours."""
        documents = self._documents
        self._offline = OfflineDocuments(documents if before is None else before, documents)
        self._next_retry = time.monotonic() + RETRY_SECONDS
        offline_storages.add(self)
        self._begin_trouble(error)
        return self._offline

    def _reconnect(self, seconds: float) -> bool:
        """Add the counts in memory to the file; False if it is too early to retry, or it fails.

        Waits at most `seconds` for the lock of the file. The caller holds the lock of the threads.
        """
        began, offline = time.monotonic(), self._offline
        if offline is None or began < self._next_retry:
            return offline is None
        try:
            with lock_deadline(seconds):
                self._acquire()
            try:
                with self._look_lock:
                    self._know_nothing()
                self._load(locked=True)
                # If the file is gone, all of it is written again.
                is_gone = not self._documents
                for name in offline.names if is_gone else offline.changed:
                    merge = take_ours if is_gone else self._merge
                    self._change((name,), partial(offline.add_to, name, merge=merge))
                try:
                    self._save()
                except OSError:
                    offline.note_attempt(self._documents)
                    raise
                self._offline = None
            finally:
                self._changing = False
                self._file_lock.release()
        except (OSError, StorageTimeout):
            # A network share may take minutes to fail.
            ended = time.monotonic()
            self._next_retry = ended + RETRY_SECONDS * max(1.0, 10 * (ended - began))
            return False
        offline_storages.discard(self)
        self._end_trouble()
        return True

    def last_retry(self, until: float) -> None:
        """Until that time (`time.monotonic`), try once to add the counts in memory to the file."""
        seconds = max(0.0, until - time.monotonic())
        if self._offline and self._offline.changed and self._change_lock.acquire(timeout=seconds):
            try:
                self._next_retry = 0.0
                self._reconnect(seconds)
            finally:
                self._change_lock.release()

    def _begin_trouble(self, error: OSError) -> None:
        if not self.trouble:
            self.trouble = (
                f"cannot be written ({error.strerror or error}); "
                "counting in memory until it can be written again"
            )
            warn_of_file(self.path, error, f"the ledger {self.path} {self.trouble}")

    def _end_trouble(self) -> None:
        if self.trouble and self._offline is None:
            self.trouble = ""
            works_again(self.path)


def _may_hang(path: Path) -> bool:
    """Whether a file may be on a network drive, where each step can take minutes.

    On Linux, a file system on a disk of the machine has the number of its device; NFS, SMB and
    FUSE have none (and neither has the root of a container). Elsewhere this cannot be told.
    """
    if sys.platform != "linux":
        return True
    for folder in path.parents:
        try:
            return os.major(folder.stat().st_dev) == 0
        except OSError:
            continue
    return True
