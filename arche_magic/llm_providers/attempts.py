"""The record of attempts: one line each in `outputs/llm_calls.jsonl`, and the session's in memory.

No prompt and no reply text is kept here. Every figure of `get_stats()` and of the attempts frame
derives from attempts, so they cannot disagree.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .forks import new_lock
from .reply import Attempt
from .storage import warn_of_folder
from .types import utc

if TYPE_CHECKING:
    from .routing import Decision

logger = logging.getLogger("arche_magic.attempts")

SESSION = os.urandom(4).hex()
_REMEMBERED = 10_000
_TAIL_BYTES = 2_000_000
_PASSED_OVER = ("skipped", "refused", "failed")


@dataclass(frozen=True)
class Ended:
    """A request that has come to its end, with a reply or without; `%llm_why` explains it."""

    attempts: tuple[Attempt, ...]
    decisions: tuple[Decision, ...]


class AttemptLog:
    """Attempts of this process, appended to a file as they end.

    Args:
        path: the file, or None to keep them in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._month = ""
        self.recent: deque[Attempt] = deque(maxlen=_REMEMBERED)
        self.last: Ended | None = None

    def append(self, attempts: Sequence[Attempt], decisions: Sequence[Decision] = ()) -> None:
        """Add the attempts of one request; a disk that refuses costs one warning, no call."""
        self.last = Ended(tuple(attempts), tuple(decisions))
        self.recent.extend(attempts)
        if self.path is None or not attempts:
            return
        lines = "".join(json.dumps(attempt.to_dict()) + "\n" for attempt in attempts)
        try:
            self._write(self.path, lines.encode(), attempts[-1].at)
        except OSError as error:
            path, self.path = self.path, None
            warn_of_folder(
                path.parent,
                f"attempts cannot be kept in {path} ({error.strerror or error}); "
                "this process keeps them in memory",
            )

    def since(self, earliest: float) -> list[Attempt]:
        """Attempts of all processes from `earliest` (epoch seconds) on, read from the file's end.

        Bounded work: at most the last two megabytes of the file are read.
        """
        if self.path is None:
            return [attempt for attempt in self.recent if attempt.at >= earliest]
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        return [attempt for attempt in _parse(text.splitlines()) if attempt.at >= earliest]

    def _write(self, path: Path, lines: bytes, now: float) -> None:
        month = month_of(now)
        if month != self._month:
            path.parent.mkdir(parents=True, exist_ok=True)
            _put_by(path, month)
            self._month = month
        # One write in append mode: lines of several kernels do not mix.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, lines)
        finally:
            os.close(descriptor)


def read_attempts(path: Path) -> Iterator[Attempt]:
    """All attempts kept beside a ledger, oldest file first; lines that are none are passed over.

    Args:
        path: the current file, `llm_calls.jsonl`; those of earlier months lie beside it.
    """
    earlier = sorted(path.parent.glob(f"{path.stem}-????-??{path.suffix}"))
    for file in (*earlier, path):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue
        yield from _parse(text.splitlines())


def _parse(lines: Iterable[str]) -> Iterator[Attempt]:
    """Attempts of lines; one that was cut when the disk was full, or is not ours, is left out."""
    names = {entry.name for entry in fields(Attempt)}
    for line in lines:
        try:
            entry = json.loads(line)
            attempt = Attempt(**{name: value for name, value in entry.items() if name in names})
        except (ValueError, TypeError, AttributeError):
            continue
        yield attempt


def month_of(seconds: float) -> str:
    """`2026-11`, in UTC."""
    return f"{utc(seconds):%Y-%m}"


def _put_by(path: Path, month: str) -> None:
    """Give last month's file its own name, so that the current one stays small."""
    try:
        written = month_of(path.stat().st_mtime)
    except FileNotFoundError:
        return
    aside = path.with_name(f"{path.stem}-{written}{path.suffix}")
    if written < month and not aside.exists():
        path.rename(aside)


class Tally:
    """Running counts of the requests of one provider object."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._served: Counter[str] = Counter()
        self._requests = self._fallbacks = self._errors = self._from_memory = 0
        self._last = ""

    def add(self, attempts: Sequence[Attempt]) -> None:
        """Count one ended request by its attempts."""
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
        """Count one kept reply: it has no attempts."""
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
    """The log beside the ledger of that store; in memory where the ledger is.

    For a ledger in Redis it is `outputs/llm_calls.jsonl` in the working directory.
    """
    with _lock:
        if store not in _logs:
            beside = Path("outputs", "ledger").absolute() if "://" in store else Path(store)
            in_memory = store.startswith("memory://")
            _logs[store] = AttemptLog(None if in_memory else beside.with_name("llm_calls.jsonl"))
        return _logs[store]
