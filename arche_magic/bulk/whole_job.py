"""A whole job, whose parts may run separately: its bounds, and its line in the record of jobs.

The record is `outputs/llm_jobs.jsonl`, beside the record of attempts. It contains no prompts and no
replies. The record of attempts has the cost of a job, but not how its packed replies agreed.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, get_llm_provider
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError
from arche_magic.llm_providers.files import append_lines, open_ours
from arche_magic.llm_providers.options import python_number, read_flag, shown
from arche_magic.llm_providers.quota_tracker import SpendingBounds
from arche_magic.llm_providers.types import Route

from .packing import Model, PackedReplies

if TYPE_CHECKING:
    from .capacity import Capacity

# Bytes that are read from the end of the record: about 5,000 jobs.
_TAIL_BYTES = 2_000_000


class JobStopped(LLMProviderError):
    """A job ended before its last row: at one of its bounds, or because every row was refused.

    Attributes:
        frame: the finished rows, if the job returns a frame. They are also on disk: the same call
            continues from there.
        at_bound: whether it stopped at `max_cost` or `max_tokens_total`.
    """

    frame: Any = None
    at_bound: bool = False


def checked_bound(name: str, value: Any, least: float = 0) -> float:
    """A bound as a number, inf for None; raise InvalidRequest unless it is `least` or more."""
    if value is None:
        return math.inf
    number = python_number(value)
    if number is None or not number >= least:
        raise InvalidRequest(f"{name} is {shown(value)}; it must be a number, {least:g} or more")
    return math.inf if number > sys.float_info.max else float(number)


def checked_flag(name: str, value: Any) -> bool:
    """A flag, False for None; raise InvalidRequest unless it is True or False."""
    return value is not None and read_flag(name, value)


def orchestrator(llm: object) -> IntelligentLLMOrchestrator:
    """What asks, by default the configured one; raise InvalidRequest for anything else."""
    if llm is None:
        return get_llm_provider()
    if not isinstance(llm, IntelligentLLMOrchestrator):
        raise InvalidRequest(f"llm is {shown(llm)}; it must come from get_llm_provider()")
    return llm


def refuse_tools(options: Mapping[str, Any]) -> None:
    """Raise InvalidRequest if the options of a job have tools, which may be functions."""
    if options.get("tools"):
        raise InvalidRequest("tools: jobs do not run tools; call generate for each row")


class Patience:
    """Limits how long all rows of a job together wait for routes: at most `seconds`.

    `now` is the clock, in epoch seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self._left, self._now = seconds, now
        self._counted_until = -math.inf
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """Seconds that it still waits."""
        return max(0.0, self._left)

    def note_wait(self, seconds: float) -> None:
        """Count a row's wait of `seconds` from now; rows that wait at the same time count once."""
        with self._lock:
            began = max(self._now(), self._counted_until)
            self._counted_until = max(self._now() + seconds, began)
            self._left -= self._counted_until - began


class WholeJob:
    """The bounds and counts that the parts of a whole job share, such as the chunks of a file.

    Args:
        llm: the provider object that asks the rows.
        name: jobs with the same name share their bounds through the ledger.
        patience, max_cost, max_tokens_total, stop_after: as for `Job`.

    Attributes:
        id: its id in the record of jobs.
        spending: the bounds on the cost of all calls; None without any bound.
        patience: how long the job waits for routes.
        before_paying: how long it waits for free routes before it uses paid ones.
        stop_after: the number of failed rows that ends the job; inf without a bound.
        failed: the number of failed rows in this run.

    Raises:
        InvalidRequest: one of them is not a valid bound.
    """

    def __init__(
        self,
        llm: IntelligentLLMOrchestrator,
        *,
        name: str = "",
        patience: Any = None,
        max_cost: Any = None,
        max_tokens_total: Any = None,
        stop_after: Any = None,
    ) -> None:
        longest = checked_bound("patience", patience)
        most = (
            checked_bound("max_cost", max_cost),
            checked_bound("max_tokens_total", max_tokens_total),
        )
        configuration = llm.configuration
        now = configuration.clock.time
        self.id: str = name or new_job_id()
        self.spending: SpendingBounds | None = llm.quota_tracker.job_bounds(*most, name)
        self.patience = Patience(longest, now)
        self.before_paying = Patience(configuration.patience if patience is None else longest, now)
        self.stop_after: float = checked_bound("stop_after", stop_after, least=1)
        self.failed = 0
        self._packed: dict[Model, PackedReplies] = {}

    def packed_by(self, model: Model) -> PackedReplies:
        """The packed replies of a model."""
        return self._packed.setdefault(model, PackedReplies())

    @property
    def refuted(self) -> int:
        """The number of models whose packed replies were discarded."""
        return sum(packed.is_refuted for packed in self._packed.copy().values())


