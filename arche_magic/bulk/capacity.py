"""How many rows the routes can answer by a given time, computed from their limits."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from arche_magic.llm_providers.quota.forecast import prompts_that_fit
from arche_magic.llm_providers.types import Metric, Standing

from .growth import MOST_THREADS, PACKING_THREADS, THREADS
from .whole_job import costs_extra

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
        reserve: the share of each limit (0 to 1) that the job leaves for other requests.
        opens_at: when it opens (epoch seconds), if its limits do not say; inf means never.
        cost: USD of one request; None where the price is not known.
    """

    name: str
    standings: Sequence[Standing]
    need: Mapping[Metric, float]
    pack: int = 1
    reserve: float = 0.0
    opens_at: float = 0.0
    paid: bool = False
    cost: float | None = 0.0
    provider: str = ""
    model: str = ""

    @property
    def pace_is_known(self) -> bool:
        """Whether a limit per hour or shorter is known, which determines the speed."""
        return any(row.period in _SHORT_PERIODS for row in self.standings)

    def requests_until(self, now: float, until: float) -> float:
        """The number of requests that its limits allow until then; inf without limits."""
        now = max(now, self.opens_at)
        if now > until:
            return 0.0
        limits = self._limits
        return self._fit(limits, now, until) if limits else math.inf

    def binding(self, now: float, until: float) -> Standing | None:
        """The limit that allows the fewest requests until then; None without limits."""
        return min(self._limits, key=lambda row: self._fit([row], now, until), default=None)

    def _fit(self, limits: Sequence[Standing], now: float, until: float) -> float:
        return float(prompts_that_fit(limits, self.need, now, until, self.reserve))

    @cached_property
    def _limits(self) -> list[Standing]:
        """Each limit that requests count against."""
        return [row for row in self.standings if self.need.get(row.metric, 0.0) > 0]


@dataclass(frozen=True)
class Speed:
    """The speed that threads and the network allow, independent of the limits.

    Attributes:
        seconds: how long a request for one row takes.
        threads: the initial number of concurrent requests, in all processes together.
        most_threads: their maximum number; it doubles with each reply. The number of packed
            requests does not grow.
        seconds_per_row: how much longer a packed request takes for each of its rows.
    """

    seconds: float
    threads: int = THREADS
    most_threads: int = MOST_THREADS
    seconds_per_row: float = 0.0

    def requests_until(self, capacity: Capacity, now: float, until: float) -> float:
        """The number of requests that can be answered until then, with all threads."""
        seconds = max(0.0, until - max(now, capacity.opens_at))
        if capacity.pack > 1:
            return PACKING_THREADS * seconds / (self.seconds + capacity.pack * self.seconds_per_row)
        rounds = seconds / self.seconds
        if self.most_threads <= self.threads:
            return self.threads * rounds
        # The number doubles in each round, up to the maximum.
        growing = min(rounds, math.log2(self.most_threads / self.threads))
        return self.threads * (2**growing - 1) + self.most_threads * (rounds - growing)


@dataclass(frozen=True)
class Share:
    """The part of a job that one model of one account answers.

    `bound_by` is the limit that slows it down; None if no known limit does.
    """

    capacity: Capacity
    rows: int
    requests: int
    bound_by: Standing | None

    @property
    def cost(self) -> float | None:
        """The cost in USD; None if the price is unknown."""
        return self.capacity.cost * self.requests if self.capacity.cost is not None else None


