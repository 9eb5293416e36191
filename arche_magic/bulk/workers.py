"""The workers of a job: lanes of threads, each with the routes it asks on.

Without packing there is one lane with all routes: the engine chooses, falls back and waits as for
any request. Where packing pays, each model that takes packed requests is a lane of its own, and all
lanes take rows from one pool; a row is handed back rather than kept behind a shut route while
another lane has nothing to do.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.config import Configuration
from arche_magic.llm_providers.errors import NoRouteAvailable
from arche_magic.llm_providers.quota.forecast import prompt_units, prompts_that_fit
from arche_magic.llm_providers.quota_tracker import Purse
from arche_magic.llm_providers.types import Clock, Request, Route, Standing, Usage

from .agreement import Agreement, Model
from .growth import THREADS
from .packing import pack_size
from .progress import Counts
from .scheduler import MOST_PACKED, Finished, Pool, Task
from .worker import NAP_SECONDS, Lane

PACKING_THREADS = 4
# This many rows are kept ready for each thread.
_READY = 4
# A job that would be done in this time needs no packing.
SOON_SECONDS = 60.0
# How often that is reconsidered.
_LOOK_SECONDS = 5.0
# A request that waits for a route says so more often than this.
_STILL_WAITING_SECONDS = 0.7
# Replies after which their mean length is believed.
KNOWN_AFTER = 5


@dataclass(frozen=True)
class _JobClock:
    """The configuration's clock, on which nobody sleeps on when the job has ended."""

    clock: Clock
    ending: threading.Event

    def time(self) -> float:
        """Epoch seconds."""
        return self.clock.time()

    def sleep(self, seconds: float) -> None:
        """Wait that many seconds, or until the job has ended."""
        until = self.clock.time() + seconds
        while (left := until - self.clock.time()) > 0 and not self.ending.is_set():
            self.clock.sleep(min(left, NAP_SECONDS))


