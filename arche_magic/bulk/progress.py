"""The progress of a job: what is finished and spent, as figures, in words, and in one line."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Self

from arche_magic.llm_providers.events import Waiting
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.text.wording import plural
from arche_magic.llm_providers.types import Usage, in_seconds

from .rows import Row

_PACE_SECONDS = 60.0
_SIGNS = 28
_SECONDS = 0.5
# Shorter waits are not shown.
_WORTH_SAYING_SECONDS = 1.0
# Workers that wait say so several times a second. After this time without a word, none waits.
_WAIT_IS_OVER_SECONDS = 2.0
SPENT = (
    "requests", "tokens", "cost_usd", "packed", "checked", "agreed", "not_compared", "discarded",
)  # fmt: skip
"""The figures of a job's progress that are sums over its parts."""


@dataclass(frozen=True)
class Progress:
    """The state of a job at one moment.

    Attributes:
        done: finished rows, including failed ones.
        total: all rows.
        resumed: finished rows that needed no request in this run.
        errors: finished rows without a reply.
        rows_per_second: the pace of asked rows in the last minute.
        waiting: the route that the job waits for, with the seconds until it opens, or None.
        finish_at: the estimated finish time, from the limits and the replies so far (aware, UTC);
            None if it is more than a year away, or if no row is left to ask.
        cost_usd: the cost of this run, as far as prices are known.
        tokens: the tokens used in this run.
        packed: rows that were answered together with others in one request.
        checked: packed rows that were asked alone too, and compared.
        agreed: checked rows with the same answer.
        not_compared: packed rows that were asked alone too, but could not be compared.
        discarded: packed replies that were discarded and asked for again.
        requests: number of requests sent.
        twice: the number of rows that a second model has answered too.
        to_ask_twice: the number of rows that a second model is to answer too.
        routes: how many replies came from each route, by its name.
        noun: what is counted: `row`, or `text` for `embed`.
    """

    done: int
    total: int
    resumed: int = 0
    errors: int = 0
    rows_per_second: float = 0.0
    waiting: Waiting | None = None
    finish_at: datetime | None = None
    cost_usd: float = 0.0
    tokens: int = 0
    packed: int = 0
    checked: int = 0
    agreed: int = 0
    not_compared: int = 0
    discarded: int = 0
    requests: int = 0
    twice: int = 0
    to_ask_twice: int = 0
    routes: Mapping[str, int] = field(default_factory=dict)
    noun: str = "row"

    def spending_also(self, part: Progress) -> Progress:
        """This progress plus the usage and the routes of another part of the job."""
        sums = {name: getattr(self, name) + getattr(part, name) for name in SPENT}
        return replace(self, **sums, routes=dict(Counter(self.routes) + Counter(part.routes)))


# The state of a row is a sum of these flags. A row is finished when its reply is on disk, and done
# when the caller has it.
_OPEN, FINISHED, _RESUMED, FAILED, _DONE = 0, 1, 2, 4, 8


