"""A group of workers, one thread each, that send rows to the same routes, alone or packed."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.batch_ledger import BatchLedger
from arche_magic.llm_providers.errors import (
    ConfigurationError,
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
    NotKept,
)
from arche_magic.llm_providers.events import Waiting
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.types import Route

from .growth import Growth
from .packing import Check, Model, packed, unpacked
from .rows import MOST_PACKED, Task
from .scheduler import NAP_SECONDS, Scheduler
from .whole_job import JobStopped, Patience, why_stopped

if TYPE_CHECKING:
    from .workers import Workers

# Longest wait of a request in the engine before its row is handed back; well below its timeout.
_LONGEST_WAIT = 120.0
# Longest sleep of a waiting request before it looks again whether a route has opened.
_NAP_IN_ENGINE_SECONDS = 0.5
# Shortest wait for which rows are handed back to other groups.
_MOMENT_SECONDS = 1.0
# How often a row is tried if providers have trouble.
_TRIES = 5


class _HandBack(Exception):
    """The rows go back to the scheduler, which gives them out again."""


@dataclass(eq=False)
class Group:
    """Workers that use the same routes. Only the scheduler changes its attributes.

    Attributes:
        workers: all workers of the job.
        llm: sends requests to its routes.
        model: the model that gets packed requests; None if each row is asked alone.
        size: rows in one request; if each row is asked alone, the number of holds per change.
        awaits_free: how long it waits for free routes of other groups, if all its routes are paid.
        cap: maximum rows in one request; lowered by replies that could not be read.
        opens_at: epoch seconds; none of its routes opens earlier.
        opens_first: the route that opens then; None before the first wait.
        is_closed: whether none of its routes opens in this run.
        threads: how many workers it has.
        growth: how many it should have, if each row is asked alone.
        ledger: holds and settles many calls of its workers in one change.
    """

    workers: Workers
    llm: IntelligentLLMOrchestrator
    model: Model | None = None
    size: int = 1
    awaits_free: Patience | None = None
    cap: int = MOST_PACKED
    opens_at: float = 0.0
    opens_first: Route | None = None
    is_closed: bool = False
    threads: int = 0
    growth: Growth = field(default_factory=lambda: Growth(time.monotonic(), time.process_time()))
    ledger: BatchLedger = field(init=False)

    def __post_init__(self) -> None:
        coming = partial(self._scheduler.coming, self)
        self.ledger = self.llm.batch_ledger(coming, self.workers.counts.spend)

    def work(self) -> None:
        """Ask rows until none is left, or until there are too many workers; runs in each thread."""
        workers, scheduler = self.workers, self._scheduler
        try:
            while tasks := scheduler.take(self):
                began, left = time.monotonic(), deque(tasks)
                try:
                    if self.model and len(tasks) > 1:
                        self._ask_packed(left, self.model)
                    else:
                        self._ask_alone(tasks[0])
                        scheduler.to_write.put(tasks[0])
                        left.clear()
                except _HandBack:
                    pass
                finally:
                    workers.note_under_way(0)
                    scheduler.hand_back(left)
                if self.model is None and scheduler.is_surplus(self, not left, began):
                    return
        except BaseException as error:  # noqa: BLE001  # raised again where the rows are awaited
            scheduler.end(error)

    def note_closed(self, seconds: float) -> None:
        """Count a sleep in which no group is open, and show what the job waits for."""
        self.workers.note_wait(seconds)
        if self.opens_first is not None:
            left = self.opens_at - self._scheduler.clock.time()
            self.workers.counts.note_wait(Waiting(self.opens_first, left))

    @property
    def _scheduler(self) -> Scheduler:
        return self.workers.scheduler

    def _send(self, request: Request, rows: int = 1) -> Reply:
        workers, began = self.workers, self._scheduler.clock.time()
        longest = min(_LONGEST_WAIT, request.timeout / 2)
        patience = workers.whole.patience.left
        is_patient = patience > 0
        if workers.before_paying is not None:
            patience = min(patience, workers.before_paying.left)
        if patience < request.patience:
            request = replace(request, patience=patience)

        def on_wait(waiting: Waiting) -> None:
            workers.counts.note_wait(waiting)
            self.ledger.release()
            now = self._scheduler.clock.time()
            if self._scheduler.ending.is_set() or self.is_closed or now - began > longest:
                raise _HandBack
            workers.note_under_way(rows, time.monotonic())
            if self._scheduler.note_limit(self):
                raise _HandBack
            if is_patient:
                if not workers.whole.patience.left:
                    # The request is sent once more without patience, so that the error says what
                    # opens when.
                    raise _HandBack
                workers.note_wait(min(waiting.seconds, _NAP_IN_ENGINE_SECONDS))
            is_long = waiting.seconds > _MOMENT_SECONDS
            if is_long and self._scheduler.others_may_take(self):
                self._scheduler.close_until(self, now + waiting.seconds, waiting.route)
                raise _HandBack

        workers.note_under_way(rows)
        reply: Reply | None = None
        try:
            reply = self.llm.ask(request, on_wait, self.ledger)
        except ConfigurationError as error:
            self._scheduler.end(error)
            raise _HandBack from None
        except LLMProviderError:
            self._scheduler.note_limit(self)
            raise
        finally:
            # Answered rows count as in progress until the writer has them.
            if reply is None:
                workers.note_under_way(0)
        return reply

    def _ask_alone(self, task: Task) -> None:
        """Ask a task until it has an outcome, or hand it back."""
        try:
            task.reply = self._send(task.request)
        except NoRouteAvailable as error:
            self._without_route(task, error)
        except NotKept as error:
            task.give_up(error, may_work_later=True)
        except LLMProviderError as error:
            if error.next_available_at is None:
                task.give_up(error)
            else:
                # The cause is temporary.
                self._try_later(task, error)

    def _ask_packed(self, left: deque[Task], model: Model) -> None:
        """Send the tasks to the model in one request, and remove those that were answered."""
        tasks, workers = list(left), self.workers
        requests = [task.request for task in tasks]
        half = max(1, len(tasks) // 2)
        try:
            request = packed(requests, workers.reply_tokens())
            whole = self._send(request, len(tasks))
        except NoRouteAvailable as error:
            if error.next_available_at is None or self._bound_reached(request):
                _shorten(tasks, half)
            else:
                self._closed(error, request)
            raise _HandBack from None
        except LLMProviderError as error:
            # A provider that refuses the list may accept its rows one by one.
            self._scheduler.lower_cap(self, 1 if isinstance(error, InvalidRequest) else None)
            _shorten(tasks, half)
            raise _HandBack from None
        replies = unpacked(whole, requests)
        good = sum(reply is not None for reply in replies)
        if good < half:
            self._scheduler.lower_cap(self)
        is_cut = whole.finish_reason == "length"
        missing = [task for task, reply in zip(tasks, replies, strict=True) if reply is None]
        # After a cut reply, the next request has as many rows as were answered; after an unreadable
        # one, half as many. Other missing rows are asked alone.
        _shorten(missing, max(1, good) if is_cut else half if not good else 1)
        self._check(tasks, replies, model)
        for task, reply in zip(tasks, replies, strict=True):
            if reply is not None:
                left.remove(task)
                task.reply, task.packed_by = reply, model
                self._scheduler.to_write.put(task)
        workers.resize()

    def _check(self, tasks: list[Task], replies: list[Reply | None], model: Model) -> None:
        """Ask the same model some of the rows again, each alone."""
        answered = [number for number, reply in enumerate(replies) if reply is not None]
        for number in self.workers.whole.packed_by(model).rows_to_check(answered):
            if (reply := replies[number]) is None:
                continue
            others = tuple(str(replies[other]) for other in answered if other != number)
            request = tasks[number].request
            check = Check(reply, others, request.schema, model)
            self._scheduler.add_check(Task("", request, [], limit=1, checks=check, group=self))

    def _without_route(self, task: Task, error: NoRouteAvailable) -> None:
        """Give up a task that no route answered, or hand it back to wait for one."""
        if bound := self._bound_reached(task.request):
            stopped = JobStopped(why_stopped(bound, self.workers.counts.requests))
            stopped.at_bound = True
            self._scheduler.end(stopped)
            raise _HandBack from None
        if error.next_available_at is None and self._opening(_shortest(task.request))[0] < math.inf:
            # Other groups have a route for it.
            if self._opening(task.request)[0] < math.inf:
                self._try_later(task, error)
            # The row itself is too long for all groups.
            elif self._scheduler.is_too_long(task, self):
                task.give_up(error)
            else:
                raise _HandBack from None
            return
        self._closed(error, task.request)
        if not any(attempt.outcome == "failed" for attempt in error.attempts):
            raise _HandBack from None
        self._try_later(task, error)

    def _bound_reached(self, request: Request) -> str:
        """The bound of the job that prevents a request to one of the routes; "" if none does."""
        refuses, routes = self.llm.quota_tracker.job_refuses, self.llm.routes(request)
        return next(filter(None, (refuses(route, request) for route in routes)), "")

    def _try_later(self, task: Task, error: LLMProviderError) -> None:
        """Ask a row once more; give it up after several tries."""
        task.tries += 1
        if task.tries < _TRIES:
            raise _HandBack from None
        task.give_up(error, may_work_later=True)

    def _opening(self, request: Request) -> tuple[float, Route]:
        """When the first route opens for a request, and that route."""
        state, now = self.llm.quota_tracker.state, self._scheduler.clock.time()
        routes = self.llm.routes(request)
        openings = [(state(route, request, now).opens_at, route) for route in routes]
        return min(openings, key=itemgetter(0))

    def _closed(self, error: NoRouteAvailable, request: Request) -> None:
        """Wait for the first route to open; if that takes too long, close the group."""
        workers, now = self.workers, self._scheduler.clock.time()
        opens = error.next_available_at.timestamp() if error.next_available_at else math.inf
        # Waiting for the job's own calls does not use up the patience.
        moment = NAP_SECONDS if workers.rows_under_way() else 0.0
        left = max(workers.whole.patience.left, moment)
        if left and opens - now <= left and opens < math.inf:
            self._scheduler.close_until(self, opens, self._opening(request)[1])
            return
        self._scheduler.close(self, error, opens_later=opens < math.inf)


def _shortest(request: Request) -> Request:
    """The same request with a text of one character."""
    if request.inputs:
        return replace(request, inputs=("?",), counts_as=1)
    return replace(request, messages=(Message("user", "?"),), schema=None)


def _shorten(tasks: list[Task], limit: int) -> None:
    """Allow at most `limit` tasks in a request that contains one of these."""
    for task in tasks:
        task.limit = min(task.limit, limit)
