"""How many rows the routes can answer by when, computed from their limits in the ledger."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from arche_magic.llm_providers.quota.forecast import prompts_that_fit
from arche_magic.llm_providers.types import Metric, Standing

from .bounds import costs_extra
from .growth import MOST_THREADS, PACKING_THREADS, THREADS

# A job that takes longer than a year has no finish time.
HORIZON_SECONDS = 366 * 86_400.0
SECONDS_GUESS = 1.5
"""Seconds of a request before any was sent."""
_SHORT_PERIODS = ("second", "minute", "hour")


@dataclass(frozen=True)
class Capacity:
    """One model of one account. Its keys share every limit, so together they count as one route.

    Attributes:
        name: the route as displayed, such as `groq · key 1 · gpt-oss-120b`.
        standings: its current limits, for each key that shares them.
        need: units per metric (`requests`, `tokens`, …) that one request takes.
        pack: rows in one request.
        opens_at: when it opens (epoch seconds), if its limits do not say; inf means never.
        paid: whether its provider is paid.
        cost: USD of one request; None where the price is not known.
        provider, model: the provider and the model.
    """

    name: str
    standings: tuple[Standing, ...]
    need: Mapping[Metric, float]
    pack: int = 1
    opens_at: float = 0.0
    paid: bool = False
    cost: float | None = 0.0
    provider: str = ""
    model: str = ""

    @property
    def pace_is_known(self) -> bool:
        """Whether a limit per hour or shorter is known; only those say how fast it can be asked."""
        return any(row.period in _SHORT_PERIODS for row in self.standings)

    def requests_until(self, now: float, until: float) -> float:
        """The number of requests that its limits allow until then; inf without limits."""
        now = max(now, self.opens_at)
        if now > until:
            return 0.0
        rows = [row for row in self.standings if self.need.get(row.metric, 0.0) > 0]
        return float(prompts_that_fit(rows, self.need, now, until)) if rows else math.inf

    def binding(self, now: float, until: float) -> Standing | None:
        """The limit that allows the fewest requests until then; None without limits."""
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
        most_threads: how many there are at most; their number doubles with each reply.
        seconds_per_row: how much longer a packed request takes for each of its rows.
    """

    seconds: float
    threads: int = THREADS
    most_threads: int = MOST_THREADS
    seconds_per_row: float = 0.0

    def requests_until(self, capacity: Capacity, now: float, until: float) -> float:
        """The number of requests that can be answered until then, with all threads."""
        now = max(now, capacity.opens_at)
        seconds, threads = self.seconds, self.threads
        if capacity.pack > 1:
            seconds, threads = seconds + capacity.pack * self.seconds_per_row, PACKING_THREADS
        rounds = max(0.0, until - now) / seconds
        if self.most_threads <= threads:
            return threads * rounds
        # The number doubles in each round, up to the maximum.
        growing = min(rounds, math.log2(self.most_threads / threads))
        return threads * (2**growing - 1) + self.most_threads * (rounds - growing)


@dataclass(frozen=True)
class Share:
    """The part of a job that one model of one account does.

    Attributes:
        capacity: that model.
        rows: how many rows it answers.
        requests: how many requests that takes.
        bound_by: the limit that holds it back; None if none does, as far as limits are known.
    """

    capacity: Capacity
    rows: int
    requests: int
    bound_by: Standing | None

    @property
    def cost(self) -> float | None:
        """The cost in USD; None if the price is unknown."""
        return self.capacity.cost * self.requests if self.capacity.cost is not None else None


def with_reserve(standings: Sequence[Standing], reserve: float) -> tuple[Standing, ...]:
    """The limits without the share `reserve` (0 to 1) that a job leaves for other requests."""
    return tuple(
        replace(row, used=row.used + reserve * row.amount)
        # The refill rate of a bucket does not change; the job only never empties it.
        if row.window == "bucket"
        else replace(row, amount=(1 - reserve) * row.amount)
        for row in standings
    )