class Counts:
    """Counts rows and their usage; see `Progress`.

    Attributes:
        served, failed: the numbers of prompts that were answered, and that failed, in this run.
        input_tokens, output_tokens: of the prompts that were answered.
    """

    def __init__(self, total: int, now: Callable[[], float], noun: str = "row") -> None:
        self.total = total
        self._now, self._noun = now, noun
        self._lock = threading.Lock()
        # The state of each row, by position, and the number of rows in each state.
        self._states = bytearray(total)
        self._numbers = [total] + [0] * (FINISHED + _RESUMED + FAILED + _DONE)
        self._pace: deque[tuple[float, int]] = deque()
        # With when it opens, and when it was noted on the monotonic clock.
        self._waiting: tuple[Waiting, float, float] | None = None
        self._asked_again: set[int] = set()
        self.served = self.failed = 0
        self.requests, self.tokens, self.cost_usd = 0, 0, 0.0
        self.input_tokens = self.output_tokens = 0
        self._seconds = 0.0
        self.packed = self.checked = self.agreed = self.not_compared = self.discarded = 0
        self.routes: Counter[str] = Counter()

    @property
    def left(self) -> int:
        """Rows that are not finished."""
        return self._numbers[_OPEN]

    @property
    def asked_again(self) -> frozenset[int]:
        """Rows whose replies were discarded, and that were not handed out again."""
        with self._lock:
            return frozenset(self._asked_again)

    def finish(self, rows: Iterable[Row]) -> None:
        """Note rows that are on disk or have failed; `spend` counts their usage."""
        asked = 0
        with self._lock:
            for row in rows:
                failed = row.error is not None
                self._set(row.position, FINISHED + _RESUMED * row.resumed + FAILED * failed)
                asked += not row.resumed
            if asked:
                self._forget_older(now := self._now())
                self._pace.append((now, asked))

    def note_taken(self, row: Row) -> None:
        """Count a finished row that the caller gets, unless it is asked again meanwhile."""
        with self._lock:
            if state := self._states[row.position]:
                self._set(row.position, state | _DONE)
                self._asked_again.discard(row.position)

    def ask_again(self, positions: Iterable[int]) -> None:
        """Count finished rows as unfinished again."""
        with self._lock:
            for position in positions:
                self._set(position, _OPEN)
                self._asked_again.add(position)

    def _set(self, position: int, state: int) -> None:
        self._numbers[self._states[position]] -= 1
        self._numbers[state] += 1
        self._states[position] = state

    def number(self, state: int) -> int:
        """The number of rows that have this flag."""
        return sum(rows for one, rows in enumerate(self._numbers) if one & state == state)

    def is_finished(self, position: int) -> bool:
        """Whether a row is finished."""
        return self._states[position] != _OPEN

    def spend(self, attempts: Iterable[Attempt]) -> None:
        """Count the usage of a request in all its attempts."""
        with self._lock:
            for attempt in attempts:
                self.tokens += attempt.input_tokens + attempt.output_tokens
                self.cost_usd += attempt.cost_usd or 0.0
                self.requests += attempt.outcome != "skipped"
                if attempt.outcome == "served":
                    self.routes[str(attempt.route)] += 1
                    self._seconds += attempt.seconds

    def note_reply(self, usage: Usage) -> None:
        """Count a prompt that was answered."""
        with self._lock:
            self.served += 1
            self.input_tokens += usage.input_tokens
            self.output_tokens += usage.output_tokens

    def mean_seconds(self) -> float | None:
        """Mean seconds of a request after it was sent; None before the first reply."""
        replies = self.routes.total()
        return self._seconds / replies if replies else None

    def note_wait(self, waiting: Waiting) -> None:
        """Note the route that the job waits for; if workers wait for several, the first to open."""
        shown = self._wait_now()
        if shown is None or shown.route == waiting.route or waiting.seconds < shown.seconds:
            self._waiting = waiting, self._now() + waiting.seconds, time.monotonic()

    def _wait_now(self) -> Waiting | None:
        if self._waiting is None:
            return None
        waiting, opens_at, noted_at = self._waiting
        seconds = opens_at - self._now()
        is_over = seconds <= 0 or time.monotonic() > noted_at + _WAIT_IS_OVER_SECONDS
        return None if is_over else replace(waiting, seconds=seconds, why="")

    def _forget_older(self, now: float) -> None:
        while self._pace and self._pace[0][0] < now - _PACE_SECONDS:
            self._pace.popleft()

    def progress(self) -> Progress:
        """Return the progress, without `finish_at`."""
        now = self._now()
        with self._lock:
            self._forget_older(now)
            pace = 0.0
            if len(self._pace) > 1:
                seconds = max(now - self._pace[0][0], 1e-3)
                pace = sum(count for _, count in self._pace) / seconds
            done = self.number(_DONE)
            return Progress(
                done=done,
                total=self.total,
                resumed=self.number(_DONE | _RESUMED),
                errors=self.number(_DONE | FAILED),
                rows_per_second=pace,
                waiting=self._wait_now() if done < self.total else None,
                routes=dict(self.routes),
                noun=self._noun,
                **{name: getattr(self, name) for name in SPENT},
            )


