"""Reads the rows of a job. Rows whose reply is kept are handed out, and the others are claimed.

They are claimed a few at a time, so that several kernels can share a job.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.processes import is_dead, this_process
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.reply_cache.store import ReplyStore, reply_store
from arche_magic.llm_providers.request import Request

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

    def take(self, addresses: Collection[str], *, again: bool = False) -> set[str]:
        """Claim addresses; returns those that no other job has claimed.

        An address with a kept reply can only be claimed `again`.
        """
        if not addresses:
            return set()
        now = time.time()
        return self._store.claim(addresses, self._owner, now, now + _CLAIM_SECONDS, again=again)

    def renew(self, claimed: Callable[[], Collection[str]]) -> None:
        """Renew the claims on the rows that are not written yet, if it is time for that."""
        if time.monotonic() >= self._renewed_at + _RENEW_SECONDS:
            self._renewed_at = time.monotonic()
            self.take(claimed(), again=True)

    def release(self, addresses: Collection[str]) -> None:
        """Let other jobs claim these addresses."""
        if addresses:
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


def _is_dead(owner: str) -> bool:
    """Whether the claim's job, or its process on this machine, has ended."""
    process = owner.rpartition(":")[0]
    return owner not in _at_work if process == this_process() else is_dead(process)


class RowReader:
    """Passes the rows of a job to its workers.

    Their requests are like `sample`, except for the prompt. Rows that failed permanently are asked
    again with `retry_errors`, and rows with a kept reply with `fresh`. `put` takes finished rows,
    and can block.
    """

    def __init__(
        self,
        rows: Rows,
        llm: IntelligentLLMOrchestrator,
        sample: Request,
        workers: Workers,
        put: Callable[[list[Row]], None],
        *,
        retry_errors: bool,
        fresh: bool,
    ) -> None:
        self.rows, self._llm, self._sample = rows, llm, sample
        self._address = llm.addresses_like(sample)
        self.store = reply_store(llm.configuration.replies)
        self.claims = Claims(self.store)
        self._workers, self._scheduler = workers, workers.scheduler
        self._put = put
        self._retry_errors, self._fresh = retry_errors, fresh
        # Addresses of kept replies that no longer fit the schema.
        self._misfits: set[str] = set()

    def run(self) -> None:
        """Read all rows, as fast as the workers need them."""
        scheduler = self._scheduler
        theirs: dict[str, Task] = {}
        began = self._llm.configuration.clock.time()
        for start in self.rows.chunks():
            if scheduler.ending.is_set():
                return
            found, failed = self.tasks(start)
            self.hand_out(failed)
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
            self.claims.release_dead(theirs)
            left = self._without_kept(list(theirs.values()), since=began if self._fresh else 0.0)
            theirs = self._claim(left)

    def tasks(self, start: int) -> tuple[dict[str, Task], list[Row]]:
        """The next rows that have a prompt, by address, and those that have none."""
        tasks: dict[str, Task] = {}
        failed: list[Row] = []
        found = self.rows.requests(start, self._llm.configuration, self._sample)
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
        for address, reply in self.store.lookup_many(addresses).items():
            if reply.from_memory is None or reply.from_memory.timestamp() < since:
                continue
            if (fitting := self._fitting(reply)) is not None:
                kept[address] = fitting
            else:
                self._misfits.add(address)
        asks_again = self._retry_errors or self._fresh
        failures = {} if asks_again else self.store.failures(addresses)
        rows, left = [], []
        for task in tasks:
            if (found := kept.get(task.address)) is not None:
                task.reply = found
                rows += task.as_rows(resumed=True)
            elif (failure := failures.get(task.address)) is not None:
                rows += task.as_rows(resumed=True, error=failure.error, raw=failure.raw)
            else:
                left.append(task)
        self.hand_out(rows)
        return left

    def _fitting(self, reply: Reply) -> Reply | None:
        """A kept reply with its parsed value; None if it no longer fits the schema."""
        if (schema := self._sample.schema) is None:
            return reply
        try:
            return reply.changed(parsed=schema.read(str(reply)))
        except ValueError:
            return None

    def _claim(self, tasks: list[Task]) -> dict[str, Task]:
        """Claim tasks and pass them to the workers; return those claimed by another kernel."""
        by_address = {task.address: task for task in tasks}
        kept = by_address.keys() & (by_address if self._fresh else self._misfits)
        mine = self.claims.take(by_address.keys() - kept) | self.claims.take(kept, again=True)
        self._scheduler.add([task for task in tasks if task.address in mine])
        return {task.address: task for task in tasks if task.address not in mine}

    def hand_out(self, rows: list[Row]) -> None:
        """Count rows as finished, and pass them on."""
        if rows:
            self._workers.counts.finish(rows)
            self._put(rows)
