"""The reader of a job: makes prompts, returns kept replies, and claims the other rows.

It claims few rows at a time, so that several kernels can share a job. Claims are in the store.
Those of a killed kernel end when they expire, or as soon as another kernel of the same machine sees
that their owner has ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.processes import is_dead, this_process
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.reply_cache.store import ReplyStore
from arche_magic.llm_providers.request import Request, Schema

from .progress import Row
from .rows import CHUNK, Rows
from .scheduler import Scheduler
from .tasks import Task

# A kernel that has not renewed its claims for this long counts as dead.
CLAIM_SECONDS = 90.0
# How often to check rows that another kernel has claimed.
_LOOK_SECONDS = 1.0


class Reader:
    """Passes the rows of a job to its scheduler.

    Args:
        rows: the rows.
        llm: the provider object that gives the addresses.
        sample: a request that is equal to those of the rows, except for the prompt.
        scheduler: takes the tasks.
        store: where replies are kept.
        owner: the name of its claims.
        hand_out: takes rows that need not be asked.
        before_asking: called with the first row that is to be asked.
        retry_errors: rows that failed for good are asked again.
        fresh: rows whose reply is kept are asked again.
    """

    def __init__(
        self,
        rows: Rows,
        llm: IntelligentLLMOrchestrator,
        sample: Request,
        scheduler: Scheduler,
        store: ReplyStore,
        owner: str,
        hand_out: Callable[[list[Row]], None],
        before_asking: Callable[[Task], None],
        *,
        retry_errors: bool,
        fresh: bool,
    ) -> None:
        self._rows, self._llm, self._sample = rows, llm, sample
        self._address = llm.addresses_like(sample)
        self._scheduler, self._store, self._owner = scheduler, store, owner
        self._hand_out, self._before_asking = hand_out, before_asking
        self._retry_errors, self._fresh = retry_errors, fresh
        self._asked = False
        # Addresses of kept replies that no longer fit the schema.
        self._misfits: set[str] = set()

    def run(self) -> None:
        """Read all rows, as fast as they are wanted."""
        ending = self._scheduler.ending
        theirs: dict[str, Task] = {}
        began = self._llm.configuration.clock.time()
        for start in range(0, len(self._rows), CHUNK):
            if ending.is_set():
                return
            found, failed = self._tasks(start)
            if failed:
                self._hand_out(failed)
            tasks = self._scheduler.join(found)
            tasks = tasks if self._fresh else self._without_kept(tasks)
            if tasks and not self._asked:
                self._asked = True
                self._before_asking(tasks[0])
            while tasks and not ending.is_set():
                self._scheduler.await_room()
                count = 2 * self._scheduler.wanted
                some, tasks = tasks[:count], tasks[count:]
                theirs |= self._claim(some)
        while theirs and not ending.wait(_LOOK_SECONDS):
            self._end_dead_claims(theirs)
            left = self._without_kept(list(theirs.values()), since=began if self._fresh else 0.0)
            theirs = self._claim(left) if left else {}

    def again(self, addresses: set[str], is_finished: Callable[[int], bool]) -> list[int]:
        """Ask the finished rows of these addresses again; returns their positions."""
        positions: list[int] = []
        for start in range(0, len(self._rows), CHUNK):
            found, _ = self._tasks(start)
            tasks = {}
            for address in found.keys() & addresses:
                task = found[address]
                task.rows = [row for row in task.rows if is_finished(row[0])]
                if task.rows:
                    tasks[address] = task
                    positions += [position for position, _ in task.rows]
            self._scheduler.add(self._scheduler.join(tasks))
        return positions

    def _tasks(self, start: int) -> tuple[dict[str, Task], list[Row]]:
        """The next rows that have a prompt, by address, and those that have none."""
        tasks: dict[str, Task] = {}
        failed: list[Row] = []
        stop = min(start + CHUNK, len(self._rows))
        found = self._rows.requests(start, stop, self._llm.configuration, self._sample)
        for position, (label, prompt, request) in enumerate(found, start):
            if isinstance(request, str):
                failed.append(Row(position, label, prompt, error=request))
                continue
            address = self._address(request)
            if address in tasks:
                tasks[address].rows.append((position, label))
                continue
            tasks[address] = Task(address, request, [(position, label)])
            if request.images:
                tasks[address].limit = 1
        return tasks, failed

    def _without_kept(self, tasks: list[Task], since: float = 0.0) -> list[Task]:
        """The tasks that are to be asked; the rows of those kept since then are handed out."""
        addresses = [task.address for task in tasks]
        schema = self._sample.schema
        kept = {}
        for address, reply in self._store.lookup_many(addresses).items():
            if reply.from_memory is None or reply.from_memory.timestamp() < since:
                continue
            if (read := _read(reply, schema)) is not None:
                kept[address] = read
            else:
                self._misfits.add(address)
        failures = {} if self._retry_errors else self._store.failures(addresses)
        rows, left = [], []
        for task in tasks:
            answer = kept.get(task.address)
            failure = None if answer is not None else failures.get(task.address)
            if answer is None and failure is None:
                left.append(task)
                continue
            error, raw = (failure.error, failure.raw) if failure else (None, None)
            spent: tuple[int, float | None, str] = (0, None, "")
            if answer is not None:
                spent = answer.usage.total_tokens, answer.cost, answer.request
            rows += [
                Row(position, label, task.prompt, answer, error, True, *spent, raw)
                for position, label in task.rows
            ]
        if rows:
            self._hand_out(rows)
        return left

    def _claim(self, tasks: list[Task]) -> dict[str, Task]:
        """Claim tasks and make them ready; return those that another kernel has claimed."""
        now = time.time()
        by_address = {task.address: task for task in tasks}
        again = set(by_address) if self._fresh else self._misfits & by_address.keys()
        mine: set[str] = set()
        for addresses, kept_too in ((by_address.keys() - again, False), (again, True)):
            if addresses:
                until = now + CLAIM_SECONDS
                mine |= self._store.claim(addresses, self._owner, now, until, again=kept_too)
        ready = [task for task in tasks if task.address in mine]
        self._scheduler.add(ready)
        return {task.address: task for task in tasks if task.address not in mine}

    def _end_dead_claims(self, addresses: Iterable[str]) -> None:
        owners = self._store.owners(addresses)
        for owner in filter(_is_dead, set(owners.values())):
            self._store.release([a for a, name in owners.items() if name == owner], owner)


_at_work: set[str] = set()


def new_owner() -> str:
    """A name for the claims of one job, which has its process in it."""
    owner = f"{this_process()}:{os.urandom(6).hex()}"
    _at_work.add(owner)
    return owner


def end_owner(owner: str) -> None:
    """Note that the job has ended: claims it could not release (disk full) are dead."""
    _at_work.discard(owner)


def _is_dead(owner: str) -> bool:
    """Whether the claim's job, or its process on this machine, has ended."""
    process = owner.rpartition(":")[0]
    return owner not in _at_work if process == this_process() else is_dead(process)


def _read(reply: Reply, schema: Schema | None) -> Reply | None:
    """A kept reply with its value, if it still fits the schema."""
    if schema is None:
        return reply
    try:
        return reply.changed(parsed=schema.read(str(reply)))
    except ValueError:
        return None
