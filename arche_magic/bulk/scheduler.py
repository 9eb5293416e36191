"""Decides which group of threads takes which task next.

`Scheduler` owns the lock of a job: reader, groups and writer share its methods and no lock.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arche_magic.llm_providers.config import Clock
from arche_magic.llm_providers.errors import LLMProviderError
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.types import Route

from .growth import PACKING_THREADS, THREADS
from .packing import Model
from .rows import Task

if TYPE_CHECKING:
    from .group import Group

# Longest sleep of a thread before it checks whether the job has ended.
NAP_SECONDS = 0.1
# Rows that are asked alone are held together: as many as are asked in this time. Fewer changes of
# the ledger leave Python more time for rows.
_MOST_HELD, _HELD_SECONDS = 256, 0.25
# Maximum number of outcomes that wait to be written.
_MOST_TO_WRITE = 256
# Rows that are claimed in advance for each thread, and for this time, because a claim is a write to
# disk.
_READY, _READY_SECONDS = 4, 0.5


class Scheduler:
    """Takes tasks from the reader, gives them to groups, and passes their outcomes to the writer.

    Attributes:
        clock: the configuration's clock, except that all sleeps end when the job has ended.
        wanted: minimum number of tasks that should be ready.
        to_write: tasks whose outcome must be written.
        ending: set when no more rows are asked.
        error: the error that ended the job, or None.
        put_off: why the remaining rows are not asked in this run, or None.
    """

    def __init__(self, clock: Clock) -> None:
        self._lock = threading.Lock()
        # Workers wait here for tasks, or for their group to open.
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._ready: deque[Task] = deque()
        # Tasks that are not on disk yet, by address.
        self._claimed: dict[str, Task] = {}
        self._groups: list[Group] = []
        # Tasks that were given to workers and are not written yet, and workers without one.
        self._taken = self._idle = 0
        self.wanted = THREADS
        self.to_write: queue.Queue[Task] = queue.Queue(_MOST_TO_WRITE)
        self.ending = threading.Event()
        self.clock: Clock = _JobClock(clock, self.ending)
        self.error: BaseException | None = None
        self.put_off: LLMProviderError | None = None

    # --- the reader

    def join(self, tasks: dict[str, Task]) -> list[Task]:
        """The tasks that have not been claimed yet; rows of other tasks join the claimed ones."""
        with self._lock:
            for address in self._claimed.keys() & tasks.keys():
                self._claimed[address].rows.extend(tasks.pop(address).rows)
        return list(tasks.values())

    def add(self, tasks: Iterable[Task]) -> None:
        """Make claimed tasks ready for the workers."""
        with self._lock:
            for task in tasks:
                self._claimed[task.address] = task
                self._ready.append(task)
            self._work.notify_all()

    def await_room(self) -> None:
        """Sleep until more tasks are wanted, or the job ends."""
        with self._lock:
            while len(self._ready) >= self.wanted and not self.ending.is_set():
                self._room.wait()

    # --- the workers

    def take(self, group: Group) -> list[Task]:
        """The next tasks for a worker, when a route may be open; none when the job ends."""
        while True:
            with self._lock:
                if self.ending.is_set() or group.is_closed:
                    return []
                nap = min(group.opens_at - self.clock.time(), NAP_SECONDS)
                if nap <= 0:
                    if self._awaits_free(group):
                        self._work.wait(NAP_SECONDS)
                    elif tasks := self._pick(group):
                        return tasks
                    else:
                        self._idle += 1
                        self._work.wait()
                        self._idle -= 1
                    continue
                all_closed = self._are_all_closed()
            if all_closed:
                group.note_closed(nap)
            self.clock.sleep(nap)

    def coming(self, group: Group) -> list[Request]:
        """The requests that the group asks next, if its workers ask each row alone."""
        with self._lock:
            # Without the one that a worker has taken already.
            first = itertools.islice(self._ready, 0 if group.model else group.size - 1)
            return [task.request for task in first if task.suits(group)]

    def hand_back(self, tasks: Iterable[Task]) -> None:
        """Make tasks ready again that a worker took and did not finish."""
        with self._lock:
            for task in tasks:
                self._taken -= 1
                self._ready.appendleft(task)
            self._work.notify_all()

    def add_check(self, task: Task) -> None:
        """Have a packed row also asked alone, before all others."""
        with self._lock:
            self._ready.appendleft(task)
            self._work.notify_all()

    def is_surplus(self, group: Group, done: bool, began: float) -> bool:
        """Whether a worker that has asked a row alone should end.

        The row is `done` or handed back; it was asked at `began` (monotonic clock). The group
        adapts to the duration of rows.
        """
        now = time.monotonic()
        with self._lock:
            if done:
                group.growth.note_reply(began, now)
            is_surplus = group.threads > group.growth.threads
            group.threads -= is_surplus
        return is_surplus

    def note_limit(self, group: Group) -> bool:
        """Note that a row waits for a limit or failed; returns whether to hand it back."""
        if group.model:
            return False
        with self._lock:
            group.growth.note_limit(time.monotonic())
            group.size = 1
            return group.threads > group.growth.threads

    def others_may_take(self, group: Group) -> bool:
        """Whether another group may ask the rows that this group hands back."""
        with self._lock:
            return len(self._groups) > 1 and bool(group.model or self._idle)

    def lower_cap(self, group: Group, cap: int | None = None) -> None:
        """Allow no more than `cap` rows in a request of the group; by default half as many."""
        with self._lock:
            group.cap = max(1, group.cap // 2) if cap is None else cap

    def close_until(self, group: Group, until: float, route: Route) -> None:
        """Note that the group's first route to open is this one, at that time (epoch seconds)."""
        with self._lock:
            if until > group.opens_at:
                group.opens_at, group.opens_first = until, route

    def close(self, group: Group, error: LLMProviderError, *, opens_later: bool) -> None:
        """Note that none of the group's routes opens in this run.

        If it is the last open group, the job ends, with the error unless a group `opens_later`.
        Otherwise, tasks that only this group could take are finished with the error.
        """
        with self._lock:
            group.is_closed = True
            if opens_later:
                self.put_off = error
            if all(other.is_closed for other in self._groups):
                self._end(None if self.put_off else error)
                return
            lost = [task for task in self._ready if not self._may_be_taken(task)]
            for task in lost:
                self._ready.remove(task)
            self._taken += len(lost)
        for task in lost:
            task.give_up(error, may_work_later=True)
            self.to_write.put(task)

    def is_too_long(self, task: Task, group: Group) -> bool:
        """Note that a task is too long for a group; return whether it is too long for all."""
        with self._lock:
            task.too_long_for.add(group)
            return not self._may_be_taken(task)

    # --- the groups

    def start(self, groups: Sequence[Group]) -> list[Group]:
        """Replace the groups; return the group of each worker to start."""
        with self._lock:
            for old in self._groups:
                old.is_closed = True
            self._groups = list(groups)
            self.wanted = max(THREADS, sum(2 * group.size for group in groups))
            self._work.notify_all()
            for group in groups:
                group.threads = PACKING_THREADS if group.model else 1
            return [group for group in groups for _ in range(group.threads)]

    def grow(self) -> list[Group]:
        """Return the group of each worker to start, for groups in which more workers help and have
        work.
        """
        new: list[Group] = []
        now = time.monotonic()
        with self._lock:
            for group in self._groups:
                if group.model:
                    continue
                if self._ready and not self._idle:
                    group.growth.adjust(now, time.process_time())
                rows = group.growth.pace[1] if group.growth.pace else 0.0
                ready = max(_READY * group.growth.threads, int(_READY_SECONDS * rows))
                self.wanted = max(self.wanted, ready)
                if not group.growth.is_limited:
                    group.size = max(1, min(_MOST_HELD, int(_HELD_SECONDS * rows)))
                if group.is_closed or self.ending.is_set():
                    continue
                missing = group.growth.threads - group.threads
                count = max(0, min(missing, len(self._ready) - self._idle))
                group.threads += count
                new += [group] * count
        return new

    def resize(self, sizes: Mapping[Model, int]) -> None:
        """Set the number of rows in one request of each model, within its group's cap."""
        with self._lock:
            for group in self._groups:
                if group.model:
                    group.size = min(group.cap, sizes.get(group.model, 1))

    def sizes(self) -> dict[Model, int]:
        """Rows per request, of the models that take packed requests."""
        with self._lock:
            return {group.model: group.size for group in self._groups if group.model}

    def pace(self) -> tuple[int, float] | None:
        """The threads that ask each row alone, and their rows per second; None if unknown."""
        with self._lock:
            paces = (group.growth.pace for group in self._groups if not group.model)
            return next(filter(None, paces), None)

    # --- the writer

    def claimed(self) -> list[str]:
        """Addresses of all tasks that are claimed and not on disk."""
        with self._lock:
            return list(self._claimed)

    def note_written(self, tasks: Iterable[Task]) -> None:
        """Note that tasks are on disk, or compared; from now on no rows join them."""
        with self._lock:
            for task in tasks:
                self._taken -= 1
                self._claimed.pop(task.address, None)

    def is_done(self) -> bool:
        """Whether every task is written, and no packed row can be asked alone now."""
        now = self.clock.time()
        with self._lock:
            return not self._taken and not any(
                group is task.group and not group.is_closed and group.opens_at <= now
                for task in self._ready
                if task.checks
                for group in self._groups
            )

    def is_quiet(self) -> bool:
        """Whether every task that a worker took is written."""
        with self._lock:
            return not self._taken

    def clear(self) -> tuple[list[str], int]:
        """Remove all ready tasks; returns the addresses of rows, and the number of checks."""
        with self._lock:
            addresses = [task.address for task in self._ready if task.checks is None]
            checks = len(self._ready) - len(addresses)
            self._ready.clear()
            for address in addresses:
                del self._claimed[address]
        return addresses, checks

    def end(self, error: BaseException | None = None) -> None:
        """Start no more requests; those in progress continue to their end."""
        with self._lock:
            self._end(error)

    # --- while the lock is held

    def _pick(self, group: Group) -> list[Task]:
        size = group.size if group.model else 1
        picked: list[Task] = []
        passed: list[Task] = []
        while self._ready and len(picked) < size:
            task = self._ready.popleft()
            if not task.suits(group):
                passed.append(task)
            elif picked and task.limit <= len(picked):
                self._ready.appendleft(task)
                break
            else:
                size = min(size, task.limit)
                picked.append(task)
        self._ready.extendleft(reversed(passed))
        self._taken += len(picked)
        if len(self._ready) < self.wanted:
            self._room.notify()
        return picked

    def _may_be_taken(self, task: Task) -> bool:
        return any(task.suits(group) for group in self._groups if not group.is_closed)

    def _are_all_closed(self) -> bool:
        now = self.clock.time()
        return all(
            group.is_closed or now < group.opens_at or self._awaits_free(group)
            for group in self._groups
        )

    def _awaits_free(self, group: Group) -> bool:
        """Whether a group of paid routes leaves the rows to a group with free routes."""
        if group.awaits_free is None or not group.awaits_free.left:
            return False
        until = self.clock.time() + group.awaits_free.left
        return any(
            other.awaits_free is None and not other.is_closed and other.opens_at <= until
            for other in self._groups
        )

    def _end(self, error: BaseException | None) -> None:
        self.error = self.error or error
        self.ending.set()
        self._work.notify_all()
        self._room.notify_all()


@dataclass(frozen=True)
class _JobClock:
    """The configuration's clock; its sleepers wake when the job ends."""

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
