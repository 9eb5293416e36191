"""The reader of a job: makes tasks from rows, hands out kept replies, and claims the other rows.

It claims few rows at a time, so that several kernels can share a job.
"""

from __future__ import annotations

from collections.abc import Callable

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.reply_cache.store import ReplyStore
from arche_magic.llm_providers.request import Request, Schema

from .claims import Claims
from .rows import Row, Rows, Task
from .workers import Workers

# How often to check rows that another kernel has claimed.
_LOOK_SECONDS = 1.0


class RowReader:
    """Passes the rows of a job to its workers, and rows that need not be asked to `hand_out`.

    The requests of the rows are like `sample`, except for the prompt. Rows that failed for good are
    asked again with `retry_errors`, and rows whose reply is kept with `fresh`.
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
        """Read all rows, as fast as they are wanted."""
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
        """The tasks that are to be asked; the rows of those kept since then are handed out."""
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
                rows += task.finished(
                    resumed=True, reply=found, tokens=found.usage.total_tokens,
                    cost_usd=found.cost, request=found.request,
                )  # fmt: skip
            elif (failure := failures.get(task.address)) is not None:
                rows += task.finished(resumed=True, error=failure.error, raw=failure.raw)
            else:
                left.append(task)
        if rows:
            self._hand_out(rows)
        return left

    def _claim(self, tasks: list[Task]) -> dict[str, Task]:
        """Claim tasks and make them ready; return those that another kernel has claimed."""
        by_address = {task.address: task for task in tasks}
        mine = self._claims.take(by_address, set(by_address) if self._fresh else self._misfits)
        self._workers.scheduler.add(task for task in tasks if task.address in mine)
        return {task.address: task for task in tasks if task.address not in mine}


def _read(reply: Reply, schema: Schema | None) -> Reply | None:
    """A kept reply with its value, if it still fits the schema."""
    if schema is None:
        return reply
    try:
        return reply.changed(parsed=schema.read(str(reply)))
    except ValueError:
        return None
