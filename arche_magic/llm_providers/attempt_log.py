"""The record of attempts: a line each in `outputs/llm_calls.jsonl`, and this session's in memory.

Prompts and replies are not recorded. All figures of `get_stats()` and of the attempts frame are
computed from attempts, so they cannot disagree.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .folders import absolute
from .forks import new_lock
from .reply import Attempt
from .safe_files import NotOurs, open_ours
from .storage import warn_of_file
from .storage.kernel_lock import kernel_lock
from .types import utc

if TYPE_CHECKING:
    from .routing import Decision

logger = logging.getLogger("arche_magic.attempts")

# It starts with a letter, so that no program reads it as a number from an exported file.
SESSION = f"s{os.urandom(4).hex()}"
_REMEMBERED = 10_000
_TAIL_BYTES = 2_000_000
# How long a process waits while another one renames last month's file.
_TURN_SECONDS = 1.0
# Bytes read at once, bytes to go back by, and bytes read to find the age of lines.
_BLOCK_BYTES, _STEP_BYTES, _SAMPLE_BYTES = 16_777_216, 262_144, 16_384
_NOT_SPENT = ("skipped", "refused")
_PASSED_OVER = ("skipped", "refused", "failed")


_notebook = ""


def name_notebook(name: str) -> None:
    """Set the notebook of all later attempts, as a file name without a path."""
    global _notebook
    _notebook = name


def notebook() -> str:
    """The notebook that was set last, or ""."""
    return _notebook


@dataclass(frozen=True)
class Ended:
    """A request that has ended, with or without a reply, for `%llm_why`."""

    attempts: tuple[Attempt, ...]
    decisions: tuple[Decision, ...]


@dataclass(frozen=True)
class Spent:
    """What a route has used: requests that were sent and not refused, their tokens, and USD.

    `unpriced` counts the attempts whose price is unknown.
    """

    attempts: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0

    def plus(self, attempt: Attempt) -> Spent:
        """These sums plus one attempt."""
        return Spent(
            self.attempts + 1,
            self.requests + (attempt.outcome not in _NOT_SPENT),
            self.input_tokens + attempt.input_tokens,
            self.output_tokens + attempt.output_tokens,
            self.cost_usd + (attempt.cost_usd or 0.0),
            self.unpriced + (attempt.cost_usd is None),
        )

    def units(self, metric: str) -> int:
        """The number of `requests`, `tokens`, `input_tokens` or `output_tokens`."""
        if metric == "tokens":
            return self.input_tokens + self.output_tokens
        return int(getattr(self, metric))


class AttemptLog:
    """The attempts of this process, appended to a file when they end.

    Args:
        path: the file, or None to keep them in memory only.

    Attributes:
        began: when the first attempt of this process ended (epoch seconds); inf if there is none.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.last: Ended | None = None
        self.recent: deque[Attempt] = deque(maxlen=_REMEMBERED)
        self.began: float = math.inf
        self._spent: dict[tuple[str, str, str], Spent] = {}
        self._month = ""
        self._lock = new_lock()

    def append(self, attempts: Sequence[Attempt], decisions: Sequence[Decision] = ()) -> None:
        """Add the attempts of one request. If the disk refuses, there is one warning."""
        self.append_all([Ended(tuple(attempts), tuple(decisions))])

    def append_all(self, ended: Sequence[Ended]) -> None:
        """Add the attempts of several requests in one write."""
        attempts = [attempt for one in ended for attempt in one.attempts]
        with self._lock:
            self.last = ended[-1] if ended else self.last
            for attempt in attempts:
                self._count(attempt)
        # Read once, because another thread may set it to None.
        path = self.path
        if path is None or not attempts:
            return
        lines = "".join(json.dumps(attempt.to_dict()) + "\n" for attempt in attempts)
        try:
            self._write(path, lines.encode(), attempts[-1].at)
        except OSError as error:
            self.path = None
            warn_of_file(
                path,
                error,
                f"attempts cannot be kept in {path} ({error.strerror or error}); "
                "this process keeps them in memory",
            )

    def session(self) -> list[Attempt]:
        """The attempts of this process, oldest first.

        Ten thousand are held in memory. If there are more, all are read from the file.
        """
        with self._lock:
            recent = list(self.recent)
        path = self.path
        if path is None or not self.forgets():
            return recent
        try:
            kept = list(read_attempts(path, self.began))
        except OSError:
            return recent
        return [attempt for attempt in kept if attempt.session == SESSION]

    def forgets(self) -> bool:
        """Whether some attempts of this process are in the file only."""
        with self._lock:
            return sum(spent.attempts for spent in self._spent.values()) > len(self.recent)

    def spent(self) -> dict[tuple[str, str, str], Spent]:
        """What this process used, by provider, key and model."""
        with self._lock:
            return dict(self._spent)

    def since(self, earliest: float) -> list[Attempt]:
        """The attempts of all processes from `earliest` (epoch seconds) on.

        At most the last two megabytes of the file are read.
        """
        path = self.path
        with self._lock:
            kept = list(self.recent)
        if path is not None:
            with suppress(OSError):
                kept = list(_attempts(read_records(path, earliest, _TAIL_BYTES)))
        return [attempt for attempt in kept if attempt.at >= earliest]

    def _count(self, attempt: Attempt) -> None:
        self.recent.append(attempt)
        self.began = min(self.began, attempt.at)
        route = attempt.provider, attempt.key, attempt.model
        self._spent[route] = self._spent.get(route, Spent()).plus(attempt)

    def _write(self, path: Path, lines: bytes, now: float) -> None:
        month = month_of(now)
        if month != self._month:
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_record(path)
            _put_by(path, month)
            self._month = month
        append_lines(path, lines)


