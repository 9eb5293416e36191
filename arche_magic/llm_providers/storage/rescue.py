"""Recovers the documents of a ledger's file that is incomplete, damaged, or in another layout.

The holder of the lock uses the copy, which is written before the file. If that is unusable, it uses
the valid parts of the file, and otherwise the backup. Nothing is deleted: the file is kept under
another name, unless it was only half written.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import NotOurs, open_ours, read_ours
from .documents import Document, Mend, Upgrade, warn
from .ledger_file import FILE_VERSION, is_ours, parse

BLANK = b"\x00 \r\n\t"
_SHOWN_PATHS = 3
_BACKUP_SECONDS = 60.0


class Rescue:
    """The file of a ledger with its copy and backup, for the holder of its lock.

    `findings` are what was wrong with the file in this process so far. For `mend` and `upgrade` see
    `documents`.
    """

    def __init__(self, path: Path, mend: Mend, upgrade: Upgrade | None) -> None:
        self.path, self._mend, self._upgrade = path, mend, upgrade
        self.copy = path.with_name(f"{path.name}.copy")
        self.backup = path.with_name(f"{path.name}.backup")
        self.findings: list[str] = []
        self._backed_up = -_BACKUP_SECONDS

    def back_up(self, content: bytes | bytearray) -> None:
        """Write the backup, once a minute and by one of the kernels.

        It is on the disk before it gets its name, so that a power failure cannot damage it.

        Raises:
            OSError: it cannot be written.
        """
        now = time.monotonic()
        if now < self._backed_up + _BACKUP_SECONDS:
            return
        self._backed_up = now
        with suppress(FileNotFoundError):
            if abs(time.time() - self.backup.stat().st_mtime) < _BACKUP_SECONDS:
                return
        beside = self.backup.with_name(f"{self.backup.name}.new")
        with os.fdopen(open_ours(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.backup)

    def is_right(self, documents: dict[str, Document], *names: str) -> bool:
        """Whether these documents (all, if no name is given) have no wrong value."""
        return not any(self._mend(name, documents[name])[1] for name in names or documents)

    def check_owner(self) -> None:
        """Before anything is written, check that the ledger's path is free or has a ledger.

        Raises:
            NotOurs: another file has that path, or the path of the copy or the backup.
        """
        content = _read_bytes(self.path)
        beside = {path: _read_bytes(path) for path in (self.copy, self.backup)}
        if os.path.lexists(f"{self.path}.lock") or any(
            text.strip(BLANK) and is_ours(text) for text in beside.values()
        ):
            return
        if content.strip(BLANK):
            if not self._is_a_ledger(content):
                raise NotOurs(self.path, "is not a ledger; set ARCHE_QUOTA_STORE to another path")
            return
        for path, text in beside.items():
            if text.strip(BLANK):
                raise NotOurs(path, "is not a copy of a ledger; move it away")

    def glance(self) -> dict[str, Document] | None:
        """The documents to show while another process holds the lock; None if there are none."""
        if copied := self._sound(self.copy):
            return copied[0]
        found = parse(_read_bytes(self.path))
        return self._mended(found[0])[0] if found else None

    def documents(self, content: bytes) -> dict[str, Document]:
        """The documents to use instead of a file with that content."""
        version = _version(_json(content))
        if type(version) is int and version > FILE_VERSION:
            # Its copy and backup may be older, from before the newer package was installed.
            return self._take_over(content)
        found, copied = parse(content), self._sound(self.copy)
        documents, wrong = self._mended(found[0]) if found else ({}, [])
        if copied and (copied[1] >= found[1] if found else _may_be_damaged(content)):
            if wrong:
                self._keep_aside("wrong", _has(wrong, "counting continues from its copy"))
            elif not is_ours(content) and content.strip(BLANK):
                self._keep_aside("damaged", "is damaged; counting continues from its copy")
            return copied[0]
        if found:
            self._keep_aside("wrong", _has(wrong, "counting continues without them"))
            return documents
        saved = self._sound(self.backup) if _may_be_damaged(content) else None
        if saved:
            written = time.strftime("%H:%M:%S", time.localtime(self.backup.stat().st_mtime))
            is_torn = is_ours(content) or not content.strip(BLANK)
            state = "torn" if is_torn else "damaged"
            self._keep_aside(state, f"is {state}; counting continues from a backup of {written}")
            return saved[0]
        return self._take_over(content)

    def _is_a_ledger(self, content: bytes) -> bool:
        """Whether a file is a ledger in any layout, or begins like one."""
        if content.startswith(b'{\n "version": ') and is_ours(content):
            return True
        data = _json(content)
        if not isinstance(data, dict):
            return False
        versioned = isinstance(data.get("version"), int) and isinstance(data.get("documents"), dict)
        return data == {} or versioned or bool(self._upgrade and self._upgrade(data))

    def _sound(self, path: Path) -> tuple[dict[str, Document], int] | None:
        """Documents and revision of a copy; None unless all of it is valid."""
        found = parse(_read_bytes(path))
        return found if found and self.is_right(found[0]) else None

    def _mended(self, documents: dict[str, Document]) -> tuple[dict[str, Document], list[str]]:
        wrong: list[str] = []
        mended = {}
        for name, document in documents.items():
            mended[name], found = self._mend(name, document)
            wrong += found
        return mended, wrong

    def _take_over(self, content: bytes) -> dict[str, Document]:
        """Keep aside a file that is not in our layout, and return what can be read of it."""
        upgraded: dict[str, Document] | None = None
        data = _json(content)
        if data is _NO_JSON or _version(data) == FILE_VERSION:
            self._keep_aside("damaged", "is damaged; a new ledger starts")
        elif isinstance(data, dict) and "documents" in data:
            version = re.sub(r"[^\w.-]", "", str(data.get("version")))[:20]
            why = (
                f"has version {version}, not {FILE_VERSION}; a new ledger starts without its counts"
            )
            self._keep_aside(f"version-{version}", why)
        elif isinstance(data, dict) and self._upgrade and (upgraded := self._upgrade(data)):
            self._keep_aside("older", "has the older layout; its counts were converted")
        else:
            self._keep_aside("unknown", "has an unknown layout; a new ledger starts")
        return upgraded or {}

    def _keep_aside(self, suffix: str, why: str) -> None:
        aside = self.path.with_name(f"{self.path.stem}.{suffix}-{time.time_ns()}.json")
        self.path.replace(aside)
        if suffix in ("wrong", "damaged"):
            self.findings.append(why)
        warn(f"the ledger {self.path} {why}; the old file is kept as {aside.name}")


def _read_bytes(path: Path) -> bytes:
    """The file's bytes, none if it does not exist."""
    try:
        return read_ours(path)
    except FileNotFoundError:
        return b""


_NO_JSON = object()


def _json(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return _NO_JSON


def _version(data: Any) -> Any:
    """The version in a file of our layout; None for other files."""
    return data.get("version") if isinstance(data, dict) and "documents" in data else None


def _may_be_damaged(content: bytes) -> bool:
    """Whether a file that cannot be read may be a ledger of ours, rather than other JSON."""
    data = _json(content)
    return data is _NO_JSON or (
        isinstance(data, dict) and ("version" in data or "documents" in data)
    )


def _has(wrong: list[str], then: str) -> str:
    names = ", ".join(re.sub(r"[^\w:./ \[\]-]", "?", path) for path in wrong[:_SHOWN_PATHS])
    more = f" and {len(wrong) - _SHOWN_PATHS} more" if len(wrong) > _SHOWN_PATHS else ""
    values = "a wrong value" if len(wrong) == 1 else f"{len(wrong)} wrong values"
    return f"has {values} ({names}{more}); {then}"
