"""How many rows the routes take until when: arithmetic on the ledger's view of their limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from arche_magic.llm_providers.quota.forecast import prompts_that_fit
from arche_magic.llm_providers.types import Metric, Standing

# What is not done in a year is not worth a date.
HORIZON_SECONDS = 366 * 86_400.0


@dataclass(frozen=True)
class Capacity:
    """One account's model: its keys share every limit, so together they are one way to get answers.

    Attributes:
        name: the route as it is shown, such as `groq · key 1 · gpt-oss-120b`.
        standings: its limits as the ledger has them now; those of each key that shares them.
        need: units per metric (`requests`, `tokens`, …) that one request takes.
        pack: rows that travel in one request.
        opens_at: epoch seconds; when it takes a request, apart from its limits; inf: never.
        paid: whether its provider is paid.
        cost: USD of one request; None where the price is not known.
        model: the model's name.
    """

    name: str
    standings: tuple[Standing, ...]
    need: Mapping[Metric, float]
    pack: int = 1
    opens_at: float = 0.0
    paid: bool = False
    cost: float | None = 0.0
    model: str = ""

    def requests_until(self, now: float, until: float) -> float:
        """How many requests its limits let through up to then; inf without any limit."""
        if self.opens_at > until:
            return 0.0
        rows = [row for row in self.standings if self.need.get(row.metric, 0.0) > 0]
        return float(prompts_that_fit(rows, self.need, now, until)) if rows else math.inf

    def binding(self, now: float, until: float) -> Standing | None:
        """The limit that lets through least up to then; None without any."""
        rows = [row for row in self.standings if self.need.get(row.metric, 0.0) > 0]
        return min(
            rows, key=lambda row: prompts_that_fit([row], self.need, now, until), default=None
        )


@dataclass(frozen=True)
class Speed:
    """What threads and the network allow, whatever the limits.

    Attributes:
        seconds: how long a request for one row takes.
        threads: how many such requests are under way at once in the beginning, everywhere
            together.
        threads_packing: how many are where rows are packed.
        most_threads: up to how many there are of each, as every reply brings one thread more.
        seconds_per_row: how much longer a packed request takes for each of its rows.
    """

    seconds: float
    threads: int
    threads_packing: int
    most_threads: int
    seconds_per_row: float = 0.0

    def requests_until(self, capacity: Capacity, now: float, until: float) -> float:
        """How many requests can come back from it up to then, with all the threads it may have."""
        seconds, threads = self.seconds, self.threads
        if capacity.pack > 1:
            seconds, threads = seconds + capacity.pack * self.seconds_per_row, self.threads_packing
        rounds = max(0.0, until - now) / seconds
        if self.most_threads <= threads:
            return threads * rounds
        # Twice as many in each round, until they are all there.
        growing = min(rounds, math.log2(self.most_threads / threads))
        return threads * (2**growing - 1) + self.most_threads * (rounds - growing)


@dataclass(frozen=True)
class Share:
    """What one of them does of a job.

    Attributes:
        capacity: who.
        rows: how many rows it answers.
        requests: how many requests that takes.
        bound_by: the limit that holds it back; None if the job ends before one does.
    """

    capacity: Capacity
    rows: int
    requests: int
    bound_by: Standing | None

    @property
    def cost(self) -> float | None:
        """USD; None where the price is not known."""
        return self.capacity.cost * self.requests if self.capacity.cost is not None else None


def with_reserve(standings: Sequence[Standing], reserve: float) -> tuple[Standing, ...]:
    """The limits as a job sees them that always leaves `reserve` of each (0 to 1) to others."""
    return tuple(
        replace(row, used=row.used + reserve * row.amount)
        # A bucket flows as fast as ever, it is only never emptied.
        if row.window == "bucket"
        else replace(row, amount=(1 - reserve) * row.amount)
        for row in standings
    )


def rows_until(capacities: Sequence[Capacity], speed: Speed, now: float, until: float) -> int:
    """How many rows are answered up to then."""
    return math.floor(sum(_rows(capacities, speed, now, until)) + 1e-9)


def _rows(capacities: Sequence[Capacity], speed: Speed, now: float, until: float) -> list[float]:
    """The same, one by one."""
    rows = []
    threads_taken = 0.0
    for capacity in capacities:
        fits, most = capacity.requests_until(now, until), speed.requests_until(capacity, now, until)
        rows.append(min(fits, most) * capacity.pack)
        threads_taken += rows[-1] / most if capacity.pack == 1 and most else 0.0
    # Those that do not pack share their threads.
    part = 1 / max(1.0, threads_taken)
    return [
        r * part if capacity.pack == 1 else r for r, capacity in zip(rows, capacities, strict=True)
    ]


def finish_at(capacities: Sequence[Capacity], speed: Speed, rows: int, now: float) -> float:
    """When that many rows are answered (epoch seconds); inf if they are not within a year."""
    if rows <= 0:
        return now
    if rows_until(capacities, speed, now, now + HORIZON_SECONDS) < rows:
        return math.inf
    late = 1.0
    while rows_until(capacities, speed, now, now + late) < rows:
        late *= 2
    early = late / 2 if late > 1 else 0.0
    while late - early > max(0.05, late / 1000):
        middle = (early + late) / 2
        if rows_until(capacities, speed, now, now + middle) < rows:
            early = middle
        else:
            late = middle
    return now + late


def shares(
    capacities: Sequence[Capacity], speed: Speed, rows: int, now: float, until: float
) -> tuple[Share, ...]:
    """Who answers how many of the rows, if all of them take part up to then."""
    fits = _rows(capacities, speed, now, until)
    whole, left = sum(fits), rows
    found = []
    for capacity, fit in sorted(zip(capacities, fits, strict=True), key=lambda pair: -pair[1]):
        # Rounded up, so that the last ones make up for it.
        part = min(left, math.ceil(rows * fit / whole - 1e-9)) if whole else 0
        left -= part
        # Where all it is let through is asked, it is held back by a limit.
        held = fit > 0 and fit >= capacity.requests_until(now, until) * capacity.pack - 1e-6
        bound = capacity.binding(now, until) if held else None
        found.append(Share(capacity, part, math.ceil(part / capacity.pack), bound))
    return tuple(found)