class Patience:
    """How long a job waits for routes, all its rows together.

    Args:
        seconds: the most; inf for no bound.
        now: the clock, in epoch seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self._left, self._now = seconds, now
        self._counted_until = -math.inf
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """Seconds that it still waits."""
        return max(0.0, self._left)

    def wait(self, seconds: float) -> None:
        """Count that a row waits for so long from now; rows that wait together count once."""
        with self._lock:
            began = max(self._now(), self._counted_until)
            self._counted_until = max(self._now() + seconds, began)
            self._left -= self._counted_until - began


class Lanes:
    """All workers of a job.

    Args:
        llm: may ask on all routes that the job may use.
        pool: where rows come from and go to.
        counts: what is spent so far.
        purse: the bounds of what all its calls may take; None without any.
        patience: seconds that the job waits for routes, all its rows together.
        pack: rows per request; None decides by the limits.
        agreement: how packed replies agree with others.

    Attributes:
        put_off: why the rows that are left are not asked in this run, or "".
        sample: a request that stands for all rows; None before the first.
    """

    def __init__(
        self,
        llm: IntelligentLLMOrchestrator,
        pool: Pool,
        counts: Counts,
        purse: Purse | None,
        patience: float,
        pack: int | None,
        agreement: Agreement,
    ) -> None:
        self.pool, self.counts, self.purse = pool, counts, purse
        self.agreement = agreement
        self._pack = pack
        self.clock = _JobClock(llm.configuration.clock, pool.ending)
        self.patience = Patience(patience, self.clock.time)
        self.llm = self._like(llm, replace(llm.configuration, clock=self.clock), llm.providers)
        self.put_off = ""
        self.lanes: list[Lane] = []
        self.threads: list[threading.Thread] = []
        self.sample: Request | None = None
        # By thread: rows of its request, and when it last waited.
        self._under_way: dict[int, tuple[int, float]] = {}
        self._routes: tuple[Route, ...] = ()
        self._looked_at = -math.inf
        self._numbers = itertools.count()

    @property
    def several(self) -> bool:
        """Whether rows that one lane hands back may be taken by another."""
        return len(self.lanes) > 1

    def start(self, first: Task) -> None:
        """Begin to ask; `first` stands for all rows.

        Raises:
            ConfigurationError: no key for any route, or an unknown model.
        """
        self.sample, self._routes = first.request, self.llm.routes(first.request)
        self._open(self._sizes())

    def look_after(self) -> None:
        """Have as many threads as help; reconsider, now and then, how many rows go in a request."""
        with self.pool.lock:
            for lane in self.lanes:
                if not lane.models:
                    self._grow(lane)
        now = self.clock.time()
        if self._pack == 1 or not self.lanes or now < self._looked_at + _LOOK_SECONDS:
            return
        self._looked_at = now
        if any(lane.models for lane in self.lanes):
            self.resize()
            return
        sizes = self._sizes()
        if max(sizes.values()) > 1:
            self._open(sizes)

    def sizes(self) -> dict[Model, int]:
        """Rows per request, of the models that take packed requests."""
        return {lane.models[0]: lane.size for lane in self.lanes if lane.models}

    def pace(self) -> tuple[int, float] | None:
        """Threads that ask each row alone, and rows that they bring per second; None if unknown."""
        paces = (lane.growth.pace for lane in self.lanes if not lane.models)
        return next(filter(None, paces), None)

    def note_under_way(self, rows: int, waited_at: float = -math.inf) -> None:
        """Note how many rows this thread is asking, and when it last waited for a route."""
        self._under_way[threading.get_ident()] = rows, waited_at

    def rows_under_way(self) -> int:
        """Rows whose requests are sent, not waiting for a route."""
        since = time.monotonic() - _STILL_WAITING_SECONDS
        return sum(rows for rows, waited in self._under_way.copy().values() if waited < since)

    def resize(self) -> None:
        """Have as many rows in one request as the limits and the replies so far say."""
        sizes = self._sizes(packs=True)
        for lane in self.lanes:
            if lane.models:
                lane.size = min(lane.cap, sizes.get(lane.models[0], 1))

    def reply_tokens(self) -> float:
        """Tokens of one reply, by those that came; before, by the schema or the ledger's guess."""
        if self.counts.served >= KNOWN_AFTER:
            return self.counts.output_tokens / self.counts.served
        guess, schema = self._guess().output_tokens, self.sample and self.sample.schema
        return schema.reply_tokens(guess) if schema else guess

    def bound_reached(self, llm: IntelligentLLMOrchestrator, request: Request) -> str:
        """The bound of the job that keeps a request from one of its routes; "" if none does."""
        refuses = llm.quota_tracker.job_refuses
        return next(filter(None, (refuses(route, request) for route in llm.routes(request))), "")

    def closed(self, error: NoRouteAvailable) -> list[Finished]:
        """A lane has closed; with the last one the job ends. The pool's lock is held.

        Returns the rows that only the closed lane could have taken.
        """
        if all(lane.is_closed for lane in self.lanes):
            self.pool.end_locked(None if self.put_off else error)
            return []
        lost = [task for task in self.pool.ready if not self.may_take(task)]
        for task in lost:
            self.pool.ready.remove(task)
        self.pool.asking += len(lost)
        return [Finished(task, error=error, again=True) for task in lost]

    def are_shut(self) -> bool:
        """Whether no lane is open. The pool's lock is held."""
        now = self.clock.time()
        return all(lane.is_closed or now < lane.shut_until for lane in self.lanes)

    def may_take(self, task: Task) -> bool:
        """Whether a lane is left that can take the row."""
        return any(task.suits(lane.number) for lane in self.lanes if not lane.is_closed)

    def can_check(self) -> bool:
        """Whether a packed row that is to be asked alone too can be asked now."""
        now = self.clock.time()
        with self.pool.lock:
            return any(
                lane.number == task.lane and not lane.is_closed and lane.shut_until <= now
                for task in self.pool.ready
                if task.checks
                for lane in self.lanes
            )

    def _guess(self) -> Usage:
        if self.sample is None or not self._routes:
            return Usage()
        return self.llm.quota_tracker.estimate(self._routes[0], self.sample)

    def _sizes(self, *, packs: bool = False) -> dict[Model, int]:
        """Rows per request of each model, by the limits as they are known now.

        A job that `packs` already goes on so to its end: its lanes have few threads.
        """
        models: dict[Model, list[Standing]] = {(r.provider, r.model): [] for r in self._routes}
        if self._pack == 1:
            return dict.fromkeys(models, 1)
        allowed = {(r.provider, r.key.label, r.model) for r in self._routes}
        standings = [
            row
            for row in self.llm.quota_tracker.standings()
            if (row.provider, row.key, row.model) in allowed
        ]
        now, row = self.clock.time(), self._guess()
        row = replace(row, output_tokens=math.ceil(self.reply_tokens()))
        if self._pack is None and not packs and self._is_soon_done(standings, row, now):
            return dict.fromkeys(models, 1)
        for standing in standings:
            models[standing.provider, standing.model].append(standing)
        most, providers = self._pack or MOST_PACKED, self.llm.configuration.providers
        sizes = {}
        for (provider, model), rows in models.items():
            if self.agreement.is_refuted((provider, model)):
                sizes[provider, model] = 1
                continue
            window = providers[provider].context_windows.get(model, math.inf)
            sizes[provider, model] = pack_size(rows, row, window, most, always=bool(self._pack))
        return sizes

    def _is_soon_done(self, standings: list[Standing], row: Usage, now: float) -> bool:
        limited = {(standing.provider, standing.key, standing.model) for standing in standings}
        if any((r.provider, r.key.label, r.model) not in limited for r in self._routes):
            return True
        left = self.counts.total - self.counts.done
        return prompts_that_fit(standings, prompt_units(row), now, now + SOON_SECONDS) >= left

    def _open(self, sizes: Mapping[Model, int]) -> None:
        """Have a lane for each model that takes packed requests, and one for all others."""
        alone = [model for model, size in sizes.items() if size == 1]
        groups = [[model] for model, size in sizes.items() if size > 1]
        lanes = []
        for group in [*groups, *([alone] if alone else [])]:
            llm = self._narrowed(group) if groups else self.llm
            lane = Lane(next(self._numbers), llm, self, tuple(group) if group != alone else ())
            lane.size = sizes[group[0]]
            lanes.append(lane)
        with self.pool.lock:
            for old in self.lanes:
                old.is_closed = True
            self.lanes = lanes
            self.pool.wanted = max(THREADS, sum(2 * lane.size for lane in lanes))
            self.pool.work.notify_all()
            for lane in lanes:
                for _ in range(PACKING_THREADS if lane.models else 1):
                    self._start_thread(lane)

    def _grow(self, lane: Lane) -> None:
        """Have as many threads as help, as far as there is work for them. The lock is held."""
        pool, now = self.pool, time.monotonic()
        if pool.ready and not pool.idle:
            lane.growth.look(now)
        pool.wanted = max(pool.wanted, _READY * lane.growth.threads)
        if lane.is_closed or pool.ending.is_set():
            return
        for _ in range(min(lane.growth.threads - lane.threads, len(pool.ready) - pool.idle)):
            self._start_thread(lane)

    def _start_thread(self, lane: Lane) -> None:
        thread = threading.Thread(target=lane.run, name="arche-job", daemon=True)
        lane.threads += 1
        thread.start()
        self.threads = [*(old for old in self.threads if old.is_alive()), thread]

    def _narrowed(self, models: list[Model]) -> IntelligentLLMOrchestrator:
        """The same, on these models alone."""
        names = list(dict.fromkeys(provider for provider, _ in models))
        providers = dict(self.llm.configuration.providers)
        for name in names:
            own = tuple(model for provider, model in models if provider == name)
            providers[name] = replace(providers[name], models=own)
        return self._like(self.llm, replace(self.llm.configuration, providers=providers), names)

    def _like(
        self, llm: IntelligentLLMOrchestrator, configuration: Configuration, names: Sequence[str]
    ) -> IntelligentLLMOrchestrator:
        """The same for another configuration and some of its providers, within the job's bounds."""
        like = IntelligentLLMOrchestrator(
            enable_multi_key_groq=llm.enable_multi_key_groq,
            preferred_provider=llm.preferred_provider if llm.preferred_provider in names else None,
            providers=names,
            configuration=configuration,
        )
        like.quota_tracker.job = self.purse
        return like
