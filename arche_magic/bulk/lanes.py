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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.config import Configuration
from arche_magic.llm_providers.errors import (
    ConfigurationError,
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
    NotKept,
)
from arche_magic.llm_providers.prices import cost_usd
from arche_magic.llm_providers.quota.forecast import prompts_that_fit
from arche_magic.llm_providers.reply import Reply, Waiting
from arche_magic.llm_providers.types import Clock, Message, Request, Route, Standing, Usage

from .packing import Check, fields_to_compare, pack_size, packed, unpacked
from .pool import MOST_PACKED, THREADS, Finished, Pool, Task
from .progress import Bounds, Counts, JobStopped

Model = tuple[str, str]

PACKING_THREADS = 4
# So many at most, where each reply takes longer than this.
_MOST_THREADS, _SLOW_SECONDS = 64, 0.3
# How long a thread sleeps at most before it sees that the job has ended.
_NAP_SECONDS = 0.1
# So long a request may wait in the engine before its row goes back, clear of its timeout.
_LONGEST_WAIT = 120.0
# A wait that is worth handing rows back for.
_MOMENT_SECONDS = 1.0
# So often a row is tried where providers have trouble.
_TRIES = 5
# A job that would be done in this time needs no packing.
SOON_SECONDS = 60.0
# How often that is reconsidered.
_LOOK_SECONDS = 5.0
# So many packed rows are asked alone as well, to compare: one of every so many requests.
_CHECKS, _CHECK_EVERY = 5, 10
# How much more a row may take than any before.
_MARGIN = 1.5
# Replies after which their mean length is believed.
_KNOWN_AFTER = 5


class _HandBack(Exception):
    """The rows are not asked now."""


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
            self.clock.sleep(min(left, _NAP_SECONDS))