class LineBar:
    """Shows a job's progress in one line on stderr while its `with` block runs.

    `now` is the clock, in epoch seconds.
    """

    def __init__(self, progress: Callable[[], Progress], now: Callable[[], float]) -> None:
        self._progress, self._now = progress, now
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arche-bar", daemon=True)
        self._width = 0

    def __enter__(self) -> Self:
        try:
            self._thread.start()
        except BaseException:  # an interrupt: the thread may run already, and would never end
            self._ended.set()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._draw(end="\n")

    def _run(self) -> None:
        while not self._ended.wait(_SECONDS):
            self._draw()

    def _draw(self, end: str = "") -> None:
        text = without_controls(line(self._progress(), self._now()))
        # stderr may be missing, closed, or unable to encode the bar. The job continues without the
        # bar.
        with suppress(AttributeError, OSError, ValueError):
            if sys.stderr.isatty():
                # A longer line would wrap, and its first part would stay.
                text = text[: max(20, shutil.get_terminal_size().columns - 1)]
            sys.stderr.write("\r" + text.ljust(self._width) + end)
            sys.stderr.flush()
            self._width = len(text)


def line(progress: Progress, now: float) -> str:
    """The whole line; `now` in epoch seconds."""
    parts = [count(progress), text_bar(progress), pace(progress, now), waiting(progress)]
    return "  ".join(filter(None, parts))


def count(progress: Progress) -> str:
    """`38 of 1,000 rows`."""
    return f"{progress.done:,} of {plural(progress.total, progress.noun)}"


def text_bar(progress: Progress) -> str:
    """A bar of block characters."""
    filled = int(_SIGNS * progress.done / progress.total) if progress.total else _SIGNS
    return "█" * filled + "░" * (_SIGNS - filled)


def pace(progress: Progress, now: float) -> str:
    """Rows per second, the finish time, and the numbers of rows from memory and with errors."""
    parts = []
    if progress.rows_per_second:
        parts.append(rate(progress.rows_per_second, progress.noun))
    if progress.finish_at is not None and progress.done < progress.total:
        parts.append(_end(progress.finish_at.timestamp(), now))
    if progress.resumed:
        parts.append(f"{progress.resumed:,} from memory")
    if progress.errors:
        parts.append(plural(progress.errors, "error"))
    if progress.done == progress.total and progress.twice < progress.to_ask_twice:
        again = f"{progress.twice:,} of {plural(progress.to_ask_twice, 'row')}"
        parts.append(f"asking again: {again}")
    return " · ".join(parts) or ("" if progress.done == progress.total else "starting")


def rate(per_second: float, noun: str) -> str:
    """`3.2 rows/s`, `38 rows/min` or `12 rows/h`, whichever is easy to read."""
    number, unit = per_second, "s"
    for unit, factor in (("s", 1), ("min", 60), ("h", 3600)):  # noqa: B007  # the last one stays
        number = per_second * factor
        if number >= 1:
            break
    return f"{number:,.{1 if number < 10 else 0}f} {noun}s/{unit}"


def waiting(progress: Progress) -> str:
    """The route that the job waits for, and how long; "" without one."""
    wait = progress.waiting
    if wait is None or wait.seconds < _WORTH_SAYING_SECONDS:
        return ""
    return f"waiting: {wait.route} opens {in_seconds(wait.seconds)}"


def local_time(moment: float, now: float) -> str:
    """The local time, with the day if it is not today: `14:32`, `Tue 08:10`, `3 Dec 08:10`."""
    local = datetime.fromtimestamp(moment).astimezone()
    days = (local.date() - datetime.fromtimestamp(now).astimezone().date()).days
    if not days:
        return f"{local:%H:%M}"
    return f"{local:%a %H:%M}" if 0 < days < 7 else f"{local.day} {local:%b %H:%M}"


def _end(moment: float, now: float) -> str:
    if moment - now < 100:
        return f"done {in_seconds(max(1.0, moment - now))}"
    return f"done about {local_time(moment, now)}"
