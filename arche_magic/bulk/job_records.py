"""The record of jobs: one line each in `outputs/llm_jobs.jsonl`, beside the record of attempts.

It contains no prompts and no replies. The record of attempts has the cost of a job, but not how its
packed replies agreed, so jobs have their own record.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.files import append_lines, open_ours

# Bytes that are read from the end of the file: about 5,000 jobs.
_TAIL_BYTES = 2_000_000


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