class Lanes:
    """All workers of a job.

    Args:
        llm: may ask on all routes that the job may use.
        pool: where rows come from and go to.
        counts: what is spent so far.
        bounds: what may be.
        patience: seconds a shut lane is waited for.
        pack: rows per request; None decides by the limits.

    Attributes:
        put_off: why the rows that are left are not asked in this run, or "".
    """

    def __init__(
        self,
        llm: IntelligentLLMOrchestrator,
        pool: Pool,
        counts: Counts,
        bounds: Bounds,
        patience: float,
        pack: int | None,
    ) -> None:
        self.pool, self.counts, self.bounds = pool, counts, bounds
        self.patience, self._pack = patience, pack
        self.clock = _JobClock(llm.configuration.clock, pool.ending)
        self.llm = _like(llm, replace(llm.configuration, clock=self.clock), llm.providers)
        self.put_off = ""
        self.lanes: list[_Lane] = []
        self.threads: list[threading.Thread] = []
        self._sample: Request | None = None
        self._routes: tuple[Route, ...] = ()
        self._looked_at = -math.inf
        self._packs = 0
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
        self._sample, self._routes = first.request, self.llm.routes(first.request)
        self._open(self._sizes())

    def look_after(self) -> None:
        """Reconsider, now and then, how many rows go into one request."""
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

    def resize(self) -> None:
        """Have as many rows in one request as the limits and the replies so far say."""
        sizes = self._sizes(packs=True)
        for lane in self.lanes:
            if lane.models:
                lane.size = min(lane.cap, sizes.get(lane.models[0], 1))

    def reply_tokens(self) -> float:
        """Tokens of one reply, by those that came; before, by the ledger's guess."""
        if self.counts.served >= _KNOWN_AFTER:
            return self.counts.output_tokens / self.counts.served
        return self._guess().output_tokens

    def affordable(self, size: int) -> int:
        """Of so many rows, those that may be asked without going beyond a bound.

        The pool's lock is held. Ends the job if it is none and nothing is under way.
        """
        counts, bounds = self.counts, self.bounds
        for name, bound, spent, most, guess in (
            ("max_tokens_total", bounds.tokens, counts.tokens, counts.most_tokens, self._tokens),
            ("max_cost (USD)", bounds.cost, counts.cost, counts.most_cost, self._cost),
        ):
            if bound == math.inf:
                continue
            # What a row takes at most is known from those that were answered, more or less.
            each = _MARGIN * most or guess()
            if each > 0:
                size = min(size, math.floor((bound - spent) / each) - self.pool.asking)
            if size < 1 and not self.pool.asking:
                what = f"{name} of {bound:,.6g}: {spent:,.6g} spent"
                self.pool.end_locked(JobStopped(f"stopped before it would exceed {what}"))
        return size

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

    def may_take(self, task: Task) -> bool:
        """Whether the row is not too long for every lane that is left."""
        return any(
            lane.number not in task.too_long_for for lane in self.lanes if not lane.is_closed
        )

    def note_packed(self, rows: int) -> bool:
        """Count rows that came packed; whether one of them is to be asked alone too."""
        with self.pool.lock:
            self.counts.packed += rows
            self._packs += 1
            return self._packs % _CHECK_EVERY == 1 and self._packs < _CHECKS * _CHECK_EVERY

    def _guess(self) -> Usage:
        if self._sample is None or not self._routes:
            return Usage()
        return self.llm.quota_tracker.estimate(self._routes[0], self._sample)

    def _tokens(self) -> float:
        return self._guess().total_tokens

    def _cost(self) -> float:
        usage = self._guess()
        return max((cost_usd(route, usage) or 0.0 for route in self._routes), default=0.0)

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
            window = providers[provider].context_windows.get(model, math.inf)
            sizes[provider, model] = pack_size(rows, row, window, most, always=bool(self._pack))
        return sizes

    def _is_soon_done(self, standings: list[Standing], row: Usage, now: float) -> bool:
        limited = {(standing.provider, standing.key, standing.model) for standing in standings}
        if any((r.provider, r.key.label, r.model) not in limited for r in self._routes):
            return True
        need = {
            "requests": 1.0,
            "tokens": float(row.total_tokens),
            "input_tokens": float(row.input_tokens),
            "output_tokens": float(row.output_tokens),
        }
        left = self.counts.total - self.counts.done
        return prompts_that_fit(standings, need, now, now + SOON_SECONDS) >= left

    def _open(self, sizes: Mapping[Model, int]) -> None:
        """Have a lane for each model that takes packed requests, and one for all others."""
        alone = [model for model, size in sizes.items() if size == 1]
        groups = [[model] for model, size in sizes.items() if size > 1]
        lanes = []
        for group in [*groups, *([alone] if alone else [])]:
            llm = self._narrowed(group) if groups else self.llm
            lane = _Lane(next(self._numbers), llm, self, tuple(group) if group != alone else ())
            lane.size = sizes[group[0]]
            lanes.append(lane)
        with self.pool.lock:
            for old in self.lanes:
                old.is_closed = True
            self.lanes = lanes
            self.pool.wanted = max(THREADS, sum(2 * lane.size for lane in lanes))
            self.pool.work.notify_all()
        for lane in lanes:
            for _ in range(min(PACKING_THREADS if lane.models else THREADS, self.counts.total)):
                self._add_thread(lane)

    def _add_thread(self, lane: _Lane) -> None:
        thread = threading.Thread(target=lane.run, name="arche-job", daemon=True)
        lane.threads += 1
        self.threads.append(thread)
        thread.start()

    def note_call(self, lane: _Lane, reply: Reply) -> None:
        """Have one thread more where replies take long, and no limit holds the lane up."""
        last = reply.attempts[-1] if reply.attempts else None
        if last is None or last.seconds < _SLOW_SECONDS or last.waited_s:
            return
        with self.pool.lock:
            is_busy = self.pool.ready and not self.pool.idle and not lane.is_closed
            if is_busy and lane.threads < _MOST_THREADS and not self.pool.ending.is_set():
                self._add_thread(lane)

    def _narrowed(self, models: list[Model]) -> IntelligentLLMOrchestrator:
        """The same, on these models alone."""
        names = list(dict.fromkeys(provider for provider, _ in models))
        providers = dict(self.llm.configuration.providers)
        for name in names:
            own = tuple(model for provider, model in models if provider == name)
            providers[name] = replace(providers[name], models=own)
        return _like(self.llm, replace(self.llm.configuration, providers=providers), names)


