"""The two threads of a job around its workers: one reads the rows, the other writes the replies.

The reader passes on the rows whose reply is kept, and claims the others, few at a time, so that
several kernels can share a job. The writer saves many finished rows in one write.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError
from arche_magic.llm_providers.processes import is_dead, this_process
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.reply_cache.store import KeptFailure, ReplyStore, reply_store
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.text.wording import plural

from .packing import Check, Model, PackingWarning
from .rows import CHUNK, Row, Rows, Task, raw_text
from .whole_job import JobStopped
from .workers import Workers

# How often to check rows that another kernel has claimed.
_LOOK_SECONDS = 1.0
# A kernel that has not renewed its claims for this long counts as dead.
_CLAIM_SECONDS = 90.0
_RENEW_SECONDS = _CLAIM_SECONDS / 3
# Seconds until a job tries again to end its claims on a full disk.
_TRY_AGAIN_SECONDS = 1.0
_NAP_SECONDS = 0.1
# Rows that finish within the first time are written together, so that a job writes less often. A
# fast job waits longer: the first time multiplied by the rows of its last write, up to the second
# time.
_GATHER_SECONDS, _MOST_SECONDS = 0.03, 0.1
# If this many rows are refused and none is answered, the rows are not the cause, and the job ends.
_REFUSED_AT_ONCE = 3

_at_work: set[str] = set()


class _Claims:
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


class ReaderWriter:
    """Passes the rows of a job to its workers, and finished rows to `put`, which can block.

    The requests of the rows are like `sample`, except for the prompt. Rows that failed permanently
    are asked again with `retry_errors`, and rows with a kept reply with `fresh`.
    """

    def __init__(
        self,
        rows: Rows,
        llm: IntelligentLLMOrchestrator,
        sample: Request,
        workers: Workers,
        put: Callable[[list[Row] | None], None],
        *,
        retry_errors: bool,
        fresh: bool,
    ) -> None:
        self._rows, self._llm, self._sample = rows, llm, sample
        self._address = llm.addresses_like(sample)
        self._store = reply_store(llm.configuration.replies)
        self._claims = _Claims(self._store)
        self._workers, self._scheduler, self._counts = workers, workers.scheduler, workers.counts
        self._whole, self._put = workers.whole, put
        self._retry_errors, self._fresh = retry_errors, fresh
        # Addresses of kept replies that no longer fit the schema.
        self._misfits: set[str] = set()
        # The number of rows of the last write.
        self._written = 0

    def renew_claims(self) -> None:
        """Renew the claims on the rows that are not written, if it is time for that."""
        self._claims.renew(self._scheduler.claimed)

    # --- the reader

    def read(self) -> None:
        """Read all rows, as fast as the workers need them."""
        scheduler = self._scheduler
        theirs: dict[str, Task] = {}
        began = self._llm.configuration.clock.time()
        for start in self._rows.chunks():
            if scheduler.ending.is_set():
                return
            found, failed = self._tasks(start)
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
            theirs = self._claim(left)

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
            if (fitting := self._fitting(reply)) is not None:
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
        self._hand_out(rows)
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
        mine = self._claims.take(by_address.keys() - kept) | self._claims.take(kept, again=True)
        self._scheduler.add(task for task in tasks if task.address in mine)
        return {task.address: task for task in tasks if task.address not in mine}

    # --- the writer

    def write(self) -> None:
        """Write until every row is finished, or the job ends and no call is in progress."""
        try:
            while True:
                if batch := self._gather():
                    self._write(batch)
                elif self._is_over():
                    break
                self._workers.look_after()
                self.renew_claims()
            self._hand_out_rest()
        finally:
            self._workers.end()
            self._claims.end()
            self._put(None)

    def _gather(self) -> list[Task]:
        """The tasks that have finished; waits for the first one and then a moment longer."""
        batch: list[Task] = []
        try:
            batch.append(self._scheduler.to_write.get(timeout=_NAP_SECONDS))
            time.sleep(min(_MOST_SECONDS, _GATHER_SECONDS * max(1, self._written)))
            while True:
                batch.append(self._scheduler.to_write.get_nowait())
        except queue.Empty:
            self._written = len(batch)
            return batch

    def _is_over(self) -> bool:
        if not self._scheduler.ending.is_set() and (
            # Some packed rows must still be asked alone, or are being asked.
            self._counts.left or not self._scheduler.is_done()
        ):
            return False
        self._scheduler.end()
        addresses, checks = self._scheduler.clear()
        # No worker can ask these rows alone now.
        self._counts.not_compared += checks
        self._claims.release(addresses)
        return self._scheduler.is_quiet()

    def _write(self, batch: list[Task]) -> None:
        """Save the outcome of tasks, then hand out their rows."""
        for task in batch:
            if task.checks is not None:
                self._compare(task, task.checks)
        tasks = self._without_untrusted([task for task in batch if task.checks is None])
        now = self._scheduler.clock.time()
        if replies := {task.address: task.reply for task in tasks if task.reply is not None}:
            self._store.finish(replies, now)
        for task in tasks:
            if task.reply is not None:
                self._counts.note_reply(task.reply.usage)
            if task.packed_by:
                self._whole.packed_by(task.packed_by).addresses.add(task.address)
                self._counts.packed += 1
        failed = [(task, task.error) for task in tasks if task.error is not None]
        if final := {
            task.address: KeptFailure(error.to_store(), raw_text(error))
            for task, error in failed
            if not task.may_work_later
        }:
            self._store.fail(final, now)
        self._claims.release([task.address for task, _ in failed if task.may_work_later])
        # From now on, no further rows join them.
        self._scheduler.note_written(tasks)
        rows = [row for task in tasks for row in task.as_rows()]
        self._counts.finish(rows)
        # Before the caller takes the rows: they would be subtracted twice from those that are left.
        for _ in batch:
            self._scheduler.to_write.task_done()
        if rows:
            self._put(rows)
        self._judge([error for _, error in failed])

    def _without_untrusted(self, tasks: list[Task]) -> list[Task]:
        """Return the tasks of trusted models, and hand the others back to be asked again."""
        packed_by = self._whole.packed_by
        untrusted = [
            task for task in tasks if task.packed_by and packed_by(task.packed_by).is_refuted
        ]
        if not untrusted:
            return tasks
        for task in untrusted:
            task.reply = task.packed_by = None
        self._counts.packed += len(untrusted)
        self._counts.discarded += len(untrusted)
        self._scheduler.hand_back(untrusted)
        return [task for task in tasks if task not in untrusted]

    def _compare(self, task: Task, check: Check) -> None:
        """Count whether a packed reply agrees with the reply to the same row asked alone."""
        self._scheduler.note_written([task])
        agrees = None
        if task.reply is not None:
            self._counts.note_reply(task.reply.usage)
            agrees = check.agrees(task.reply)
        if agrees is None:
            self._counts.not_compared += 1
            return
        self._counts.checked += 1
        self._counts.agreed += agrees
        if self._whole.packed_by(check.model).note_check(agrees):
            self._discard(check.model)

    def _discard(self, model: Model) -> None:
        """Delete the packed replies of a model, and ask their rows again."""
        self._workers.resize()
        packed = self._whole.packed_by(model)
        addresses = packed.addresses
        self._store.forget(addresses)
        self._counts.discarded += len(addresses)
        for start in self._rows.chunks():
            found, _ = self._tasks(start)
            tasks = {}
            for address in found.keys() & addresses:
                task = found[address]
                task.rows = [row for row in task.rows if self._counts.is_finished(row[0])]
                if task.rows:
                    tasks[address] = task
                    self._counts.ask_again(position for position, _ in task.rows)
            self._scheduler.add(self._scheduler.join(tasks))
        # Without a place in our code, whose line would be printed below the message.
        warnings.warn_explicit(
            f"{'/'.join(model)}: {packed.disagreed} of {packed.compared} rows got a different "
            "answer when they were asked alone, so its packed replies are discarded, and their "
            "rows are asked again, one by one",
            PackingWarning,
            "arche_magic",
            0,
        )

    def _judge(self, errors: list[LLMProviderError]) -> None:
        """End the job if too many rows have failed."""
        if not errors:
            return
        counts, whole, last = self._counts, self._whole, errors[-1]
        counts.failed += len(errors)
        whole.failed += len(errors)
        refused = all(isinstance(error, InvalidRequest) for error in errors)
        if refused and not counts.served and counts.failed >= _REFUSED_AT_ONCE:
            self._scheduler.end(
                JobStopped(f"stopped, because every row so far was refused: {last}")
            )
        elif whole.failed >= whole.stop_after:
            what = plural(whole.failed, "failed row")
            self._scheduler.end(JobStopped(f"stopped after {what}, the last of them: {last}"))

    def _hand_out_rest(self) -> None:
        """Return the rows that were not asked within the patience, each with the reason."""
        if not (put_off := self._scheduler.put_off) or self._scheduler.error:
            return
        index = self._rows.index
        for start in self._rows.chunks():
            self._hand_out(
                [
                    Row(at, index[at], "", error=f"not asked: {put_off}")
                    for at in range(start, min(start + CHUNK, len(index)))
                    if not self._counts.is_finished(at)
                ]
            )

    def _hand_out(self, rows: list[Row]) -> None:
        if rows:
            self._counts.finish(rows)
            self._put(rows)
