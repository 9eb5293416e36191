"""The writer of a job: saves finished rows, many at once, and then returns them."""

from __future__ import annotations

import queue
import time
import warnings
from collections.abc import Callable

from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError, SchemaMismatch
from arche_magic.llm_providers.reply_cache.store import Failure, ReplyStore

from .agreement import Model, PackingWarning
from .progress import Counts, JobStopped, Row
from .reader import CLAIM_SECONDS
from .scheduler import Scheduler
from .tasks import Finished
from .workers import Workers

_BEAT_SECONDS = CLAIM_SECONDS / 3
_NAP_SECONDS = 0.1
# Rows that finish within the first time are written together, so that a job writes less often; a
# fast job gathers longer: the first time for each row of its last write, up to the second one.
_GATHER_SECONDS, _MOST_SECONDS = 0.03, 0.1
# If the first rows, this many, are all refused, the cause is not in the rows, and the job ends.
_REFUSED_AT_ONCE = 3


class Writer:
    """Takes what workers have finished; a reply is on disk before its rows are handed out.

    Args:
        scheduler: where outcomes come from.
        store: where replies are kept.
        owner: the name of the job's claims.
        counts: what is finished and spent.
        most_failed: number of failed rows at which the job ends; inf for no bound.
        now: the clock, in epoch seconds.
        hand_out: takes finished rows.
        workers: those of the job; the writer adjusts their number now and then.
        ask_again: asks the finished rows of these addresses once more.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        store: ReplyStore,
        owner: str,
        counts: Counts,
        most_failed: float,
        now: Callable[[], float],
        hand_out: Callable[[list[Row]], None],
        workers: Workers,
        ask_again: Callable[[set[str]], None],
    ) -> None:
        self._scheduler, self._store, self._owner = scheduler, store, owner
        self._counts, self._most_failed, self._now = counts, most_failed, now
        self._hand_out, self._workers, self._ask_again = hand_out, workers, ask_again
        self._beat_at = time.monotonic()
        self._written = 0

    def run(self) -> None:
        """Write until every row is finished, or the job ends and no call is under way."""
        while True:
            if batch := self._gather():
                answered = len(batch)
                self._write(batch)
                for _ in range(answered):
                    self._scheduler.finished.task_done()
            elif self._is_over():
                return
            self._workers.look_after()
            self.beat()

    def beat(self) -> None:
        """Renew the claims now and then, also while nobody takes the finished rows."""
        if time.monotonic() < self._beat_at + _BEAT_SECONDS:
            return
        self._beat_at = time.monotonic()
        if held := self._scheduler.claimed():
            now = time.time()
            self._store.claim(held, self._owner, now, now + CLAIM_SECONDS, again=True)

    def _gather(self) -> list[Finished]:
        """All that has finished, soon after the first of it."""
        batch: list[Finished] = []
        try:
            batch.append(self._scheduler.finished.get(timeout=_NAP_SECONDS))
            time.sleep(min(_MOST_SECONDS, _GATHER_SECONDS * max(1, self._written)))
            while True:
                batch.append(self._scheduler.finished.get_nowait())
        except queue.Empty:
            self._written = len(batch)
            return batch

    def _is_over(self) -> bool:
        if not self._scheduler.ending.is_set():
            if self._counts.done < self._counts.total:
                return False
            # Packed rows that are still to be asked alone too, or are being asked.
            if not self._scheduler.is_done():
                return False
        self._scheduler.end()
        addresses, checks = self._scheduler.clear()
        # Nobody can ask these rows alone any more.
        self._counts.not_compared += checks
        if addresses:
            self._store.release(addresses, self._owner)
        return self._scheduler.is_quiet()

    def _write(self, batch: list[Finished]) -> None:
        for finished in [f for f in batch if f.task.checks is not None]:
            batch.remove(finished)
            self._compare(finished)
        agreement = self._workers.agreement
        untrusted = [f for f in batch if f.packed_by and agreement.is_refuted(f.packed_by)]
        for finished in untrusted:
            batch.remove(finished)
        self._scheduler.hand_back(finished.task for finished in untrusted)
        now = self._now()
        if replies := {f.task.address: f.reply for f in batch if f.reply is not None}:
            self._store.finish(replies, now)
        for finished in batch:
            if finished.packed_by:
                agreement.note_packed(finished.packed_by, [finished.task.address])
                self._counts.packed += 1
        failed = [f for f in batch if f.error is not None]
        if final := {
            f.task.address: Failure(f.error.to_store(), _raw(f.error))
            for f in failed
            if f.error and not f.again
        }:
            self._store.fail(final, now)
        if again := [f.task.address for f in failed if f.again]:
            self._store.release(again, self._owner)
        rows: list[Row] = []
        written = self._scheduler.written([finished.task for finished in batch])
        for finished, places in zip(batch, written, strict=True):
            spent = self._spent(finished)
            why = str(finished.error) if finished.error else None
            raw, prompt = _raw(finished.error), finished.task.prompt
            for number, (position, label) in enumerate(places):
                joined = number > 0
                rows.append(Row(position, label, prompt, finished.reply, why, joined, *spent, raw))
        if rows:
            self._hand_out(rows)
        self._judge(failed)

    def _spent(self, finished: Finished) -> tuple[int, float | None, str]:
        """Tokens, USD and request of a task; counts its reply."""
        if (reply := finished.reply) is not None:
            self._counts.note_reply(reply.usage)
            return reply.usage.total_tokens, reply.cost, reply.request
        attempts = finished.error.attempts if finished.error else ()
        tokens = sum(attempt.input_tokens + attempt.output_tokens for attempt in attempts)
        costs = [attempt.cost_usd for attempt in attempts]
        cost = None if None in costs else sum(cost or 0.0 for cost in costs)
        return tokens, cost, attempts[-1].request if attempts else ""

    def _compare(self, finished: Finished) -> None:
        """Count whether a row that came packed was answered alike alone."""
        self._scheduler.note_checked()
        self._spent(finished)
        check, alone = finished.task.checks, finished.reply
        if check is None:
            return
        agrees = check.agrees(alone) if alone is not None else None
        if agrees is None:
            self._counts.not_compared += 1
            return
        self._counts.checked += 1
        self._counts.agreed += agrees
        if self._workers.agreement.note_check(check.model, agrees):
            self._discard(check.model)

    def _discard(self, model: Model) -> None:
        """Forget the packed replies of a model, and have their rows asked again."""
        agreement = self._workers.agreement
        self._workers.resize()
        addresses = agreement.addresses(model)
        self._store.forget(addresses)
        self._counts.discarded += len(addresses)
        self._ask_again(addresses)
        warnings.warn(
            f"{'/'.join(model)}: {agreement.words(model)} got a different answer when they were "
            f"asked alone, so its {len(addresses):,} packed replies are discarded and asked "
            "again, one by one",
            PackingWarning,
            stacklevel=2,
        )

    def _judge(self, failed: list[Finished]) -> None:
        """End the job if too many rows have failed."""
        if not failed:
            return
        counts, last = self._counts, failed[-1].error
        counts.failed += len(failed)
        refused = all(isinstance(finished.error, InvalidRequest) for finished in failed)
        if refused and not counts.served and counts.failed >= _REFUSED_AT_ONCE:
            self._scheduler.end(
                JobStopped(f"stopped, because every row so far was refused: {last}")
            )
        elif counts.failed >= self._most_failed:
            what = f"{counts.failed:,} failed row{'s' if counts.failed > 1 else ''}"
            self._scheduler.end(JobStopped(f"stopped after {what}, the last of them: {last}"))


def _raw(error: LLMProviderError | None) -> str | None:
    """The text of a reply that does not fit its schema, if that is the error."""
    return (error.text or None) if isinstance(error, SchemaMismatch) else None