def _like(
    llm: IntelligentLLMOrchestrator, configuration: Configuration, names: Sequence[str]
) -> IntelligentLLMOrchestrator:
    """The same for another configuration and some of its providers."""
    return IntelligentLLMOrchestrator(
        enable_multi_key_groq=llm.enable_multi_key_groq,
        preferred_provider=llm.preferred_provider if llm.preferred_provider in names else None,
        providers=names,
        configuration=configuration,
    )


class _Lane:
    """Threads that ask on the same routes.

    Attributes:
        models: those it sends packed requests to; none for a lane that asks each row alone.
        size: most rows in one request.
        cap: what `size` has been brought down to by replies that were no good.
        shut_until: epoch seconds; none of its routes opens before.
        is_closed: none of them opens in this run.
        threads: how many it has.
    """

    def __init__(
        self,
        number: int,
        llm: IntelligentLLMOrchestrator,
        crew: Lanes,
        models: tuple[Model, ...],
    ) -> None:
        self.number, self.llm, self.crew, self.models = number, llm, crew, models
        self.size, self.cap = 1, MOST_PACKED
        self.shut_until = 0.0
        self.is_closed = False
        self.threads = 0
        self._is_watched = False
        self._pool, self._clock = crew.pool, crew.clock

    def run(self) -> None:
        """Ask, until nothing is left."""
        try:
            while tasks := self._take():
                try:
                    if len(tasks) == 1:
                        self._pool.finished.put(self._ask_alone(tasks[0]))
                    else:
                        self._ask_packed(tasks)
                except _HandBack:
                    self._pool.hand_back(tasks)
        except BaseException as error:  # noqa: BLE001  # raised again where the rows are awaited
            self._pool.end(error)

    def _take(self) -> list[Task]:
        """The next rows, once a route may be open; none when the job is at its end."""
        pool, bounds = self._pool, self.crew.bounds
        is_bounded = min(bounds.cost, bounds.tokens) < math.inf
        with pool.lock:
            while not (pool.ending.is_set() or self.is_closed):
                if self._clock.time() < self.shut_until:
                    self._watch()
                    continue
                size = self.crew.affordable(self.size) if is_bounded and pool.ready else self.size
                if size > 0 and (tasks := pool.pick(self.number, size)):
                    return tasks
                pool.idle += 1
                pool.work.wait(_NAP_SECONDS if is_bounded else None)
                pool.idle -= 1
        return []

    def _watch(self) -> None:
        """Sleep while the lane is shut: one thread by the clock, the others until it wakes them."""
        pool = self._pool
        if self._is_watched:
            pool.work.wait(_NAP_SECONDS)
            return
        self._is_watched = True
        nap = min(self.shut_until - self._clock.time(), _NAP_SECONDS)
        pool.lock.release()
        try:
            self._clock.sleep(max(nap, 0.001))
        finally:
            pool.lock.acquire()
            self._is_watched = False
            pool.work.notify_all()

    def _send(self, request: Request) -> Reply:
        began = self._clock.time()
        longest = min(_LONGEST_WAIT, request.timeout / 2)

        def on_wait(waiting: Waiting) -> None:
            self.crew.counts.wait(waiting)
            now = self._clock.time()
            if self._pool.ending.is_set() or now - began > longest:
                raise _HandBack
            others = self.crew.several and (self.models or self._pool.idle)
            if others and waiting.seconds > _MOMENT_SECONDS:
                self.shut_until = now + waiting.seconds
                raise _HandBack

        try:
            reply = self.llm.ask(request, on_wait)
        except ConfigurationError as error:
            self._pool.end(error)
            raise _HandBack from None
        self.crew.note_call(self, reply)
        return reply

    def _ask_alone(self, task: Task) -> Finished:
        try:
            return Finished(task, self._send(task.request))
        except NoRouteAvailable as error:
            return self._without_route(task, error)
        except NotKept as error:
            return Finished(task, error=error, again=True)
        except LLMProviderError as error:
            if error.next_available_at is None:
                return Finished(task, error=error)
            # It was cut short by what passes.
            return self._later(task, error)

    def _ask_packed(self, tasks: list[Task]) -> None:
        requests = [task.request for task in tasks]
        counts, half = self.crew.counts, max(1, len(tasks) // 2)
        try:
            whole = self._send(packed(requests, self.crew.reply_tokens()))
        except NoRouteAvailable as error:
            if error.next_available_at is None:
                self._shorten(tasks, half)
            else:
                self._shut(error)
            raise _HandBack from None
        except LLMProviderError as error:
            counts.spend(sum(a.input_tokens + a.output_tokens for a in error.attempts), 0.0)
            # A provider that does not take the list may take its rows.
            self.cap = 1 if isinstance(error, InvalidRequest) else max(1, self.cap // 2)
            self._shorten(tasks, half)
            raise _HandBack from None
        replies = unpacked(whole, requests)
        good = sum(reply is not None for reply in replies)
        if not good:
            counts.spend(whole.usage.total_tokens, whole.cost or 0.0)
        if good < half:
            self.cap = max(1, self.cap // 2)
        is_cut = whole.finish_reason == "length"
        left = [task for task, reply in zip(tasks, replies, strict=True) if reply is None]
        # What was cut goes on in helpings that were not; what is missing for no reason, alone.
        self._shorten(left, max(1, good) if is_cut else half if not good else 1)
        if self.crew.note_packed(good):
            self._check(tasks, replies)
        for task, reply in zip(tasks, replies, strict=True):
            if reply is not None:
                self._pool.finished.put(Finished(task, reply))
        self._pool.hand_back(left)
        self.crew.resize()

    def _shorten(self, tasks: list[Task], limit: int) -> None:
        for task in tasks:
            task.limit = min(task.limit, limit)

    def _check(self, tasks: list[Task], replies: list[Reply | None]) -> None:
        """Have one of the rows asked alone too."""
        fields = fields_to_compare(tasks[0].request.schema)
        for task, reply in zip(tasks, replies, strict=True):
            if fields and reply is not None:
                check = Task("", task.request, [], limit=1, checks=Check(reply, fields))
                with self._pool.lock:
                    self._pool.ready.appendleft(check)
                    self._pool.work.notify()
                return

    def _without_route(self, task: Task, error: NoRouteAvailable) -> Finished:
        """What to do when no route answered a row: wait for one, or give the row up."""
        short = replace(task.request, messages=(Message("user", "?"),), schema=None)
        if error.next_available_at is None and self._opens(short) < math.inf:
            # Others have a route here.
            if self._opens(task.request) < math.inf:
                return self._later(task, error)
            # It is the row, too long for each of them.
            with self._pool.lock:
                task.too_long_for.add(self.number)
                if not self.crew.may_take(task):
                    return Finished(task, error=error)
            raise _HandBack from None
        self._shut(error)
        if any(attempt.outcome == "failed" for attempt in error.attempts):
            return self._later(task, error)
        raise _HandBack from None

    def _later(self, task: Task, error: LLMProviderError) -> Finished:
        """Have a row asked once more, unless that did not help several times."""
        task.tries += 1
        if task.tries >= _TRIES:
            return Finished(task, error=error, again=True)
        raise _HandBack from None

    def _opens(self, request: Request) -> float:
        """When the first route opens for a request."""
        state, now = self.llm.quota_tracker.state, self._clock.time()
        return min(state(route, request, now).opens_at for route in self.llm.routes(request))

    def _shut(self, error: NoRouteAvailable) -> None:
        """Wait for the first route, or, if that takes too long, close the lane."""
        now = self._clock.time()
        opens = error.next_available_at.timestamp() if error.next_available_at else math.inf
        with self._pool.lock:
            if opens - now <= self.crew.patience and opens < math.inf:
                self.shut_until = max(self.shut_until, opens)
                return
            if opens < math.inf:
                self.crew.put_off = f"not asked: {error}"
            self.is_closed = True
            lost = self.crew.closed(error)
        for finished in lost:
            self._pool.finished.put(finished)
