"""What the threads of a job share: prompts that are ready, being asked, or finished."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from arche_magic.llm_providers.errors import LLMProviderError
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.types import Request

from .agreement import Check, Model
from .growth import THREADS

MOST_PACKED = 50


@dataclass(eq=False)
class Task:
    """What is to be asked once, for all rows that ask the same.

    Attributes:
        address: where its reply is kept.
        request: what is asked, alone.
        rows: position and label of each row.
        limit: with how many others it may travel in one request, itself counted.
        tries: how often it failed where asking again could help.
        too_long_for: lanes that cannot take it.
        checks: what its reply is only compared with, if anything.
        lane: the only lane that may take it, if not all may.
    """

    address: str
    request: Request
    rows: list[tuple[int, Hashable]]
    limit: int = MOST_PACKED
    tries: int = 0
    too_long_for: set[int] = field(default_factory=set)
    checks: Check | None = None
    lane: int | None = None

    def suits(self, lane: int) -> bool:
        """Whether a lane can take it."""
        return lane not in self.too_long_for and self.lane in (None, lane)

    @property
    def prompt(self) -> str:
        """What is asked."""
        return self.request.messages[-1].content


@dataclass(frozen=True)
class Finished:
    """What came of a task.

    Attributes:
        again: asking it in another run could help.
        packed_by: the model whose packed reply it is, if it is one.
    """

    task: Task
    reply: Reply | None = None
    error: LLMProviderError | None = None
    again: bool = False
    packed_by: Model | None = None


class Pool:
    """Tasks on their way from the reader through the workers to the keeper.

    Attributes:
        lock: held while anything of it changes.
        work: workers wait here for tasks, or for a lane to open.
        ready: tasks that this job has claimed and nobody asks yet.
        claimed: all of its tasks, by address, until they are on disk.
        asking: how many of them are with workers, or wait to be written.
        idle: how many workers have nothing to do.
        wanted: how many should be ready at least.
        finished: what is to be written.
        ending: set when no more is asked.
        error: why, if something is wrong.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.work = threading.Condition(self.lock)
        self._room = threading.Condition(self.lock)
        self.ready: deque[Task] = deque()
        self.claimed: dict[str, Task] = {}
        self.asking = self.idle = 0
        self.wanted = THREADS
        self.finished: queue.Queue[Finished] = queue.Queue(4 * THREADS)
        self.ending = threading.Event()
        self.error: BaseException | None = None

    def join(self, tasks: dict[str, Task]) -> list[Task]:
        """The tasks that are not being asked already; the rows of the others join those."""
        with self.lock:
            for address in self.claimed.keys() & tasks.keys():
                self.claimed[address].rows.extend(tasks.pop(address).rows)
        return list(tasks.values())

    def add(self, tasks: Iterable[Task]) -> None:
        """Make tasks ready that this job has claimed."""
        with self.lock:
            for task in tasks:
                self.claimed[task.address] = task
                self.ready.append(task)
            self.work.notify_all()

    def await_room(self) -> None:
        """Sleep until more tasks are wanted, or the job ends."""
        with self.lock:
            while len(self.ready) >= self.wanted and not self.ending.is_set():
                self._room.wait()

    def pick(self, lane: int, size: int) -> list[Task]:
        """The next tasks that a lane can take, to travel in one request. The lock is held."""
        picked: list[Task] = []
        passed: list[Task] = []
        while self.ready and len(picked) < size:
            task = self.ready.popleft()
            if not task.suits(lane):
                passed.append(task)
            elif picked and task.limit <= len(picked):
                self.ready.appendleft(task)
                break
            else:
                size = min(size, task.limit)
                picked.append(task)
        self.ready.extendleft(reversed(passed))
        self.asking += len(picked)
        if len(self.ready) < self.wanted:
            self._room.notify()
        return picked

    def hand_back(self, tasks: Iterable[Task]) -> None:
        """Tasks that were picked and are to be asked later."""
        with self.lock:
            for task in tasks:
                self.asking -= 1
                self.ready.appendleft(task)
            self.work.notify_all()

    def written(self, task: Task) -> list[tuple[int, Hashable]]:
        """The rows of a task that is on disk; from now on none joins it. The lock is held."""
        self.asking -= 1
        self.claimed.pop(task.address, None)
        return task.rows

    def clear(self) -> tuple[list[str], int]:
        """Take back what is ready; returns the addresses of rows, and the number of checks."""
        with self.lock:
            addresses = [task.address for task in self.ready if task.checks is None]
            checks = len(self.ready) - len(addresses)
            self.ready.clear()
            for address in addresses:
                del self.claimed[address]
        return addresses, checks

    def end(self, error: BaseException | None = None) -> None:
        """No more is asked; what is being asked comes to its end."""
        with self.lock:
            self.end_locked(error)

    def end_locked(self, error: BaseException | None = None) -> None:
        """The same while the lock is held."""
        self.error = self.error or error
        self.ending.set()
        self.work.notify_all()
        self._room.notify_all()
