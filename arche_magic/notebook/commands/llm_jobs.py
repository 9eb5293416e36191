"""`%llm_jobs`: list, show and stop background jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..command import Session, Shown, Typed, command

if TYPE_CHECKING:
    import pandas as pd

    from ..background import BackgroundJobs

_LONGEST_PROMPT = 48
_TYPES = {
    "job": "int64", "state": "str", "prompt": "str", "since": "datetime64[ms, UTC]",
    "seconds": "float64", "variable": "object", "provider": "object", "key": "object",
    "model": "object", "tokens": "Int64", "error": "object",
}  # fmt: skip


@command()
def llm_jobs(session: Session, typed: Typed) -> Shown:
    """List, show and stop prompts in the background; return them as a DataFrame.

    `%%llm --background` starts one. Kernel -> Interrupt does not stop them.

    Usage:
      %llm_jobs
      %llm_jobs show JOB     its reply and receipt
      %llm_jobs stop JOB
      %llm_jobs stop all

    Examples:
      %llm_jobs
      %llm_jobs show 1
      %llm_jobs stop all
    """
    from arche_magic.llm_providers.errors import InvalidRequest
    from arche_magic.llm_providers.text.wording import plural

    jobs = session.jobs
    shown: dict[str, str] | str | None = None
    match typed.text.split():
        case []:
            shown = _table(jobs)
        case ["show", number]:
            jobs.numbered(number).show(session.shell)
        case ["stop", "all"]:
            shown = f"{plural(jobs.stop(), 'job')} stopped"
        case ["stop", number]:
            job = jobs.numbered(number)
            if job.has_ended:
                raise InvalidRequest(
                    f"%llm_jobs: job {number} has already ended: {job.state}; "
                    f"%llm_jobs show {number} shows the result"
                )
            job.stop()
            shown = f"job {number} stopped"
        case _:
            raise InvalidRequest("usage: %llm_jobs, or %llm_jobs show JOB, stop JOB, or stop all")
    return shown, _frame(jobs)


def _table(jobs: BackgroundJobs) -> dict[str, str] | str:
    from ..styles import day_and_time, one_line, table_bundle

    rows = [
        (
            f"{job.number}",
            job.state,
            day_and_time(job.since, seconds=True),
            f"{job.seconds:.1f} s",
            job.variable or "",
            one_line(job.prompt, _LONGEST_PROMPT),
            one_line(job.outcome, 2 * _LONGEST_PROMPT),
        )
        for job in jobs
    ]
    heads = ("job", "state", "since", "time", "variable", "prompt", "outcome")
    if not rows:
        return "no jobs yet; %%llm --background starts one"
    return table_bundle(heads, rows, right=("job", "time"), long=["outcome"])


def _frame(jobs: BackgroundJobs) -> pd.DataFrame:
    from arche_magic.llm_providers.types import utc

    from ..frames import typed_frame

    rows = [
        (job.number, job.state, job.prompt, utc(job.since), job.seconds, job.variable,
         *((None, None, None) if job.reply is None else job.reply.route), job.tokens,
         str(job.error) if job.error else None)
        for job in jobs
    ]  # fmt: skip
    return typed_frame(_TYPES, rows)