def append_lines(path: Path, lines: bytes) -> None:
    """Append lines to a record, which is created if it does not exist.

    Raises:
        OSError: it cannot be written.
    """
    # A single write in append mode does not mix with lines of other kernels.
    how = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    try:
        descriptor = open_ours(path, how)
    except FileNotFoundError:
        # The folder was deleted.
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_ours(path, how)
    try:
        if os.write(descriptor, lines) < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def read_records(
    path: Path, earliest: float = 0.0, most_bytes: float = math.inf
) -> Iterator[dict[str, Any]]:
    """The recorded attempts beside a ledger, oldest first; see `read_lines`.

    Other lines are skipped: those cut when a disk was full, and those of other programs.
    """
    for lines in read_lines(path, earliest, most_bytes):
        yield from records_of(lines)


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


def read_attempts(path: Path, earliest: float = 0.0) -> Iterator[Attempt]:
    """The recorded attempts, as `Attempt`s."""
    return _attempts(read_records(path, earliest))


def _start(file: BinaryIO, earliest: float, most_bytes: float) -> int:
    """Where to start reading so that no attempt from `earliest` on is missed.

    Lines are in the order in which requests ended. So an attempt can be older than the lines before
    it, but the last attempt of a request cannot: the age of a block is that of its newest line.
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
    except ValueError:
        records = map(_record, lines.split(b"\n"))
    return (record for record in records if isinstance(record, dict))


def _record(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _at(record: dict[str, Any]) -> float:
    at = record.get("at")
    return float(at) if isinstance(at, int | float) else 0.0


def _attempts(records: Iterable[dict[str, Any]]) -> Iterator[Attempt]:
    for record in records:
        with suppress(TypeError, ValueError):
            yield Attempt.from_dict(record)


def month_of(seconds: float) -> str:
    """`2026-11`, in UTC."""
    return f"{utc(seconds):%Y-%m}"


def _check_record(path: Path) -> None:
    """Raise NotOurs if the file is not a record of attempts."""
    with suppress(FileNotFoundError), os.fdopen(open_ours(path, os.O_RDONLY), "rb") as file:
        if file.read(1) not in (b"", b"{"):
            raise NotOurs(path, "is not a record of attempts; move it away")


def _put_by(path: Path, month: str) -> None:
    """Rename the file of an earlier month, so that the current one stays small.

    If it cannot be renamed (on Windows, while a program has it open), it is used further.
    """
    if _last_month(path, month) is None:
        return
    lock = kernel_lock(f"{path}.lock")
    with suppress(OSError):
        # Under a lock, because other processes would write into the old file meanwhile.
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


class Tally:
    """Counts of the requests of one provider object."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._served: Counter[str] = Counter()
        self._requests = self._fallbacks = self._errors = self._from_memory = 0
        self._last = ""

    def add(self, attempts: Sequence[Attempt]) -> None:
        """Count one request that has ended, from its attempts."""
        served = next((a for a in attempts if a.outcome == "served"), None)
        interrupted = any(a.outcome == "interrupted" for a in attempts)
        with self._lock:
            self._requests += 1
            if served:
                self._last = served.provider
                self._served[served.provider] += 1
                self._fallbacks += any(a.outcome in _PASSED_OVER for a in attempts)
            elif not interrupted:
                self._errors += 1

    def add_from_memory(self) -> None:
        """Count one kept reply, which has no attempts."""
        with self._lock:
            self._from_memory += 1

    def stats(self) -> dict[str, Any]:
        """`total_calls`, `provider_calls`, `fallbacks`, `errors`, `from_memory` and
        `current_provider`.
        """
        with self._lock:
            return {
                "total_calls": self._requests,
                "provider_calls": dict(self._served),
                "fallbacks": self._fallbacks,
                "errors": self._errors,
                "from_memory": self._from_memory,
                "current_provider": self._last or None,
            }


_logs: dict[str, AttemptLog] = {}
_lock = new_lock()


def attempt_log(store: str) -> AttemptLog:
    """The log beside the ledger of that store, or in memory if the ledger is in memory.

    For a ledger in Redis, it is `outputs/llm_calls.jsonl` in the working directory.
    """
    with _lock:
        if store not in _logs:
            beside = absolute(Path("outputs", "ledger")) if "://" in store else Path(store)
            in_memory = store.startswith("memory://")
            _logs[store] = AttemptLog(None if in_memory else beside.with_name("llm_calls.jsonl"))
        return _logs[store]
