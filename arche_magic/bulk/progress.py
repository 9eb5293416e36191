"""A finished row, the progress of a job, and the bounds at which it stops."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError
from arche_magic.llm_providers.reply import Attempt, Reply, Waiting
from arche_magic.llm_providers.types import Usage

_PACE_SECONDS = 60.0
SPENT = (
    "requests", "tokens", "cost_usd", "packed", "checked", "agreed", "not_compared", "discarded",
)  # fmt: skip
"""The figures of a job's progress that its parts add up to."""


class JobStopped(LLMProviderError):
    """A job ended before its last row: at one of its bounds, or because every row was refused.

    Attributes:
        frame: the finished rows, if the job returns a frame. They are also on disk: the same call
            continues from there.
        at_bound: whether it stopped at `max_cost` or `max_tokens_total`.
    """

    frame: Any = None
    at_bound: bool = False


@dataclass(frozen=True)
class Row:
    """One finished row.

    Attributes:
        position: its number in the data, from 0.
        label: its label in the index.
        prompt: the prompt without images; "" if it could not be made.
        reply: the reply, or None.
        error: why there is no reply, or None.
        resumed: whether it needed no request in this run: its reply was kept, or another row is
            equal.
        tokens: the tokens it used, now or when its reply was kept.
        cost_usd: its cost in USD, now or then; None if a price is unknown.
        request: the id of its attempts in the record; "" if nothing was sent for it.
        raw: the text of a reply that does not fit the schema, or None.
        second: the answer of another model, if the row was asked twice; the row then comes again.
    """

    position: int
    label: Hashable
    prompt: str
    reply: Reply | None = None
    error: str | None = None
    resumed: bool = False
    tokens: int = 0
    cost_usd: float | None = None
    request: str = ""
    raw: str | None = None
    second: Reply | None = None


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
        finish_at: the estimated finish time, from its limits and the replies so far (aware, UTC);
            None if not within a year, or if no row is left to ask.
        cost_usd: the cost of this run, as far as prices are known.
        tokens: the tokens used in this run.
        packed: rows that were answered together with others in one request.
        checked: packed rows that were asked alone too, and compared.
        agreed: checked rows with the same answer.
        not_compared: packed rows that were asked alone too, but could not be compared.
        discarded: packed replies that were discarded and asked for again.
        requests: number of requests sent.
        twice: rows that another model answered too.
        to_ask_twice: rows that another model is to answer too.
        routes: how many replies came from each route, by its name.
        noun: what is counted: `row`, or `text` for `embed`.
    """

    done: int
    total: int
    resumed: int
    errors: int
    rows_per_second: float
    waiting: Waiting | None
    finish_at: datetime | None
    cost_usd: float
    tokens: int
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


def at_most(name: str, value: Any, least: float = 0) -> float:
    """A bound as a number; None is inf.

    Raises:
        InvalidRequest: it is not a number, or less than `least`.
    """
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise InvalidRequest(f"{name} is {value!r}; it must be a number, {least:g} or more")
    return float(value)


class Counts:
    """Counts finished rows and their usage.

    Args:
        total: all rows.
        now: the clock, in epoch seconds.
        noun: what is counted, as in `Progress`.
    """

    def __init__(self, total: int, now: Callable[[], float], noun: str = "row") -> None:
        self.total = total
        self._now, self._noun = now, noun
        self._lock = threading.Lock()
        self._seen = bytearray(total)
        self._pace: deque[tuple[float, int]] = deque()
        self._waiting: tuple[Waiting, float] | None = None
        self.done = self.resumed = self.errors = 0
        self.asked = self.served = self.failed = 0
        self.tokens, self.input_tokens, self.output_tokens, self.cost = 0, 0, 0, 0.0
        self._seconds = 0.0
        self.packed = self.checked = self.agreed = self.not_compared = self.discarded = 0
        self.requests = 0
        self.routes: Counter[str] = Counter()

    def add(self, rows: Iterable[Row]) -> None:
        """Count finished rows; `spend` counts their usage."""
        with self._lock:
            before = self.done
            for row in rows:
                self.done += 1
                self.resumed += row.resumed
                self.errors += row.error is not None
                self._seen[row.position] = 1
                before += row.resumed
            if self.done > before:
                self._forget_older(now := self._now())
                self._pace.append((now, self.done - before))

    def take_back(self, positions: Iterable[int]) -> None:
        """Count finished rows as unfinished again."""
        with self._lock:
            for position in positions:
                self.done -= self._seen[position]
                self._seen[position] = 0

    def is_finished(self, position: int) -> bool:
        """Whether a row was counted as finished."""
        return bool(self._seen[position])

    def missing(self, start: int, stop: int) -> list[int]:
        """Positions of rows that are not finished."""
        return [position for position in range(start, stop) if not self._seen[position]]

    def spend(self, attempts: Iterable[Attempt]) -> None:
        """Count the usage of a request in all its attempts."""
        with self._lock:
            for attempt in attempts:
                self.tokens += attempt.input_tokens + attempt.output_tokens
                self.cost += attempt.cost_usd or 0.0
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

    def mean_input(self) -> float | None:
        """Input tokens of a prompt that was answered; None before the first."""
        return self.input_tokens / self.served if self.served else None

    def mean_seconds(self) -> float | None:
        """Seconds that a request took once it was sent; None before the first reply."""
        replies = self.routes.total()
        return self._seconds / replies if replies else None

    def wait(self, waiting: Waiting) -> None:
        """Note the route that the job waits for."""
        self._waiting = waiting, self._now() + waiting.seconds

    def _forget_older(self, now: float) -> None:
        while self._pace and self._pace[0][0] < now - _PACE_SECONDS:
            self._pace.popleft()

    def progress(self) -> Progress:
        """Return the progress, without `finish_at`."""
        now = self._now()
        with self._lock:
            waiting = None
            if self._waiting and self._waiting[1] > now:
                waiting = Waiting(self._waiting[0].route, self._waiting[1] - now)
            self._forget_older(now)
            pace = 0.0
            if len(self._pace) > 1:
                seconds = max(now - self._pace[0][0], 1e-3)
                pace = sum(count for _, count in self._pace) / seconds
            return Progress(
                done=self.done,
                total=self.total,
                resumed=self.resumed,
                errors=self.errors,
                rows_per_second=pace,
                waiting=waiting if self.done < self.total else None,
                finish_at=None,
                cost_usd=self.cost,
                tokens=self.tokens,
                packed=self.packed,
                checked=self.checked,
                agreed=self.agreed,
                not_compared=self.not_compared,
                discarded=self.discarded,
                requests=self.requests,
                routes=dict(self.routes),
                noun=self._noun,
            )
