"""Saves the replies of a job, many at once, and hands out their rows."""

from __future__ import annotations

import queue
import time
import warnings
from collections.abc import Callable

from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError
from arche_magic.llm_providers.reply_cache.store import KeptFailure
from arche_magic.llm_providers.text.wording import plural

from .packing import Check, Model, PackingWarning
from .row_reader import RowReader
from .rows import CHUNK, Row, Task, raw_text
from .whole_job import JobStopped
from .workers import Workers

_NAP_SECONDS = 0.1
# Rows that finish within the first time are written together, so that a job writes less often. A
# fast job waits longer: the first time multiplied by the rows of its last write, up to the second
# time.
_GATHER_SECONDS, _MOST_SECONDS = 0.03, 0.1
# If this many rows are refused and none is answered, the rows are not the cause, and the job ends.
_REFUSED_AT_ONCE = 3


class ReplyWriter:
    """Writes the outcome of tasks until every row is finished.

    `put` takes finished rows, and None after the last ones; it can block.
    """

    def __init__(
        self, reader: RowReader, workers: Workers, put: Callable[[list[Row] | None], None]
    ) -> None:
        self._reader, self._store, self._claims = reader, reader.store, reader.claims
        self._workers, self._scheduler, self._counts = workers, workers.scheduler, workers.counts
        self._whole, self._put = workers.whole, put
        # The number of rows of the last write.
        self._written = 0

    def run(self) -> None:
        """Write until every row is finished, or the job ends and no call is in progress."""
        try:
            while True:
                if batch := self._gather():
                    self._write(batch)
                elif self._is_over():
                    break
                self._workers.look_after()
                self._claims.renew(self._scheduler.claimed)
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
        # Before the rows count as finished: they would be subtracted twice from the rest.
        for _ in batch:
            self._scheduler.to_write.task_done()
        self._counts.finish(rows)
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
        for start in self._reader.rows.chunks():
            found, _ = self._reader.tasks(start)
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
        index = self._reader.rows.index
        for start in self._reader.rows.chunks():
            self._reader.hand_out(
                [
                    Row(at, index[at], "", error=f"not asked: {put_off}")
                    for at in range(start, min(start + CHUNK, len(index)))
                    if not self._counts.is_finished(at)
                ]
            )