@dataclass(frozen=True)
class JobForecast:
    """Predicts how many rows are answered by a given time, starting at `now` (epoch seconds).

    The `capacities` are in the order in which they are asked.
    """

    capacities: Sequence[Capacity]
    speed: Speed
    now: float

    def paying_after(self, patience: float, preferred: str | None) -> JobForecast:
        """The same forecast, except that paid models open after the wait for free ones.

        Rows start to wait when the limits of free models are reached. Paid models open after
        `patience` seconds of waiting, or sooner if free ones allow no more requests in that time.
        """
        is_paid = [costs_extra(capacity, preferred) for capacity in self.capacities]
        if len(set(is_paid)) < 2:
            return self
        free = [one for one, costs in zip(self.capacities, is_paid, strict=True) if not costs]
        of_free = replace(self, capacities=free)

        def are_waited_for(at: float) -> bool:
            return all(self._is_held(capacity, at) for capacity in free)

        def rows(at: float) -> float:
            return sum(of_free._rows_alone(at))  # noqa: SLF001  # its own class

        begin = _first(are_waited_for, self.now, self.now + HORIZON_SECONDS)
        end = begin + min(patience, HORIZON_SECONDS)
        most = rows(end)
        opens_at = _first(lambda at: rows(at) >= most, begin, end)
        capacities = [
            replace(one, opens_at=max(one.opens_at, opens_at)) if costs else one
            for one, costs in zip(self.capacities, is_paid, strict=True)
        ]
        return replace(self, capacities=capacities)

    def rows_until(self, until: float) -> int:
        """The number of rows that are answered until then."""
        return math.floor(sum(self._rows(until)) + 1e-9)

    def finish_at(self, rows: int) -> float:
        """When this number of rows will be answered (epoch seconds); inf if not within a year."""
        horizon = self.now + HORIZON_SECONDS
        if rows <= 0:
            return self.now
        if self.rows_until(horizon) < rows:
            return math.inf
        return _first(lambda at: self.rows_until(at) >= rows, self.now, horizon)

    def shares(self, rows: int, until: float) -> tuple[Share, ...]:
        """How many rows each model answers, if all are answered by then; the largest share first.

        It is empty if that never happens. A row that is asked alone goes to the first open route,
        so the first provider and model answers as many as its limits allow, and the next one the
        rest. Models with packed requests are asked at the same time.
        """
        if math.isinf(until):
            return ()
        fits, alone = self._rows(until), self._rows_alone(until)
        parts = [0] * len(fits)
        left, whole = rows, sum(fits)
        packing = [at for at, capacity in enumerate(self.capacities) if capacity.pack > 1]
        # Shares are rounded up, and the last ones compensate for that.
        for at in sorted(packing, key=lambda at: -fits[at]):
            parts[at] = min(left, math.ceil(rows * fits[at] / whole - 1e-9)) if whole else 0
            left -= parts[at]
        models: dict[tuple[str, str], list[int]] = {}
        for at, capacity in enumerate(self.capacities):
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
        for capacity, part in zip(self.capacities, parts, strict=True):
            is_held = part and self._is_held(capacity, until)
            bound = capacity.binding(self.now, until) if is_held else None
            found.append(Share(capacity, part, math.ceil(part / capacity.pack), bound))
        return tuple(sorted(found, key=lambda share: -share.rows))

    def _is_held(self, capacity: Capacity, until: float) -> bool:
        """Whether its limits are reached before then; otherwise threads or the network limit it."""
        by_speed = self.speed.requests_until(capacity, self.now, until)
        return capacity.requests_until(self.now, until) <= by_speed

    def _rows(self, until: float) -> list[float]:
        """The number of rows that each model answers until then; unpacked ones share threads."""
        rows = self._rows_alone(until)
        threads_taken = sum(
            fits / self.speed.requests_until(capacity, self.now, until)
            for fits, capacity in zip(rows, self.capacities, strict=True)
            if fits and capacity.pack == 1
        )
        part = 1 / max(1.0, threads_taken)
        return [
            fits * part if capacity.pack == 1 else fits
            for fits, capacity in zip(rows, self.capacities, strict=True)
        ]

    def _rows_alone(self, until: float) -> list[float]:
        """The number of rows that each model would answer until then with all threads."""
        now = self.now
        return [
            one.pack
            * min(one.requests_until(now, until), self.speed.requests_until(one, now, until))
            for one in self.capacities
        ]


def _first(holds: Callable[[float], bool], early: float, late: float) -> float:
    """The first time from which a condition stays true; `late` if it is not true before.

    It is exact to 0.05 s, or to a thousandth of the time since `early`.
    """

    def moment(step: int) -> float:
        return early + 50 * math.expm1(step / 1000)

    steps = range(math.ceil(1000 * math.log1p((late - early) / 50)))
    return min(late, moment(bisect_left(steps, True, key=lambda step: holds(moment(step)))))
