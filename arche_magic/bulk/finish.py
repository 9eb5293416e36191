"""The finish time of a running job, computed from the limits like its plan."""

from __future__ import annotations

import math
import threading
import time
from datetime import datetime

from arche_magic.llm_providers.types import utc

from .capacity import Speed, finish_at, paid_after
from .estimate import RowEstimate
from .growth import MOST_THREADS, THREADS
from .progress import Counts
from .workers import PACKING_THREADS, Workers

# How long a figure is reused, because a bar asks ten times a second.
_SECONDS = 0.5
# Seconds of a request before the first reply.
_SECONDS_GUESS = 1.5


class Finish:
    """Estimates when the remaining rows will be answered.

    Args:
        workers: the workers of the job, with their routes and their pace.
        counts: the finished rows.
        reserve: the share of each limit (0 to 1) that the job leaves to others.
    """

    def __init__(self, workers: Workers, counts: Counts, reserve: float) -> None:
        self._workers, self._counts, self._reserve = workers, counts, reserve
        self._lock = threading.Lock()
        self._known: tuple[float, int, datetime | None] = (-math.inf, 0, None)

    def at(self, later: int = 0) -> datetime | None:
        """The finish time (aware, UTC), with this number of rows `later`; None if not within a
        year.
        """
        moment = time.monotonic()
        with self._lock:
            looked_at, rows, found = self._known
            if rows != later or moment >= looked_at + _SECONDS:
                found = self._find(later)
                self._known = moment, later, found
        return found

    def _find(self, later: int) -> datetime | None:
        counts, workers = self._counts, self._workers
        sample, now = workers.sample, workers.scheduler.clock.time()
        # These have reserved or used their share of the limits already.
        held = workers.rows_under_way() + workers.rows_held_ahead()
        held += workers.scheduler.finished.unfinished_tasks
        rows = counts.total - counts.done - held + later
        if sample is None or counts.done == counts.total + later:
            return None
        estimate = RowEstimate.measured(
            sample, prompt_tokens=counts.mean_input(), reply_tokens=workers.reply_tokens()
        )
        sizes = workers.scheduler.sizes()
        capacities = estimate.capacities(workers.llm, sizes, reserve=self._reserve)
        speed = self._speed()
        if workers.before_paying is not None:
            left, preferred = workers.before_paying_left, workers.llm.preferred_provider
            capacities = paid_after(capacities, speed, now, left, preferred)
        end = finish_at(capacities, speed, max(0, rows), now)
        # Requests in progress have to finish, too.
        end = max(end, now + (counts.mean_seconds() or _SECONDS_GUESS) / 2)
        return utc(end) if math.isfinite(end) else None

    def _speed(self) -> Speed:
        """The measured speed, once there is a measurement."""
        seconds = self._counts.mean_seconds() or _SECONDS_GUESS
        pace = self._workers.scheduler.pace()
        if pace is None:
            return Speed(seconds, THREADS, PACKING_THREADS, MOST_THREADS)
        threads, per_second = pace
        return Speed(threads / per_second, threads, PACKING_THREADS, threads)
