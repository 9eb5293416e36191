"""A job: one run over many rows. Threads send requests, and each reply is saved before it is
returned.

    rows ──→ reader ──→ scheduler ──→ groups of workers ──→ writer ──→ rows
               │            ↑           │ ask, packed          │
               │ kept       └───────────┘ or alone             │ saved, many at once
               └────────────────────→ caller ←─────────────────┘

The reader (`row_reader.py`) makes the prompts of some rows and turns them into tasks, one for all
rows with the same prompt. It passes on the rows whose reply is kept. It claims the other tasks, so
that no other kernel asks them too. The scheduler gives the tasks to groups of workers (`group.py`),
which share routes. A worker sends a task alone, or several packed into one request (`packing.py`),
to the engine, which chooses the route and waits for it; or it hands the task back. The writer
(`reply_writer.py`) saves the outcome of tasks, many at once, and hands out their rows. `Job` passes
these to its caller, who makes a frame of them with `Replies` (`results.py`).

`workers.py` decides how many workers there are and how many rows a request has, from the limits
(`estimate.py`, `capacity.py`) and from the measured pace (`growth.py`).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.attempt_log import SESSION, notebook
from arche_magic.llm_providers.bounded import shielded
from arche_magic.llm_providers.errors import InvalidRequest, NoKeys
from arche_magic.llm_providers.options import build_request
from arche_magic.llm_providers.request import Request, Schema

from .comparison import gold_columns
from .estimate import rows_per_request
from .progress import FAILED, FINISHED, SPENT, Counts, Progress
from .reply_writer import ReplyWriter
from .row_reader import RowReader
from .rows import Row, Rows
from .twice import OtherModels, SecondQuestions, share_of
from .whole_job import JobRecord, WholeJob, checked_flag, note_job, orchestrator, refuse_tools
from .workers import Workers

# How long `cancel` waits for threads.
_FAREWELL_SECONDS = 0.25
# Maximum number of lists of finished rows that wait for the caller.
_MOST_WAITING = 8


class Job:
    """One run over rows; iterating over it yields the finished rows, in any order.

    Args:
        data: a DataFrame, a Series or a list of texts.
        template: the prompt, with `{{column}}` for the values of a row; see `Rows`.
        schema: the form of each reply, as for `generate`.
        pack: the maximum number of rows in one request, up to 50. 1 asks each row alone; `auto`
            packs rows where the limits allow few requests and many tokens.
        patience: seconds that the job may wait in total while no route is open; None if it
            may wait without limit. Rows that were not asked by then get an error that says which
            route opens when.
        allow_paid: paid routes may answer too. First the job waits for free routes, once, for
            `patience` seconds (by default the setting, 30 s). Then paid routes answer the
            rows that free routes cannot take immediately.
        max_cost: the most that this run may cost, in USD; at most one reply exceeds it.
        max_tokens_total: the most tokens that this run may use; at most one reply exceeds it.
        stop_after: number of failed rows in this run that stops the job.
        retry_errors: also ask rows that failed permanently in an earlier run.
        fresh: ask every row again, and replace kept replies.
        reserve: the share of each limit (0 to 1) that is left for other requests.
        prefix: a prefix for the names of the added columns, and for a field of the schema if the
            data has a column with that name.
        details: add the columns `key`, `seconds`, `cost_usd` and `request`; see `Replies`.
        twice: the share of rows (0 to 1) that a second model answers too, at the end.
        gold: the column with the known labels, or a column per field of the schema; the prompt must
            not contain it. `quality` compares.
        llm: the provider object that asks the rows; by default the configured one.
        part_of: the whole job that this one is a part of, whose bounds replace those above; or its
            name, if its parts run in other processes: jobs with the same name share `max_cost` and
            `max_tokens_total` through the ledger.
        **options: as for `generate`: `provider`, `model`, `system`, `temperature`, `max_tokens`, …

    Attributes:
        rows: the rows and their prompts.
        whole: the bounds that it shares with other parts of a whole job.
        schema, prefix, details, twice, gold: as above; `gold` by field.
        recorded: the entry of this job in the record of jobs.

    Raises:
        InvalidRequest: data, template or an option is wrong, or there are only paid routes; nothing
            is spent.
    """

    def __init__(
        self,
        data: Any,
        template: str | None = None,
        *,
        schema: Any = None,
        pack: int | str = "auto",
        patience: float | None = None,
        allow_paid: bool = False,
        max_cost: float | None = None,
        max_tokens_total: int | None = None,
        stop_after: int | None = None,
        retry_errors: bool = False,
        fresh: bool = False,
        reserve: float = 0.1,
        prefix: str = "",
        details: bool = False,
        twice: float | None = None,
        gold: str | Mapping[str, str] | None = None,
        llm: IntelligentLLMOrchestrator | None = None,
        part_of: WholeJob | str = "",
        **options: Any,
    ) -> None:
        self.rows: Rows = Rows(data, template)
        allow_paid = checked_flag("allow_paid", allow_paid)
        retry_errors = checked_flag("retry_errors", retry_errors)
        fresh = checked_flag("fresh", fresh)
        self.prefix, self.details = prefix, checked_flag("details", details)
        self.twice = share_of(twice)
        self._llm = orchestrator(llm)
        configuration = self._llm.configuration
        if isinstance(part_of, str):
            part_of = WholeJob(
                self._llm, name=part_of, patience=patience, max_cost=max_cost,
                max_tokens_total=max_tokens_total, stop_after=stop_after,
            )  # fmt: skip
        self.whole: WholeJob = part_of
        refuse_tools(options)
        # The job stores the replies itself, many in one write.
        fixed = {"patience": part_of.patience.left, "reserve": reserve, "keep": False}
        self._sample = sample = build_request(
            "…", configuration, **{**options, **fixed, "schema": schema}
        )
        self.schema: Schema | None = sample.schema
        self.gold: dict[str, str] = gold_columns(gold, self.schema, self.rows)
        self.recorded = JobRecord()
        self._counts = Counts(len(self.rows), configuration.clock.time)
        size = rows_per_request(pack, sample)
        allowed = self._allowed(allow_paid)
        self._workers = Workers(self._llm, allowed, self._counts, self.whole, size)
        self._scheduler = self._workers.scheduler
        self._same_options = {
            "template": self.rows.template, "schema": schema, "pack": pack, "llm": llm,
            "reserve": reserve, "allow_paid": allow_paid, "retry_errors": retry_errors,
            "fresh": fresh, "part_of": self.whole, **options,
        }  # fmt: skip
        self._second: SecondQuestions | None = None
        if self.twice:
            others = OtherModels(self._llm, sample, allow_paid)

            def choose(first: str, positions: list[int]) -> str | None:
                return others.choose(first, () if fresh else self._requests(positions))[0]

            self._second = SecondQuestions(self.twice, len(self.rows), choose, self._job_on)
        self._reader = RowReader(
            self.rows, self._llm, sample, self._workers, self._put,
            retry_errors=retry_errors, fresh=fresh,
        )  # fmt: skip
        self._writer = ReplyWriter(self._reader, self._workers, self._put)
        self._out: queue.Queue[list[Row] | None] = queue.Queue(_MOST_WAITING)
        self._left = threading.Event()
        self._threads: list[threading.Thread] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Generator[Row, None, None]:
        """The rows as they finish; leaving early cancels the job.

        Raises:
            JobStopped: at one of the bounds.
            LLMProviderError: no row can be asked, such as without a key.
        """
        try:
            yield from self.rows_unrecorded()
        finally:
            self._note()
            if any(thread.is_alive() for thread in self._all_threads()):
                threading.Thread(target=self._note_rest, name="arche-job", daemon=True).start()

    def rows_unrecorded(self) -> Generator[Row, None, None]:
        """The same rows, for another job that records what this one sends."""
        if self._threads:
            raise RuntimeError("a Job can run only once; create a new one")
        try:
            # An interrupt between the two lines would leave a running job that nothing ends.
            shielded(self._start)
            while (rows := self._next()) is not None:
                for row in rows:
                    self._counts.note_taken(row)
                    if self._second is not None:
                        self._second.note(row)
                    yield row
            if self._scheduler.error is not None:
                raise self._scheduler.error
            if self._second is not None and not self._left.is_set():
                yield from self._second.rows()
        finally:
            self.cancel()

    def progress(self, later: int = 0) -> Progress:
        """Return the progress; `finish_at` includes `later`, a number of rows that follow later."""
        progress = replace(self._counts.progress(), finish_at=self._workers.finish_at(later))
        return progress if self._second is None else self._second.added_to(progress)

    @property
    def asked_again(self) -> frozenset[int]:
        """Positions of rows whose replies were discarded, and that have no other reply yet."""
        return self._counts.asked_again

    def cancel(self) -> None:
        """Stop soon: ask no more rows, and keep the finished ones.

        This does not wait for calls in progress. Their replies are kept when they arrive.
        """
        shielded(self._stop)
        if self._second is not None:
            self._second.cancel()
        until = time.monotonic() + _FAREWELL_SECONDS
        for thread in (*self._threads, *self._workers.threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def forget_rows(self, recorded: JobRecord) -> None:
        """Subtract rows from the record of the whole job, because they are recorded again."""
        nothing = self.recorded.plus(self.recorded, -1)
        rows, done, errors = -recorded.rows, -recorded.done, -recorded.errors
        new = replace(nothing, rows=rows, done=done, errors=errors)
        note_job(self._llm.configuration.store, new)

    def _start(self) -> None:
        def guarded(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  # raised again where the rows are awaited
                self._scheduler.end(error)

        for work in (self._reader.run, self._writer.run):
            thread = threading.Thread(target=guarded, args=(work,), name="arche-job", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _stop(self) -> None:
        self._left.set()
        self._scheduler.end()

    def _job_on(self, positions: list[int], model: str) -> Job:
        """A job that asks some of the rows with another model, within the bounds of this job."""
        options = self._same_options | {"model": model, "provider": None, "same_model": False}
        return Job(self.rows.frame.iloc[positions], **options)

    def _requests(self, positions: list[int]) -> list[Request]:
        rows = Rows(self.rows.frame.iloc[positions], self.rows.template)
        return [
            request
            for start in rows.chunks()
            for *_, request in rows.requests(start, self._llm.configuration, self._sample)
            if not isinstance(request, str)
        ]

    def _note(self) -> None:
        """Record what the job has sent since the last call."""
        progress = self.progress()
        configuration = self._llm.configuration
        record = JobRecord(
            at=configuration.clock.time(), job=self.whole.id, session=SESSION, notebook=notebook(),
            tag=self._sample.tag, rows=len(self),
            done=self._counts.number(FINISHED), errors=self._counts.number(FINISHED | FAILED),
            **{name: getattr(progress, name) for name in SPENT},
        )  # fmt: skip
        new = record.plus(self.recorded, -1)
        # A part of a job that sent nothing may still have some of its rows.
        if new.requests or new.rows:
            self.recorded = record
            note_job(configuration.store, new)

    def _note_rest(self) -> None:
        """Record calls that were in progress when the job was left, once they have ended."""
        for thread in self._all_threads():
            thread.join()
        self._note()

    def _all_threads(self) -> list[threading.Thread]:
        """All threads of the reader and the writer, including those of the second questions."""
        jobs = [self, *(self._second.jobs if self._second else ())]
        return [thread for job in jobs for thread in job._threads]  # noqa: SLF001  # its own class

    def _next(self) -> list[Row] | None:
        """The next finished rows; None after the last ones, or as soon as the job is cancelled."""
        while True:
            is_left = self._left.is_set()
            try:
                return self._out.get(timeout=0.0 if is_left else _FAREWELL_SECONDS / 2)
            except queue.Empty:
                if is_left:
                    return None

    def _put(self, rows: list[Row] | None) -> None:
        # Once the caller has left the job, nothing takes the rows.
        while not self._left.is_set():
            try:
                self._out.put(rows, timeout=_FAREWELL_SECONDS / 2)
            except queue.Full:
                self._reader.claims.renew(self._scheduler.claimed)
                self._workers.book()
                continue
            return

    def _allowed(self, allow_paid: bool) -> list[str]:
        """The providers that may be asked; raises InvalidRequest if only paid ones can answer."""
        names, providers = list(self._llm.providers), self._llm.configuration.providers
        if allow_paid:
            return names
        try:
            routes = self._llm.routes(self._sample)
        except NoKeys:
            # Rows whose replies are all kept need no key.
            return names
        if routes and all(route.paid for route in routes):
            paid = ", ".join(dict.fromkeys(route.provider for route in routes))
            raise InvalidRequest(
                f"only paid routes can answer ({paid}), and a job uses them only with "
                "allow_paid=True (--allow-paid); max_cost (--max-cost) limits the cost"
            )
        return [name for name in names if not providers[name].paid]