def paid_after(
    capacities: Sequence[Capacity],
    speed: Speed,
    now: float,
    patience: float,
    preferred: str | None = None,
) -> list[Capacity]:
    """The same, except that paid ones open after the job has waited long enough for free ones.

    Rows start to wait when the limits of free ones are reached. Paid ones open after `patience`
    seconds of waiting, or sooner if free ones allow no more requests in that time.
    """
    free = [capacity for capacity in capacities if not costs_extra(capacity, preferred)]
    if not free or len(free) == len(capacities):
        return list(capacities)

    def are_waited_for(at: float) -> bool:
        return all(
            one.requests_until(now, at) <= speed.requests_until(one, now, at) for one in free
        )

    def rows(at: float) -> float:
        return sum(_rows_alone(free, speed, now, at))

    begin = _first(are_waited_for, now, now + HORIZON_SECONDS)
    most = rows(begin + patience)
    opens_at = _first(lambda at: rows(at) >= most, begin, begin + patience)
    return [
        replace(capacity, opens_at=max(capacity.opens_at, opens_at))
        if costs_extra(capacity, preferred)
        else capacity
        for capacity in capacities
    ]


def _first(holds: Callable[[float], bool], early: float, late: float) -> float:
    """The first time from which a condition stays true; `late` if it is not true before."""
    if holds(early):
        return early
    begin, step = early, 1.0
    while early + step < late and not holds(early + step):
        early, step = early + step, 2 * step
    late = min(late, early + step)
    while late - early > max(0.05, (late - begin) / 1000):
        middle = (early + late) / 2
        if holds(middle):
            late = middle
        else:
            early = middle
    return late


def rows_until(capacities: Sequence[Capacity], speed: Speed, now: float, until: float) -> int:
    """The number of rows that are answered until then."""
    return math.floor(sum(_rows(capacities, speed, now, until)) + 1e-9)


def _rows(capacities: Sequence[Capacity], speed: Speed, now: float, until: float) -> list[float]:
    """The number of rows that each answers until then; those without packing share threads."""
    rows = _rows_alone(capacities, speed, now, until)
    threads_taken = sum(
        fits / speed.requests_until(capacity, now, until)
        for fits, capacity in zip(rows, capacities, strict=True)
        if fits and capacity.pack == 1
    )
    part = 1 / max(1.0, threads_taken)
    return [
        fits * part if capacity.pack == 1 else fits
        for fits, capacity in zip(rows, capacities, strict=True)
    ]


def _rows_alone(
    capacities: Sequence[Capacity], speed: Speed, now: float, until: float
) -> list[float]:
    """The number of rows that each would answer until then with all the threads."""
    return [
        capacity.pack
        * min(capacity.requests_until(now, until), speed.requests_until(capacity, now, until))
        for capacity in capacities
    ]


def finish_at(capacities: Sequence[Capacity], speed: Speed, rows: int, now: float) -> float:
    """When this number of rows is answered (epoch seconds); inf if not within a year."""
    if rows <= 0:
        return now
    if rows_until(capacities, speed, now, now + HORIZON_SECONDS) < rows:
        return math.inf
    return _first(
        lambda at: rows_until(capacities, speed, now, at) >= rows, now, now + HORIZON_SECONDS
    )


def shares(
    capacities: Sequence[Capacity], speed: Speed, rows: int, now: float, until: float
) -> tuple[Share, ...]:
    """Who answers how many rows, if all are answered by then; the largest share first.

    A row that is asked alone goes to the first open route, so the first provider and model answers
    as many as its limits allow, and the next one the rest. Models with packed requests are asked at
    the same time.
    """
    fits = _rows(capacities, speed, now, until)
    alone = _rows_alone(capacities, speed, now, until)
    parts = [0] * len(capacities)
    left, whole = rows, sum(fits)
    packing = [at for at, capacity in enumerate(capacities) if capacity.pack > 1]
    # Rounded up, so that the last ones make up for it.
    for at in sorted(packing, key=lambda at: -fits[at]):
        parts[at] = min(left, math.ceil(rows * fits[at] / whole - 1e-9)) if whole else 0
        left -= parts[at]
    models: dict[tuple[str, str], list[int]] = {}
    for at, capacity in enumerate(capacities):
        if capacity.pack == 1:
            models.setdefault((capacity.provider, capacity.model), []).append(at)
    for accounts in models.values():
        room = sum(alone[at] for at in accounts)
        of_model = min(left, math.ceil(room - 1e-9))
        for at in accounts:
            part = math.ceil(of_model * alone[at] / room - 1e-9) if room else 0
            parts[at] = min(left, part)
            left -= parts[at]
    found = []
    for capacity, part in zip(capacities, parts, strict=True):
        # Otherwise threads and the network are slower than its limits.
        is_held = part > 0 and (
            capacity.requests_until(now, until) <= speed.requests_until(capacity, now, until)
        )
        bound = capacity.binding(now, until) if is_held else None
        found.append(Share(capacity, part, math.ceil(part / capacity.pack), bound))
    return tuple(sorted(found, key=lambda share: -share.rows))