def in_order(routes: Iterable[Route], preferred: str | None) -> list[Route]:
    """Routes in the order of a job: of the preferred provider, then free ones, then paid ones."""
    return sorted(routes, key=lambda route: (route.provider != preferred, route.paid))


def costs_extra(route: Route | Capacity, preferred: str | None) -> bool:
    """Whether a route costs money and does not belong to the preferred provider."""
    return route.paid and route.provider != preferred


def why_stopped(bound: str, requests: int) -> str:
    """Why the job ends at a bound, in one line."""
    if not bound.startswith("max_"):
        return f"stopped: {bound}"
    # Other parts of the job, in other processes, may have sent requests.
    if requests or not bound.endswith(": 0 spent"):
        return f"stopped before it would exceed {bound}"
    # Such as "max_cost (USD) of 0.001: 0 spent".
    name, amount = bound.partition(" ")[0], bound.partition(":")[0].rpartition(" ")[2]
    return (
        f"nothing was sent, because a single request may exceed {name}={amount}: raise it, or "
        "lower max_tokens (--max-tokens)"
    )


@dataclass(frozen=True)
class JobRecord:
    """One run of a job, or a part of one.

    Attributes:
        at: epoch seconds; when it ended.
        job: its id. The parts of a larger job have the same.
        session: the process that ran it, as in the record of attempts.
        notebook: the notebook file that ran it, "" if unknown.
        tag: its tag, or "".
        rows: all rows.
        done: rows that were finished, in this run or before.
        errors: rows without a reply.

    The other figures are those of `Progress`.
    """

    at: float = 0.0
    job: str = ""
    session: str = ""
    notebook: str = ""
    tag: str = ""
    rows: int = 0
    done: int = 0
    errors: int = 0
    requests: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    packed: int = 0
    checked: int = 0
    agreed: int = 0
    not_compared: int = 0
    discarded: int = 0

    def plus(self, other: JobRecord, times: int = 1) -> JobRecord:
        """This record plus another part of the job, or minus it if `times` is -1."""
        counts = {
            field.name: getattr(self, field.name) + times * getattr(other, field.name)
            for field in fields(self)
            if field.name != "at" and not isinstance(field.default, str)
        }
        return replace(self, at=max(self.at, other.at), **counts)


_in_memory: defaultdict[str, list[JobRecord]] = defaultdict(list)


def new_job_id() -> str:
    """An id that no other job has."""
    return f"j{os.urandom(6).hex()}"


def note_job(store: str, record: JobRecord) -> None:
    """Add a line to the record beside the ledger of that store."""
    path = _path(store)
    if path is None:
        _in_memory[store].append(record)
        return
    # If the disk refuses, the record of attempts has warned already.
    with suppress(OSError):
        append_lines(path, f"{json.dumps(asdict(record))}\n".encode())


def jobs_since(store: str, earliest: float) -> list[JobRecord]:
    """The jobs that ended from `earliest` (epoch seconds) on, oldest first, parts added up.

    Jobs that sent nothing are left out.
    """
    path = _path(store)
    lines = list(_in_memory[store] if path is None else _read(path))
    jobs: dict[str, JobRecord] = {}
    for line in lines:
        if line.at >= earliest:
            jobs[line.job] = jobs[line.job].plus(line) if line.job in jobs else line
    return sorted((job for job in jobs.values() if job.requests), key=lambda job: job.at)


def _path(store: str) -> Path | None:
    attempts = attempt_log(store).path
    return None if attempts is None else attempts.with_name("llm_jobs.jsonl")


def _read(path: Path) -> Iterator[JobRecord]:
    """The records in the file; other lines, such as one that a full disk cut, are skipped."""
    kinds = {
        field.name: (int, float) if isinstance(field.default, float) else type(field.default)
        for field in fields(JobRecord)
    }
    with suppress(OSError), os.fdopen(open_ours(path, os.O_RDONLY), "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        for line in file:
            with suppress(AttributeError, RecursionError, ValueError):
                values = {name: value for name, value in json.loads(line).items() if name in kinds}
                if all(isinstance(value, kinds[name]) for name, value in values.items()):
                    yield JobRecord(**values)
