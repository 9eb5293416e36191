"""One lane of a job: threads that ask on the same routes, alone or several rows in one request."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.errors import (
    ConfigurationError,
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
    NotKept,
)
from arche_magic.llm_providers.reply import Reply, Waiting
from arche_magic.llm_providers.together import Together
from arche_magic.llm_providers.types import Message, Request

from .agreement import Check, Model, fields_to_compare
from .growth import Growth
from .packing import packed
from .progress import JobStopped
from .scheduler import MOST_PACKED, Finished, Task
from .unpacking import unpacked

if TYPE_CHECKING:
    from .workers import Lanes

# How long a thread sleeps at most before it sees that the job has ended.
NAP_SECONDS = 0.1
# So long a request may wait in the engine before its row goes back, clear of its timeout.
_LONGEST_WAIT = 120.0
# How long a request sleeps before it looks again whether a route has opened.
_NAP_IN_ENGINE_SECONDS = 0.5
# A wait that is worth handing rows back for.
_MOMENT_SECONDS = 1.0
# Rows that one thread asks one after the other are held and booked together, as many as take this
# long: with few changes of the ledger, Python has time for more rows.
_TOGETHER, _TOGETHER_SECONDS = 16, 1.0
# So often a row is tried where providers have trouble.
_TRIES = 5


class _HandBack(Exception):
    """The rows are not asked now."""


class _OutOfPatience(Exception):
    """The job has waited as long as it may."""


class Lane:
    """Threads that ask on the same routes.

    Attributes:
        models: those it sends packed requests to; none for a lane that asks each row alone.
        size: most rows in one request, or asked one after the other if it asks each row alone.
        cap: what `size` has been brought down to by replies that were no good.
        shut_until: epoch seconds; none of its routes opens before.
        is_closed: none of them opens in this run.
        threads: how many it has.
        growth: how many it should have, if it asks each row alone.
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
        self.growth = Growth(time.monotonic())
        self._is_watched = False
        self._pool, self._clock = crew.pool, crew.clock

    def run(self) -> None:
        """Ask, until nothing is left."""
        try:
            while tasks := self._take():
                began, left = time.monotonic(), deque(tasks)
                try:
                    ask = self._ask_packed if self.models and len(tasks) > 1 else self._ask_in_turn
                    ask(left)
                except _HandBack:
                    pass
                finally:
                    self._pool.hand_back(left)
                if not self.models and self._is_surplus(len(tasks) - len(left), began):
                    return
        except BaseException as error:  # noqa: BLE001  # raised again where the rows are awaited
            self._pool.end(error)

    def _is_surplus(self, done: int, began: float) -> bool:
        """Adapt to how long the `done` rows took; True if there are more threads than help."""
        now = time.monotonic()
        with self._pool.lock:
            if done:
                self.growth.note_replies(done, began, now)
                rows = _TOGETHER_SECONDS * done / max(now - began, 1e-9)
                self.size = max(1, min(_TOGETHER, int(rows)))
            is_surplus = self.threads > self.growth.threads
            self.threads -= is_surplus
        return is_surplus

    def _note_limit(self) -> None:
        """A row waits for a limit, or failed."""
        if self.models:
            return
        with self._pool.lock:
            self.growth.note_limit(time.monotonic())
            self.size = 1

    def _take(self) -> list[Task]:
        """The next rows, once a route may be open; none when the job is at its end."""
        pool = self._pool
        with pool.lock:
            while not (pool.ending.is_set() or self.is_closed):
                if self._clock.time() < self.shut_until:
                    self._watch()
                    continue
                # The last rows are for all threads.
                size = (
                    self.size
                    if self.models
                    else min(self.size, 1 + len(pool.ready) // self.threads)
                )
                if tasks := pool.pick(self.number, size):
                    return tasks
                pool.idle += 1
                pool.work.wait()
                pool.idle -= 1
        return []

    def _watch(self) -> None:
        """Sleep while the lane is shut: one thread by the clock, the others until it wakes them."""
        pool = self._pool
        if self._is_watched:
            pool.work.wait(NAP_SECONDS)
            return
        self._is_watched = True
        nap = min(self.shut_until - self._clock.time(), NAP_SECONDS)
        if self.crew.are_shut():
            self.crew.patience.wait(nap)
        pool.lock.release()
        try:
            self._clock.sleep(max(nap, 0.001))
        finally:
            pool.lock.acquire()
            self._is_watched = False
            pool.work.notify_all()

    def _send(self, request: Request, together: Together, rows: int = 1) -> Reply:
        began = self._clock.time()
        longest = min(_LONGEST_WAIT, request.timeout / 2)
        is_patient = True

        def on_wait(waiting: Waiting) -> None:
            self.crew.counts.wait(waiting)
            now = self._clock.time()
            if self._pool.ending.is_set() or now - began > longest:
                raise _HandBack
            self.crew.note_under_way(rows, time.monotonic())
            self._note_limit()
            if self.threads > self.growth.threads and not self.models:
                raise _HandBack
            if is_patient:
                if not self.crew.patience.left:
                    raise _OutOfPatience
                self.crew.patience.wait(min(waiting.seconds, _NAP_IN_ENGINE_SECONDS))
            others = self.crew.several and (self.models or self._pool.idle)
            if others and waiting.seconds > _MOMENT_SECONDS:
                self.shut_until = now + waiting.seconds
                raise _HandBack

        self.crew.note_under_way(rows)
        try:
            try:
                reply = self.llm.ask(request, on_wait, together)
            except _OutOfPatience:
                # Answered if a route is open now; else the error says what opens when.
                is_patient = False
                reply = self.llm.ask(replace(request, patience=0.0), on_wait)
        except ConfigurationError as error:
            self._pool.end(error)
            raise _HandBack from None
        except LLMProviderError as error:
            self.crew.counts.spend(error.attempts)
            self._note_limit()
            raise
        finally:
            self.crew.note_under_way(0)
        self.crew.counts.spend(reply.attempts)
        return reply

    def _ask_in_turn(self, left: deque[Task]) -> None:
        """Ask each of the rows alone, and take out what has finished."""
        with self.llm.together([task.request for task in left]) as together:
            while left and not self._pool.ending.is_set():
                self._pool.finished.put(self._ask_alone(left[0], together))
                left.popleft()

    def _ask_alone(self, task: Task, together: Together) -> Finished:
        try:
            return Finished(task, self._send(task.request, together))
        except NoRouteAvailable as error:
            return self._without_route(task, error)
        except NotKept as error:
            return Finished(task, error=error, again=True)
        except LLMProviderError as error:
            if error.next_available_at is None:
                return Finished(task, error=error)
            # It was cut short by what passes.
            return self._later(task, error)

    def _ask_packed(self, left: deque[Task]) -> None:
        """Ask the rows in one request, and take out those that were answered."""
        tasks = list(left)
        requests = [task.request for task in tasks]
        half = max(1, len(tasks) // 2)
        try:
            request = packed(requests, self.crew.reply_tokens())
            with self.llm.together([request]) as together:
                whole = self._send(request, together, len(tasks))
        except NoRouteAvailable as error:
            if error.next_available_at is None or self.crew.bound_reached(self.llm, request):
                self._shorten(tasks, half)
            else:
                self._shut(error)
            raise _HandBack from None
        except LLMProviderError as error:
            # A provider that does not take the list may take its rows.
            self.cap = 1 if isinstance(error, InvalidRequest) else max(1, self.cap // 2)
            self._shorten(tasks, half)
            raise _HandBack from None
        replies = unpacked(whole, requests)
        good = sum(reply is not None for reply in replies)
        if good < half:
            self.cap = max(1, self.cap // 2)
        is_cut = whole.finish_reason == "length"
        missing = [task for task, reply in zip(tasks, replies, strict=True) if reply is None]
        # What was cut goes on in helpings that were not; what is missing for no reason, alone.
        self._shorten(missing, max(1, good) if is_cut else half if not good else 1)
        self._check(tasks, replies)
        for task, reply in zip(tasks, replies, strict=True):
            if reply is not None:
                left.remove(task)
                self._pool.finished.put(Finished(task, reply, packed_by=self.models[0]))
        self.crew.resize()

    def _shorten(self, tasks: list[Task], limit: int) -> None:
        for task in tasks:
            task.limit = min(task.limit, limit)

    def _check(self, tasks: list[Task], replies: list[Reply | None]) -> None:
        """Have some of the rows asked alone too, by the same model."""
        answered = [number for number, reply in enumerate(replies) if reply is not None]
        fields = fields_to_compare(tasks[0].request.schema)
        model = self.models[0]
        for number in self.crew.agreement.rows_to_check(model, answered):
            reply = replies[number]
            if reply is None:
                continue
            others = tuple(str(replies[other]) for other in answered if other != number)
            check = Check(reply, others, fields, model)
            task = Task("", tasks[number].request, [], limit=1, checks=check, lane=self.number)
            with self._pool.lock:
                self._pool.ready.appendleft(task)
                self._pool.work.notify_all()

    def _without_route(self, task: Task, error: NoRouteAvailable) -> Finished:
        """What to do when no route answered a row: wait for one, or give the row up."""
        if bound := self.crew.bound_reached(self.llm, task.request):
            stopped = JobStopped(f"stopped before it would exceed {bound}")
            stopped.at_bound = True
            self._pool.end(stopped)
            raise _HandBack from None
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
            # Waiting for the job's own calls takes no patience.
            moment = NAP_SECONDS if self.crew.rows_under_way() else 0.0
            left = max(self.crew.patience.left, moment)
            if left and opens - now <= left and opens < math.inf:
                self.shut_until = max(self.shut_until, opens)
                return
            if opens < math.inf:
                self.crew.put_off = f"not asked: {error}"
            self.is_closed = True
            lost = self.crew.closed(error)
        for finished in lost:
            self._pool.finished.put(finished)
