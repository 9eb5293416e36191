"""One run over many rows: threads that ask, replies on disk before they are handed out.

Three kinds of threads share a job. The reader makes prompts, looks up what is kept, and claims the
rest in small helpings, so that several kernels on one job share it. Workers ask. The keeper writes
replies to disk, many at once, hands them out, and keeps the claims alive. Which route answers, and
what is waited for, is the engine's business: each row is one of its requests.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, get_llm_provider
from arche_magic.llm_providers.errors import (
    ConfigurationError,
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
    NotKept,
)
from arche_magic.llm_providers.parameters import build_request
from arche_magic.llm_providers.replies import reply_store
from arche_magic.llm_providers.reply import Reply, Waiting
from arche_magic.llm_providers.types import Request, Schema, utc

from .rows import Rows

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("arche_magic.bulk")

_THREADS = 16
_CHUNK = 1000
# A claim outlives its last sign of life by this much; then its kernel is taken for dead.
_CLAIM_SECONDS, _BEAT_SECONDS = 90.0, 30.0
# How often rows that another kernel has claimed are looked at.
_LOOK_SECONDS = 1.0
# How long a thread sleeps at most before it sees that the job was cancelled.
_NAP_SECONDS = 0.2
# So long a request may wait in the engine before its row goes back, clear of its timeout.
_LONGEST_WAIT = 120.0
# So often a row is tried where providers have trouble.
_TRIES = 5
# So many rows refused in a row, and none answered: it is not the rows.
_REFUSED_AT_ONCE = 3
_PACE_SECONDS = 60.0


class JobStopped(LLMProviderError):
    """A job ended before its last row: at `stop_after`, `max_cost` or `max_tokens_total`.

    Attributes:
        frame: the finished rows, where the job was to make a frame. They are kept on disk too: the
            same call goes on from there.
    """

    frame: pd.DataFrame | None = None


@dataclass(frozen=True)
class Row:
    """One finished row.

    Attributes:
        position: its number in the data, from 0.
        label: its label in the index.
        prompt: what was asked, without images; "" where no prompt could be made.
        reply: the answer, or None.
        error: why there is none, or None.
        resumed: nothing was spent on it now: it was kept, or another row asked the same.
        tokens: what it spent, now or when its reply was kept.
    """

    position: int
    label: Hashable
    prompt: str
    reply: Reply | None = None
    error: str | None = None
    resumed: bool = False
    tokens: int = 0


@dataclass(frozen=True)
class Progress:
    """A job at one moment.

    Attributes:
        done: finished rows, failed ones included.
        total: all rows.
        resumed: of the finished, those that nothing was spent on now.
        errors: of the finished, those without a reply.
        rows_per_second: the pace of the last minute, of rows that were asked.
        waiting: the route that is waited for, and the seconds until it opens; None if none is.
        finish_at: when it would be done at this pace (aware, UTC); None as long as nobody knows.
        cost_usd: spent now, as far as prices are known.
        tokens: spent now.
    """

    done: int
    total: int
    resumed: int
    errors: int
    rows_per_second: float
    waiting: Waiting | None
    finish_at: datetime | None
    cost_usd: float
    tokens: int


@dataclass
class _Task:
    """What is to be asked once, for all rows that ask the same."""

    address: str
    request: Request
    rows: list[tuple[int, Hashable]]
    tries: int = 0

    @property
    def prompt(self) -> str:
        return self.request.messages[-1].content


@dataclass(frozen=True)
class _Finished:
    """What came of a task; `again` if asking once more could help."""

    task: _Task
    reply: Reply | None = None
    error: LLMProviderError | None = None
    again: bool = False


@dataclass
class _Lane:
    """Routes that rows are asked on together.

    Attributes:
        llm: asks on them and no others.
        shut_until: epoch seconds; before, none of them opens.
    """

    llm: IntelligentLLMOrchestrator
    shut_until: float = 0.0
    watched: bool = field(default=False, repr=False)


class _HandBack(Exception):
    """The row is not asked now."""


class Job:
    """One run over rows; iterate over it for the finished ones, in whatever order they come.

    Args:
        data: a DataFrame, a Series or a list of texts.
        template: the prompt, with `{{column}}` for the values of a row; see `Rows`.
        schema: what each reply must look like, as for `generate`.
        patience: seconds to wait where no route is open; None waits as long as it takes. Rows that
            were not asked by then have an error that says what opens when.
        allow_paid: routes that cost money may answer too.
        max_cost: USD; the job stops before it spends more in this run.
        max_tokens_total: tokens; likewise.
        stop_after: so many failed rows stop the job.
        retry_errors: rows that failed for good in an earlier run are asked again.
        fresh: every row is asked again, and what is kept is replaced.
        reserve: the share of each limit (0 to 1) that is left to other work.
        llm: what asks; that of the configuration if not given.
        **options: as for `generate`: `provider`, `model`, `system`, `temperature`, `max_tokens`, …

    Raises:
        InvalidRequest: data, template or an option is wrong; nothing is spent.
    """

    def __init__(
        self,
        data: Any,
        template: str | None = None,
        *,
        schema: Any = None,
        patience: float | None = None,
        allow_paid: bool = False,
        max_cost: float | None = None,
        max_tokens_total: int | None = None,
        stop_after: int | None = None,
        retry_errors: bool = False,
        fresh: bool = False,
        reserve: float = 0.1,
        llm: IntelligentLLMOrchestrator | None = None,
        **options: Any,
    ) -> None:
        self.rows = Rows(data, template)
        self._llm = llm or get_llm_provider()
        self._configuration = self._llm.configuration
        self._clock = self._configuration.clock
        self._options = {
            **options, "schema": schema, "reserve": reserve, "patience": math.inf, "keep": False,
        }  # fmt: skip
        # A wrong option is told before anything is asked.
        probe = build_request("…", self._configuration, **self._options)
        self._probe = probe
        # Described once, not once a row.
        self.schema: Schema | None = probe.schema
        self._options["schema"] = probe.schema
        self._patience = _bound("patience", patience)
        self._max_cost = _bound("max_cost", max_cost)
        self._max_tokens = _bound("max_tokens_total", max_tokens_total)
        self._stop_after = _bound("stop_after", stop_after)
        self._allow_paid, self._retry_errors, self._fresh = allow_paid, retry_errors, fresh
        self._store = reply_store(self._configuration.replies)
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(6).hex()}"
        self._lock = threading.Lock()
        # Workers wait for rows, the reader for room.
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._ready: deque[_Task] = deque()
        self._claimed: dict[str, _Task] = {}
        self._asking = 0
        self._read_all = False
        self._ending = threading.Event()
        self._left = threading.Event()
        self._error: LLMProviderError | BaseException | None = None
        self._not_asked = ""
        self._finished: queue.Queue[_Finished] = queue.Queue(4 * _THREADS)
        self._out: queue.Queue[list[Row] | None] = queue.Queue(8)
        self._threads: list[threading.Thread] = []
        self._done = self._resumed = self._errors = self._failed_now = self._served = 0
        self._tokens, self._cost = 0, 0.0
        self._waiting: tuple[Waiting, float] | None = None
        self._pace: deque[tuple[float, int]] = deque()
        self._seen = bytearray(len(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        """The rows as they finish; leaving early cancels the job.

        Raises:
            JobStopped: at one of the bounds.
            LLMProviderError: no row can be asked, such as without a key.
        """
        self._start()
        try:
            while (rows := self._next()) is not None:
                yield from rows
            if self._error is not None:
                raise self._error
        finally:
            self.cancel()

    def progress(self) -> Progress:
        """How far it is."""
        now = self._clock.time()
        with self._lock:
            waiting = None
            if self._waiting and self._waiting[1] > now:
                waiting = Waiting(self._waiting[0].route, self._waiting[1] - now)
            while self._pace and self._pace[0][0] < now - _PACE_SECONDS:
                self._pace.popleft()
            pace = 0.0
            if len(self._pace) > 1:
                seconds = max(now - self._pace[0][0], 1e-3)
                pace = sum(count for _, count in self._pace) / seconds
            left = len(self.rows) - self._done
            return Progress(
                done=self._done,
                total=len(self.rows),
                resumed=self._resumed,
                errors=self._errors,
                rows_per_second=pace,
                waiting=waiting,
                finish_at=utc(now + left / pace) if pace else None,
                cost_usd=self._cost,
                tokens=self._tokens,
            )

    def cancel(self) -> None:
        """End soon: no more rows are asked, and what is finished is kept.

        Calls under way are left to themselves; their replies are kept when they come.
        """
        self._left.set()
        self._end()
        until = time.monotonic() + _NAP_SECONDS
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    # --- what all threads share

    def _start(self) -> None:
        if self._threads:
            raise RuntimeError("a job runs once; make another one")
        self._began = self._clock.time()
        self._threads = [threading.Thread(target=self._guarded, args=(self._read,), daemon=True)]
        self._threads.append(threading.Thread(target=self._keep, daemon=True))
        # The first of them adds more.
        for thread in tuple(self._threads):
            thread.start()

    def _start_workers(self) -> None:
        """When the first row is to be asked; what is all kept needs neither thread nor key."""
        lane = _Lane(self._on_allowed_routes())
        for _ in range(min(_THREADS, len(self.rows))):
            thread = threading.Thread(
                target=self._guarded, args=(lambda: self._ask_rows(lane),), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised again where the rows are awaited
            self._end(error)

    def _end(self, error: BaseException | None = None) -> None:
        """No more rows are taken; those that are asked come to their end."""
        with self._lock:
            if self._error is None:
                self._error = error
            self._ending.set()
            self._work.notify_all()
            self._room.notify_all()

    def _next(self) -> list[Row] | None:
        while True:
            try:
                return self._out.get(timeout=1.0)
            except queue.Empty:
                if self._left.is_set():
                    return None

    def _put(self, rows: list[Row] | None) -> None:
        """Hand rows out; nobody takes them any more where the job was cancelled."""
        while not self._left.is_set():
            try:
                self._out.put(rows, timeout=_NAP_SECONDS)
            except queue.Full:
                continue
            return

    def _on_allowed_routes(self) -> IntelligentLLMOrchestrator:
        if self._allow_paid:
            self._llm.routes(self._probe)
            return self._llm
        providers = self._configuration.providers
        routes = self._llm.routes(self._probe)
        free = list(dict.fromkeys(r.provider for r in routes if not r.paid))
        if not free:
            names = ", ".join(dict.fromkeys(route.provider for route in routes))
            raise InvalidRequest(
                f"only paid routes are there ({names}), and a job spends no money unasked: "
                "allow it with allow_paid=True, and bound it with max_cost"
            )
        preferred = self._llm.preferred_provider
        return IntelligentLLMOrchestrator(
            enable_multi_key_groq=self._llm.enable_multi_key_groq,
            preferred_provider=preferred if preferred and not providers[preferred].paid else None,
            providers=free,
            configuration=self._configuration,
        )

    # --- the reader

    def _read(self) -> None:
        theirs: dict[str, _Task] = {}
        for start in range(0, len(self.rows), _CHUNK):
            if self._ending.is_set():
                return
            tasks = self._without_kept(self._tasks(start))
            while tasks:
                with self._lock:
                    while len(self._ready) >= _THREADS and not self._ending.is_set():
                        self._room.wait()
                if self._ending.is_set():
                    return
                helping, tasks = tasks[: 2 * _THREADS], tasks[2 * _THREADS :]
                theirs.update(self._claim(helping))
        while theirs and not self._ending.is_set():
            self._take_over(theirs.values())
            left = self._without_kept(list(theirs.values()), found_now=True)
            theirs = self._claim(left)
            if theirs:
                self._ending.wait(_LOOK_SECONDS)
        with self._lock:
            self._read_all = True

    def _tasks(self, start: int) -> list[_Task]:
        """The next rows that have a prompt, without those that ask what is being asked already."""
        stop = min(start + _CHUNK, len(self.rows))
        tasks: dict[str, _Task] = {}
        failed: list[Row] = []
        for position, (label, prompt) in enumerate(self.rows.prompts(start, stop), start):
            if isinstance(prompt, str):
                failed.append(Row(position, label, "", error=prompt))
                continue
            images = prompt.images or None
            try:
                request = build_request(
                    prompt.text, self._configuration, images=images, **self._options
                )
            except InvalidRequest as error:
                failed.append(Row(position, label, prompt.text, error=str(error)))
                continue
            address = self._llm.address(request)
            if address in tasks:
                tasks[address].rows.append((position, label))
            else:
                tasks[address] = _Task(address, request, [(position, label)])
        with self._lock:
            for address in self._claimed.keys() & tasks.keys():
                self._claimed[address].rows.extend(tasks.pop(address).rows)
        if failed:
            self._hand_out(failed)
        return list(tasks.values())

    def _without_kept(self, tasks: list[_Task], *, found_now: bool = False) -> list[_Task]:
        """The tasks that are to be asked; the others' rows are handed out."""
        if self._fresh and not found_now:
            return tasks
        addresses = [task.address for task in tasks]
        found = self._store.lookup_many(addresses).items()
        read = ((address, self._read_again(reply)) for address, reply in found)
        kept = {address: reply for address, reply in read if reply is not None}
        missing = [address for address in addresses if address not in kept]
        failures = {} if self._retry_errors else self._store.failures(missing)
        rows = []
        for task in tasks:
            reply, error = kept.get(task.address), failures.get(task.address)
            if reply is not None or error is not None:
                tokens = reply.usage.total_tokens if reply is not None else 0
                rows += [
                    Row(position, label, task.prompt, reply, error, True, tokens)
                    for position, label in task.rows
                ]
        if rows:
            self._hand_out(rows)
        return [t for t in tasks if t.address not in kept and t.address not in failures]

    def _read_again(self, reply: Reply) -> Reply | None:
        if self.schema is None:
            return reply
        try:
            return reply.changed(parsed=self.schema.read(str(reply)))
        except ValueError:
            return None

    def _claim(self, tasks: list[_Task]) -> dict[str, _Task]:
        """Make tasks ready to be asked; returns those that another kernel has claimed."""
        by_address = {task.address: task for task in tasks}
        now = time.time()
        mine = self._store.claim(
            by_address, self._owner, now, now + _CLAIM_SECONDS, again=self._fresh
        )
        if not mine:
            return by_address
        if len(self._threads) == 2:
            self._start_workers()
        with self._lock:
            for address in [address for address in by_address if address in mine]:
                task = self._claimed[address] = by_address.pop(address)
                self._ready.append(task)
            self._work.notify_all()
        return by_address

    def _take_over(self, tasks: Iterable[_Task]) -> None:
        """End the claims of kernels of this machine that are not there any more."""
        owners = self._store.owners([task.address for task in tasks])
        for owner in set(owners.values()):
            if _is_dead(owner):
                self._store.release([a for a, name in owners.items() if name == owner], owner)

    # --- the workers

    def _ask_rows(self, lane: _Lane) -> None:
        while (task := self._take(lane)) is not None:
            try:
                finished = self._ask(lane, task)
            except _HandBack:
                with self._lock:
                    self._asking -= 1
                    self._ready.appendleft(task)
                continue
            self._finished.put(finished)

    def _take(self, lane: _Lane) -> _Task | None:
        """The next row, once one of the lane's routes may be open; None when there is none left."""
        with self._lock:
            while not self._ending.is_set():
                if self._clock.time() < lane.shut_until:
                    self._watch(lane)
                elif self._ready:
                    task = self._ready.popleft()
                    if self._would_exceed():
                        self._ready.appendleft(task)
                        continue
                    self._asking += 1
                    if len(self._ready) < _THREADS:
                        self._room.notify()
                    return task
                else:
                    self._work.wait(_NAP_SECONDS if self._read_all else None)
        return None

    def _watch(self, lane: _Lane) -> None:
        """Sleep while the lane is shut: one thread by the clock, the others until it wakes them."""
        if lane.watched:
            self._work.wait()
            return
        lane.watched = True
        nap = min(lane.shut_until - self._clock.time(), _NAP_SECONDS)
        self._lock.release()
        try:
            self._clock.sleep(max(nap, 0.001))
        finally:
            self._lock.acquire()
            lane.watched = False
            self._work.notify_all()

    def _would_exceed(self) -> bool:
        """Whether one more row could go beyond the bounds; if so, the job ends."""
        # What a row spends is known from those that were asked.
        mean = 1 / max(1, self._served)
        cost = self._cost + (self._asking + 1) * self._cost * mean
        tokens = self._tokens + (self._asking + 1) * self._tokens * mean
        if cost > self._max_cost:
            what, spent = f"max_cost={self._max_cost:g} USD", f"{self._cost:.4f} USD are spent"
        elif tokens > self._max_tokens:
            what, spent = f"max_tokens_total={self._max_tokens:,.0f}", f"{self._tokens:,} are spent"
        else:
            return False
        if self._error is None:
            self._error = JobStopped(f"stopped before {what} would be exceeded: {spent}")
        self._ending.set()
        self._work.notify_all()
        self._room.notify_all()
        return True

    def _ask(self, lane: _Lane, task: _Task) -> _Finished:
        began = self._clock.time()

        def on_wait(waiting: Waiting) -> None:
            now = self._clock.time()
            self._waiting = waiting, now + waiting.seconds
            if self._ending.is_set() or now - began > _LONGEST_WAIT:
                raise _HandBack

        try:
            return _Finished(task, lane.llm.ask(task.request, on_wait))
        except NoRouteAvailable as error:
            return self._without_route(lane, task, error)
        except NotKept as error:
            return _Finished(task, error=error, again=True)
        except ConfigurationError as error:
            self._end(error)
            raise _HandBack from None
        except LLMProviderError as error:
            again = error.next_available_at is not None
            if again and task.tries < _TRIES:
                task.tries += 1
                raise _HandBack from None
            return _Finished(task, error=error, again=again)

    def _without_route(self, lane: _Lane, task: _Task, error: NoRouteAvailable) -> _Finished:
        """What to do when no route answered: wait for one, give the row up, or end the job."""
        now = self._clock.time()
        routes, state = lane.llm.routes(self._probe), lane.llm.quota_tracker.state
        opens = min(state(route, self._probe, now).opens_at for route in routes)
        if opens == math.inf:
            self._end(error)
            raise _HandBack
        if error.next_available_at is None:
            # Others have a route: it is the row, too long for each of them.
            return _Finished(task, error=error)
        task.tries += any(attempt.outcome != "skipped" for attempt in error.attempts)
        if task.tries >= _TRIES:
            return _Finished(task, error=error, again=True)
        opens = max(opens, error.next_available_at.timestamp())
        if opens - now > self._patience:
            self._not_asked = f"not asked: {error}"
            self._end()
        else:
            with self._lock:
                lane.shut_until = max(lane.shut_until, opens)
        raise _HandBack

    # --- the keeper

    def _keep(self) -> None:
        beat = time.monotonic()
        try:
            while True:
                if batch := self._gather():
                    self._write(batch)
                elif self._is_over():
                    break
                if time.monotonic() > beat + _BEAT_SECONDS:
                    beat = time.monotonic()
                    self._prolong()
            self._hand_out_rest()
        except BaseException as error:  # noqa: BLE001  # raised again where the rows are awaited
            self._end(error)
        finally:
            self._put(None)

    def _gather(self) -> list[_Finished]:
        """All that has finished, soon after the first of it."""
        batch: list[_Finished] = []
        try:
            batch.append(self._finished.get(timeout=_NAP_SECONDS / 2))
            while True:
                batch.append(self._finished.get_nowait())
        except queue.Empty:
            return batch

    def _is_over(self) -> bool:
        with self._lock:
            if self._done < len(self.rows) and not self._ending.is_set():
                return False
            waiting, self._ready = list(self._ready), deque()
            for task in waiting:
                del self._claimed[task.address]
            over = self._asking == 0
        if waiting:
            self._store.release([task.address for task in waiting], self._owner)
        if over:
            self._end()
        return over

    def _write(self, batch: list[_Finished]) -> None:
        """Put what has finished on disk, and then hand its rows out."""
        now = self._clock.time()
        replies = {f.task.address: f.reply for f in batch if f.reply is not None}
        errors = {f.task.address: str(f.error) for f in batch if f.error and not f.again}
        if replies:
            self._store.finish(replies, now)
        if errors:
            self._store.fail(errors, now)
        if again := [f.task.address for f in batch if f.error and f.again]:
            self._store.release(again, self._owner)
        rows: list[Row] = []
        with self._lock:
            for finished in batch:
                # From now on no row joins it: it is kept, or to be asked once more.
                task = self._claimed.pop(finished.task.address)
                self._asking -= 1
                rows += self._rows_of(finished, task)
            self._served += len(replies)
            self._pace.append((now, len(rows)))
        self._hand_out(rows)
        self._judge(batch)

    def _rows_of(self, finished: _Finished, task: _Task) -> Iterator[Row]:
        reply, error = finished.reply, finished.error
        if reply is not None:
            tokens = reply.usage.total_tokens
            self._cost += reply.cost or 0.0
        else:
            attempts = error.attempts if error else ()
            tokens = sum(a.input_tokens + a.output_tokens for a in attempts)
            self._cost += sum(attempt.cost_usd or 0.0 for attempt in attempts)
        self._tokens += tokens
        why = str(error) if error else None
        for number, (position, label) in enumerate(task.rows):
            yield Row(position, label, task.prompt, reply, why, number > 0, tokens)

    def _judge(self, batch: list[_Finished]) -> None:
        """End the job where that many rows have failed."""
        failed = [finished.error for finished in batch if finished.error]
        self._failed_now += len(failed)
        refused = [error for error in failed if isinstance(error, InvalidRequest)]
        if not self._served and len(refused) >= _REFUSED_AT_ONCE:
            self._end(JobStopped(f"stopped, as each row asked so far was refused: {refused[-1]}"))
        elif failed and self._failed_now >= self._stop_after:
            count = f"{self._failed_now:,} failed rows"
            self._end(JobStopped(f"stopped after {count}, the last of them: {failed[-1]}"))

    def _hand_out(self, rows: list[Row]) -> None:
        with self._lock:
            self._done += len(rows)
            self._resumed += sum(row.resumed for row in rows)
            self._errors += sum(row.error is not None for row in rows)
            for row in rows:
                self._seen[row.position] = 1
        self._put(rows)

    def _hand_out_rest(self) -> None:
        """Rows that the patience did not reach, each with why."""
        if not self._not_asked:
            return
        index = self.rows.index
        for start in range(0, len(self.rows), _CHUNK):
            stop = min(start + _CHUNK, len(self.rows))
            rest = [position for position in range(start, stop) if not self._seen[position]]
            if rest:
                self._hand_out([Row(p, index[p], "", error=self._not_asked) for p in rest])

    def _prolong(self) -> None:
        now = time.time()
        with self._lock:
            held = list(self._claimed)
        if held:
            self._store.claim(held, self._owner, now, now + _CLAIM_SECONDS, again=self._fresh)


def _bound(name: str, value: Any) -> float:
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise InvalidRequest(f"{name} is {value!r}; it must be a number, 0 or more")
    return float(value)


def _is_dead(owner: str) -> bool:
    """Whether a claim's owner was a process of this machine that is not there any more."""
    host, _, rest = owner.partition(":")
    process, _, _ = rest.partition(":")
    if os.name != "posix" or host != socket.gethostname() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
