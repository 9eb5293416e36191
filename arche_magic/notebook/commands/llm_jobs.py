"""`%llm_jobs`: list, show and stop background jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..command import Session, Typed, command

if TYPE_CHECKING:
    import pandas as pd


@command(needs="background")
def llm_jobs(session: Session, typed: Typed) -> pd.DataFrame:
    """List, show and stop prompts in the background; returns them as a DataFrame.

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

    from ..display import show

    jobs = session.jobs
    match typed.text.split():
        case []:
            show(jobs.bundle())
        case ["show", number]:
            jobs.numbered(number).show(session.shell)
        case ["stop", "all"]:
            stopped = jobs.stop()
            show(f"{stopped} job{'' if stopped == 1 else 's'} stopped")
        case ["stop", number]:
            job = jobs.numbered(number)
            if job.has_ended:
                raise InvalidRequest(f"%llm_jobs: job {number} has already ended: {job.state}")
            job.stop()
            show(f"job {number} stopped")
        case _:
            raise InvalidRequest("usage: %llm_jobs, or %llm_jobs show JOB, stop JOB, or stop all")
    return session.out.shown(jobs.frame())
