"""A worker: a thread that sends rows to the routes of its group, alone or packed."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from arche_magic.llm_providers.errors import (
    ConfigurationError,
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
    NotKept,
)
from arche_magic.llm_providers.reply import Reply, Waiting
from arche_magic.llm_providers.request import Message, Request

from .agreement import Check, fields_to_compare
from .packing import packed, unpacked
from .progress import JobStopped
from .scheduler import NAP_SECONDS
from .tasks import Finished, Group, Task

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
    """The rows are not asked now."""


class _OutOfPatience(Exception):
    """The job's patience is used up."""


class Worker:
    """Asks the tasks that the scheduler gives to its group, in a thread of its own.

    Args:
        group: the workers on the same routes.
        workers: all workers of the job.
    """

    def __init__(self, group: Group, workers: Workers) -> None:
        self._group, self._workers = group, workers
        self._llm, self._scheduler = group.llm, workers.scheduler
        self._clock = workers.scheduler.clock

    def run(self) -> None:
        """Ask until nothing is left, or until there are more workers than help."""
        group, scheduler = self._group, self._scheduler
        try:
            while tasks := scheduler.take(group, self._workers.wait):
                began, left = time.monotonic(), deque(tasks)
                try:
                    if len(tasks) > 1:
                        self._ask_packed(left)
                    else:
                        scheduler.finished.put(self._ask_alone(tasks[0]))
                        left.clear()
                except _HandBack:
                    pass
                finally:
                    self._workers.note_under_way(0)
                    scheduler.hand_back(left)
                if not group.models and scheduler.is_surplus(group, not left, began):
                    return
        except BaseException as error:  # noqa: BLE001  # raised again where the rows are awaited
            scheduler.end(error)

    def _send(self, request: Request, rows: int = 1) -> Reply:
        workers, began = self._workers, self._clock.time()
        longest = min(_LONGEST_WAIT, request.timeout / 2)
        if workers.before_paying is not None:
            patience = min(request.patience, workers.before_paying.left)
            request = replace(request, patience=patience)
        is_patient = True

        def on_wait(waiting: Waiting) -> None:
            workers.counts.wait(waiting)
            now = self._clock.time()
            if self._scheduler.ending.is_set() or now - began > longest:
                raise _HandBack
            workers.note_under_way(rows, time.monotonic())
            if self._scheduler.note_limit(self._group):
                raise _HandBack
            if is_patient:
                if not workers.patience.left:
                    raise _OutOfPatience
                workers.wait(min(waiting.seconds, _NAP_IN_ENGINE_SECONDS))
            is_long = waiting.seconds > _MOMENT_SECONDS
            if is_long and self._scheduler.others_may_take(self._group):
                self._scheduler.close_until(self._group, now + waiting.seconds)
                raise _HandBack

        workers.note_under_way(rows)
        reply: Reply | None = None
        try:
            try:
                reply = self._llm.ask(request, on_wait, self._group.ledger)
            except _OutOfPatience:
                # Answered if a route is open now; else the error says what opens when.
                is_patient = False
                reply = self._llm.ask(replace(request, patience=0.0), on_wait)
        except ConfigurationError as error:
            self._scheduler.end(error)
            raise _HandBack from None
        except LLMProviderError as error:
            workers.counts.spend(error.attempts)
            self._scheduler.note_limit(self._group)
            raise
        finally:
            # Answered rows are under way until they are with the writer.
            if reply is None:
                workers.note_under_way(0)
        workers.counts.spend(reply.attempts)
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
            # Its cause passes.
            return self._later(task, error)

    def _ask_packed(self, left: deque[Task]) -> None:
        """Ask the tasks in one request, and take out those that were answered."""
        tasks, workers = list(left), self._workers
        requests = [task.request for task in tasks]
        half = max(1, len(tasks) // 2)
        try:
            request = packed(requests, workers.reply_tokens())
            whole = self._send(request, len(tasks))
        except NoRouteAvailable as error:
            if error.next_available_at is None or workers.bound_reached(self._llm, request):
                _shorten(tasks, half)
            else:
                self._closed(error)
            raise _HandBack from None
        except LLMProviderError as error:
            # A provider that does not take the list may take its rows.
            self._scheduler.lower_cap(self._group, 1 if isinstance(error, InvalidRequest) else None)
            _shorten(tasks, half)
            raise _HandBack from None
        replies = unpacked(whole, requests)
        good = sum(reply is not None for reply in replies)
        if good < half:
            self._scheduler.lower_cap(self._group)
        is_cut = whole.finish_reason == "length"
        missing = [task for task, reply in zip(tasks, replies, strict=True) if reply is None]
        # After a cut reply, as many go together as were answered; what is just missing goes alone.
        _shorten(missing, max(1, good) if is_cut else half if not good else 1)
        self._check(tasks, replies)
        for task, reply in zip(tasks, replies, strict=True):
            if reply is not None:
                left.remove(task)
                self._scheduler.finished.put(Finished(task, reply, packed_by=self._group.models[0]))
        workers.resize()

    def _check(self, tasks: list[Task], replies: list[Reply | None]) -> None:
        """Have some of the rows asked alone too, by the same model."""
        answered = [number for number, reply in enumerate(replies) if reply is not None]
        fields = fields_to_compare(tasks[0].request.schema)
        model = self._group.models[0]
        for number in self._workers.agreement.rows_to_check(model, answered):
            reply = replies[number]
            if reply is None:
                continue
            others = tuple(str(replies[other]) for other in answered if other != number)
            check = Check(reply, others, fields, model)
            request = tasks[number].request
            task = Task("", request, [], limit=1, checks=check, group=self._group.number)
            self._scheduler.add_check(task)

    def _without_route(self, task: Task, error: NoRouteAvailable) -> Finished:
        """What to do when no route answered a row: wait for one, or give the row up."""
        if bound := self._workers.bound_reached(self._llm, task.request):
            stopped = JobStopped(_why_stopped(bound, self._workers.counts.requests))
            stopped.at_bound = True
            self._scheduler.end(stopped)
            raise _HandBack from None
        short = replace(task.request, messages=(Message("user", "?"),), schema=None)
        if error.next_available_at is None and self._opens(short) < math.inf:
            # Others have a route here.
            if self._opens(task.request) < math.inf:
                return self._later(task, error)
            # The row itself is too long for each of them.
            if self._scheduler.is_too_long(task, self._group):
                return Finished(task, error=error)
            raise _HandBack from None
        self._closed(error)
        if any(attempt.outcome == "failed" for attempt in error.attempts):
            return self._later(task, error)
        raise _HandBack from None

    def _later(self, task: Task, error: LLMProviderError) -> Finished:
        """Have a row asked once more; give it up after several tries."""
        task.tries += 1
        if task.tries >= _TRIES:
            return Finished(task, error=error, again=True)
        raise _HandBack from None

    def _opens(self, request: Request) -> float:
        """When the first route opens for a request."""
        state, now = self._llm.quota_tracker.state, self._clock.time()
        return min(state(route, request, now).opens_at for route in self._llm.routes(request))

    def _closed(self, error: NoRouteAvailable) -> None:
        """Wait for the first route to open; if that takes too long, close the group."""
        workers, now = self._workers, self._clock.time()
        opens = error.next_available_at.timestamp() if error.next_available_at else math.inf
        # Waiting for the job's own calls takes no patience.
        moment = NAP_SECONDS if workers.rows_under_way() else 0.0
        left = max(workers.patience.left, moment)
        if left and opens - now <= left and opens < math.inf:
            self._scheduler.close_until(self._group, opens)
            return
        if opens < math.inf:
            workers.put_off = f"not asked: {error}"
        self._scheduler.close(self._group, error, ends_well=bool(workers.put_off))


def _why_stopped(bound: str, requests: int) -> str:
    """Why the job ends at a bound, in a line."""
    if not bound.startswith("max_"):
        return f"stopped: {bound}"
    # Other parts of the job, in other processes, may have sent requests.
    if requests or not bound.endswith(": 0 spent"):
        return f"stopped before it would exceed {bound}"
    # Such as "max_cost (USD) of 0.001: 0 spent".
    name, amount = bound.partition(" ")[0], bound.partition(":")[0].rpartition(" ")[2]
    return (
        f"nothing was sent, because a single request may exceed {name}={amount}: raise it, or "
        "lower max_tokens (--max-tokens)"
    )


def _shorten(tasks: list[Task], limit: int) -> None:
    """Allow at most `limit` tasks in a request that contains one of these."""
    for task in tasks:
        task.limit = min(task.limit, limit)
