"""Files of attempts, one per month: lines are appended, and read from the end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from .files import NotOurs, open_ours
from .reply import Attempt
from .storage import warn_of_file
from .storage.locks import KernelLock
from .types import NEVER, utc

# How long a process waits while another one renames last month's file.
_TURN_SECONDS = 1.0
# Bytes per read, bytes to go back by, and bytes read to find the age of lines.
_BLOCK_BYTES, _STEP_BYTES, _SAMPLE_BYTES = 16_777_216, 262_144, 16_384


def read_lines(path: Path, earliest: float = 0.0, most_bytes: float = math.inf) -> Iterator[bytes]:
    """The recorded lines beside a ledger, in batches, oldest first.

    Args:
        path: the current file, `llm_calls.jsonl`. Files of earlier months are beside it.
        earliest: epoch seconds. Most older lines are not read, but some may be included.
        most_bytes: the most to read at the end of each file.
    """
    first = month_of(max(earliest, 0.0))
    earlier = (
        file
        for file in sorted(path.parent.glob(f"{path.stem}-????-??{path.suffix}"))
        if file.stem[-len(first) :] >= first
    )
    for name in (*earlier, path):
        try:
            with os.fdopen(open_ours(name, os.O_RDONLY), "rb") as file:
                file.seek(_start(file, earliest, most_bytes))
                while lines := file.read(_BLOCK_BYTES):
                    yield lines + file.readline()
        except FileNotFoundError:
            continue
        except NotOurs as error:
            warn_of_file(name, error, f"attempts in {name} are not shown: {error.strerror}")


def attempts_of(batches: Iterable[bytes]) -> Iterator[Attempt]:
    """The attempts in batches of lines.

    Other lines are skipped: those cut when a disk was full, and those of other programs.
    """
    for lines in batches:
        for record in records_of(lines):
            with suppress(TypeError, ValueError):
                yield Attempt.from_dict(record)


def _start(file: BinaryIO, earliest: float, most_bytes: float) -> int:
    """The position from which to read so that no attempt since `earliest` is missed.

    Lines are in the order in which requests ended. So an attempt can be older than the lines before
    it, but the last attempt of a request cannot. The age of a block is therefore that of its newest
    line.
    """
    size = file.seek(0, os.SEEK_END)
    lowest = int(max(0, size - most_bytes))
    start, step = size, _STEP_BYTES
    while start > lowest:
        start, step = max(lowest, start - step), 2 * step
        file.seek(start)
        if start:
            file.readline()
        here = file.tell()
        sample = file.read(_SAMPLE_BYTES) + file.readline()
        youngest = max((_at(record) for record in records_of(sample)), default=0)
        if youngest < earliest:
            return here
    if lowest:
        file.seek(lowest)
        file.readline()
        return file.tell()
    return 0


def records_of(lines: bytes) -> Iterator[dict[str, Any]]:
    """The attempts in these lines; other lines are skipped."""
    lines = lines.strip(b"\n")
    try:
        # Parsed together: a call per line would take longer than reading the file.
        records = json.loads(b"[%s]" % lines.replace(b"\n", b","))
    except (ValueError, RecursionError):
        records = map(_record, lines.split(b"\n"))
    return (record for record in records if isinstance(record, dict))


def _record(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _at(record: dict[str, Any]) -> float:
    at = record.get("at")
    return float(at) if isinstance(at, int | float) and 0 <= at <= NEVER else 0.0


def month_of(seconds: float) -> str:
    """`2026-11`, in UTC."""
    return f"{utc(seconds):%Y-%m}"


def check_record(path: Path) -> None:
    """Raise NotOurs if the file is not a record of attempts."""
    with suppress(FileNotFoundError), os.fdopen(open_ours(path, os.O_RDONLY), "rb") as file:
        if file.read(1) not in (b"", b"{"):
            raise NotOurs(path, "is not a record of attempts; move it away")


def put_aside(path: Path, month: str) -> None:
    """Rename the file of an earlier month, so that the current one stays small.

    If it cannot be renamed (on Windows, while a program has it open), it stays in use.
    """
    if _last_month(path, month) is None:
        return
    lock = KernelLock(f"{path}.lock")
    with suppress(OSError):
        # Under a lock, because other processes could write to the old file meanwhile.
        if not lock.acquire(_TURN_SECONDS):
            return
        try:
            # Another process may have renamed it and started the new one.
            written = _last_month(path, month)
            aside = path.with_name(f"{path.stem}-{written}{path.suffix}")
            if written and not os.path.lexists(aside):
                path.rename(aside)
        finally:
            lock.release()


def _last_month(path: Path, month: str) -> str | None:
    """The month when a file was last written, if it is before `month`."""
    try:
        written = month_of(path.stat().st_mtime)
    except FileNotFoundError:
        return None
    return written if written < month else None
