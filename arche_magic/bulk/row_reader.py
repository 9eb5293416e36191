"""The reader of a job: makes tasks from rows, passes on kept replies, claims the other rows.

It claims few rows at a time, so that several kernels can share a job.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.processes import is_dead, this_process
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.reply_cache.store import ReplyStore
from arche_magic.llm_providers.request import Request, Schema

from .rows import Row, Rows, Task
from .workers import Workers

# How often to check rows that another kernel has claimed.
_LOOK_SECONDS = 1.0
# A kernel that has not renewed its claims for this long counts as dead.
_CLAIM_SECONDS = 90.0
_RENEW_SECONDS = _CLAIM_SECONDS / 3
# Seconds until a job tries again to end its claims on a full disk.
_TRY_AGAIN_SECONDS = 1.0

_at_work: set[str] = set()


class Claims:
    """The rows that one job asks, so that no other job asks them at the same time.

    Claims are in the store of replies. Those of a killed kernel end when they expire, or as soon as
    another kernel of the same machine sees that their owner has ended.
    """

    def __init__(self, store: ReplyStore) -> None:
        self._store = store
        # The name contains the process, so that others see whether it still runs.
        self._owner = f"{this_process()}:{os.urandom(6).hex()}"
        _at_work.add(self._owner)
        self._renewed_at = time.monotonic()

    def take(self, addresses: Collection[str], kept_too: set[str]) -> set[str]:
        """Claim addresses; returns those that no other job has claimed.

        An address with a kept reply cannot be claimed, unless it is one of `kept_too`.
        """
        now, mine = time.time(), set[str]()
        again = kept_too.intersection(addresses)
        for part, is_again in ((set(addresses) - again, False), (again, True)):
            if part:
                mine |= self._store.claim(
                    part, self._owner, now, now + _CLAIM_SECONDS, again=is_again
                )
        return mine

    def renew(self, claimed: Callable[[], Collection[str]]) -> None:
        """Renew the claims on the addresses that `claimed` returns, if it is time for that."""
        if time.monotonic() < self._renewed_at + _RENEW_SECONDS:
            return
        self._renewed_at = time.monotonic()
        if addresses := claimed():
            now = time.time()
            self._store.claim(addresses, self._owner, now, now + _CLAIM_SECONDS, again=True)

    def release(self, addresses: Iterable[str]) -> None:
        """Let other jobs claim these addresses."""
        self._store.release(addresses, self._owner)

    def release_dead(self, addresses: Iterable[str]) -> None:
        """End the claims on these that belong to jobs that have ended."""
        owners = self._store.owners(addresses)
        for owner in filter(_is_dead, set(owners.values())):
            self._store.release([a for a, name in owners.items() if name == owner], owner)

    def end(self) -> None:
        """End all claims of the job; if the disk is full, they are ended later."""
        _at_work.discard(self._owner)
        if self._store.problem:
            threading.Thread(target=self._end_later, name="arche-job", daemon=True).start()

    def _end_later(self) -> None:
        """Try again to end the claims after a full disk; other kernels would wait for them."""
        until = time.monotonic() + _CLAIM_SECONDS
        while not self._store.end_claims(self._owner) and time.monotonic() < until:
            time.sleep(_TRY_AGAIN_SECONDS)


class RowReader:
    """Passes the rows of a job to its workers, and rows that need no request to `hand_out`.

    The requests of the rows are like `sample`, except for the prompt. Rows that failed permanently
    are asked again with `retry_errors`, and rows with a kept reply with `fresh`.
    """

    def __init__(
        self,
        rows: Rows,
        llm: IntelligentLLMOrchestrator,
        sample: Request,
        store: ReplyStore,
        claims: Claims,
        workers: Workers,
        hand_out: Callable[[list[Row]], None],
        *,
        retry_errors: bool,
        fresh: bool,
    ) -> None:
        self._rows, self._llm, self._sample = rows, llm, sample
        self._address = llm.addresses_like(sample)
        self._store, self._claims, self._workers = store, claims, workers
        self._hand_out, self._retry_errors, self._fresh = hand_out, retry_errors, fresh
        # Addresses of kept replies that no longer fit the schema.
        self._misfits: set[str] = set()

    def run(self) -> None:
        """Read all rows, as fast as the workers need them."""
        scheduler = self._workers.scheduler
        theirs: dict[str, Task] = {}
        began = self._llm.configuration.clock.time()
        for start in self._rows.chunks():
            if scheduler.ending.is_set():
                return
            found, failed = self._tasks(start)
            if failed:
                self._hand_out(failed)
            for address in theirs.keys() & found.keys():
                theirs[address].rows.extend(found.pop(address).rows)
            tasks = scheduler.join(found)
            tasks = tasks if self._fresh else self._without_kept(tasks)
            if tasks and self._workers.sample is None:
                self._workers.start(tasks[0])
            while tasks and not scheduler.ending.is_set():
                scheduler.await_room()
                count = 2 * scheduler.wanted
                some, tasks = tasks[:count], tasks[count:]
                theirs |= self._claim(some)
        while theirs and not scheduler.ending.wait(_LOOK_SECONDS):
            self._claims.release_dead(theirs)
            left = self._without_kept(list(theirs.values()), since=began if self._fresh else 0.0)
            theirs = self._claim(left) if left else {}

    def ask_again(self, addresses: set[str]) -> None:
        """Ask the finished rows of these addresses again."""
        counts, scheduler = self._workers.counts, self._workers.scheduler
        for start in self._rows.chunks():
            found, _ = self._tasks(start)
            tasks = {}
            for address in found.keys() & addresses:
                task = found[address]
                task.rows = [row for row in task.rows if counts.is_finished(row[0])]
                if task.rows:
                    tasks[address] = task
                    counts.ask_again(position for position, _ in task.rows)
            scheduler.add(scheduler.join(tasks))

    def _tasks(self, start: int) -> tuple[dict[str, Task], list[Row]]:
        """The next rows that have a prompt, by address, and those that have none."""
        tasks: dict[str, Task] = {}
        failed: list[Row] = []
        found = self._rows.requests(start, self._llm.configuration, self._sample)
        for position, label, prompt, request in found:
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
        """The tasks that need a request; rows whose reply was kept since then are handed out."""
        addresses = [task.address for task in tasks]
        kept = {}
        for address, reply in self._store.lookup_many(addresses).items():
            if reply.from_memory is None or reply.from_memory.timestamp() < since:
                continue
            if (fitting := _read(reply, self._sample.schema)) is not None:
                kept[address] = fitting
            else:
                self._misfits.add(address)
        asks_again = self._retry_errors or self._fresh
        failures = {} if asks_again else self._store.failures(addresses)
        rows, left = [], []
        for task in tasks:
            if (found := kept.get(task.address)) is not None:
                task.reply = found
                rows += task.as_rows(resumed=True)
            elif (failure := failures.get(task.address)) is not None:
                rows += task.as_rows(resumed=True, error=failure.error, raw=failure.raw)
            else:
                left.append(task)
        if rows:
            self._hand_out(rows)
        return left

    def _claim(self, tasks: list[Task]) -> dict[str, Task]:
        """Claim tasks and pass them to the workers; return those claimed by another kernel."""
        by_address = {task.address: task for task in tasks}
        mine = self._claims.take(by_address, set(by_address) if self._fresh else self._misfits)
        self._workers.scheduler.add(task for task in tasks if task.address in mine)
        return {task.address: task for task in tasks if task.address not in mine}


def _read(reply: Reply, schema: Schema | None) -> Reply | None:
    """A kept reply with its parsed value; None if it no longer fits the schema."""
    if schema is None:
        return reply
    try:
        return reply.changed(parsed=schema.read(str(reply)))
    except ValueError:
        return None


def _is_dead(owner: str) -> bool:
    """Whether the claim's job, or its process on this machine, has ended."""
    process = owner.rpartition(":")[0]
    return owner not in _at_work if process == this_process() else is_dead(process)
