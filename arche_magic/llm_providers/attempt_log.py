"""The record of attempts: a line each in `outputs/llm_calls.jsonl`, and this session's in memory.

Prompts and replies are not recorded. All figures of `get_stats()` and of the attempts frame are
computed from attempts, so they cannot disagree.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .attempt_file import (
    attempts_of,
    check_record,
    month_of,
    put_aside,
    read_lines,
)
from .attempt_file import records_of as records_of
from .files import CutShort, absolute, append_lines
from .processes import new_lock, reset_in_children
from .reply import NOT_SPENT, Attempt
from .storage import warn_of_file, works_again
from .types import RouteId

if TYPE_CHECKING:
    from .routing import Decision

# It starts with a letter, so that no program reads it as a number from an exported file.
SESSION = f"s{os.urandom(4).hex()}"
_REMEMBERED = 10_000
_TAIL_BYTES = 2_000_000


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
    """The usage of a route: requests that were sent and not refused, their tokens, and USD.

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
            self.requests + (attempt.outcome not in NOT_SPENT),
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
        self._spent: dict[RouteId, Spent] = {}
        # Lines that could not be written; the next attempt tries it again.
        self._unwritten: deque[bytes] = deque(maxlen=_REMEMBERED)
        # The last day on which the file was checked, in days since the epoch.
        self._day = -1.0
        self._lock = new_lock()
        reset_in_children(self)

    def begin_child(self) -> None:
        """Leave the lines that could not be written to the parent process."""
        self._unwritten.clear()

    def append(self, attempts: Sequence[Attempt], decisions: Sequence[Decision] = ()) -> None:
        """Add the attempts of one request. If they cannot be written, there is one warning."""
        self.append_all([Ended(tuple(attempts), tuple(decisions))])

    def append_all(self, ended: Sequence[Ended]) -> None:
        """Add the attempts of several requests in one write."""
        attempts = [attempt for one in ended for attempt in one.attempts]
        with self._lock:
            self.last = ended[-1] if ended else self.last
            for attempt in attempts:
                self._count(attempt)
        path = self.path
        if path is None or not attempts:
            return
        lines = [json.dumps(attempt.to_dict()).encode() + b"\n" for attempt in attempts]
        waiting: list[bytes] = []
        if self._unwritten:
            with self._lock:
                waiting = list(self._unwritten)
                self._unwritten.clear()
            lines = waiting + lines
        try:
            self._write(path, b"".join(lines), attempts[-1].at)
        except OSError as error:
            left = _left(lines, error.written) if isinstance(error, CutShort) else lines
            with self._lock:
                self._unwritten.extend(left)
            if not waiting:
                warn_of_file(
                    path,
                    error,
                    f"attempts cannot be written to {path} ({error.strerror or error}); the last "
                    f"{_REMEMBERED:,} are kept in memory until it can be written again",
                )
            return
        if waiting:
            works_again(path)

    def session(self) -> list[Attempt]:
        """The attempts of this process, oldest first.

        Ten thousand are held in memory. If there are more, all are read from the file.
        """
        with self._lock:
            recent = list(self.recent)
        if self.path is None or not self.forgets():
            return recent
        try:
            kept = list(attempts_of(self.lines(self.began)))
        except OSError:
            return recent
        return [attempt for attempt in kept if attempt.session == SESSION]

    def lines(self, earliest: float, most_bytes: float = math.inf) -> Iterator[bytes]:
        """The lines of the file, see `read_lines`, and those that could not be written.

        Raises:
            OSError: the file cannot be read, and nothing waits to be written.
        """
        with self._lock:
            waiting = b"".join(self._unwritten)
        try:
            if self.path is not None:
                yield from read_lines(self.path, earliest, most_bytes)
        except OSError:
            if not waiting:
                raise
        if waiting:
            yield waiting

    def forgets(self) -> bool:
        """Whether some attempts of this process are in the file only."""
        with self._lock:
            return sum(spent.attempts for spent in self._spent.values()) > len(self.recent)

    def spent(self) -> dict[RouteId, Spent]:
        """The usage of this process, by route."""
        with self._lock:
            return dict(self._spent)

    def since(self, earliest: float) -> list[Attempt]:
        """The attempts of all processes from `earliest` (epoch seconds) on.

        At most the last two megabytes of the file are read.
        """
        with self._lock:
            kept = list(self.recent)
        if self.path is not None:
            with suppress(OSError):
                kept = list(attempts_of(self.lines(earliest, _TAIL_BYTES)))
        return [attempt for attempt in kept if attempt.at >= earliest]

    def _count(self, attempt: Attempt) -> None:
        self.recent.append(attempt)
        self.began = min(self.began, attempt.at)
        route = attempt.route
        self._spent[route] = self._spent.get(route, Spent()).plus(attempt)

    def _write(self, path: Path, lines: bytes, now: float) -> None:
        day = now // 86_400
        if day != self._day:
            path.parent.mkdir(parents=True, exist_ok=True)
            check_record(path)
            put_aside(path, month_of(now))
            self._day = day
        append_lines(path, lines)


def _left(lines: list[bytes], written: int) -> list[bytes]:
    """The lines that are not in a file to which only that many bytes of them were appended."""
    left = list(lines)
    while left and written >= len(left[0]):
        written -= len(left.pop(0))
    if written and left:
        # The part that is there must not become the beginning of another line.
        left[0] = b"\n" + left[0].lstrip(b"\n")
    return left


class Tally:
    """Counts of the requests of one provider object."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._served: Counter[str] = Counter()
        self._requests = self._fallbacks = self._errors = self._from_memory = 0
        self._last = ""

    def add(self, attempts: Sequence[Attempt]) -> None:
        """Count one request that has ended, from its attempts."""
        outcomes = {attempt.outcome: attempt for attempt in attempts}
        with self._lock:
            self._requests += 1
            if served := outcomes.get("served"):
                self._last = served.provider
                self._served[served.provider] += 1
                # Other routes were skipped, or refused it, or failed.
                self._fallbacks += len(outcomes) > 1
            elif "interrupted" not in outcomes:
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
    # A relative path means the same ledger only while the working directory stays the same.
    name = store if "://" in store else str(absolute(Path(store)))
    with _lock:
        if name not in _logs:
            beside = absolute(Path("outputs", "ledger")) if "://" in store else Path(name)
            in_memory = store.startswith("memory://")
            _logs[name] = AttemptLog(None if in_memory else beside.with_name("llm_calls.jsonl"))
        return _logs[name]
