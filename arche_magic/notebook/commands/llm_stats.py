"""`%llm_stats`: attempts and their outcomes, of this session or of the last month."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ..command import Session, Shown, Typed, command, option


@command(
    option("--plot", "Show plots: tokens, seconds, fallbacks."),
    option(
        "--by",
        "Show sums over all sessions of the last 31 days; client: a row per program that uses"
        " %%llm_serve; job: a row per job of --over.",
        choices=("provider", "model", "day", "notebook", "tag", "client", "job"),
    ),
)
def llm_stats(session: Session, typed: Typed) -> Shown:
    """Show this session's attempts per route, and return every attempt as a DataFrame.

    With --by, it shows and returns sums of requests, tokens and cost. By tag or job, it also
    shows how often rows got the same answer packed and alone.

    Usage:
      %llm_stats [OPTIONS]

    Examples:
      attempts = %llm_stats
      %llm_stats --by notebook
      %llm_stats --by tag
      %llm_stats --by client
      %llm_stats --plot
    """
    from arche_magic.llm_providers.attempt_log import attempt_log
    from arche_magic.llm_providers.config import get_configuration
    from arche_magic.llm_providers.errors import InvalidRequest

    from ..past_attempts import session_attempts
    from ..plots import attempt_pictures, can_draw, pictures_bundle
    from ..stats import stats_bundle

    options = typed.options
    if options.by and options.plot:
        raise InvalidRequest("%llm_stats: --by cannot be combined with --plot")
    if options.by:
        return _sums(options.by)
    frame = session_attempts()
    if options.plot and can_draw():
        attempts = attempt_log(get_configuration().store).session()
        return pictures_bundle(attempt_pictures(attempts)), frame
    return stats_bundle(frame), frame


def _sums(by: str) -> Shown:
    """The sums of the last 31 days."""
    from arche_magic.bulk.whole_job import jobs_since
    from arche_magic.llm_providers.config import get_configuration

    from ..past_attempts import load_attempts
    from ..stats import DAYS, jobs_bundle, jobs_frame, sums_bundle, sums_frame

    configuration = get_configuration()
    now = datetime.fromtimestamp(configuration.clock.time(), UTC)
    earliest = now - timedelta(days=DAYS)
    jobs = jobs_frame(jobs_since(configuration.store, earliest.timestamp()))
    if by == "job":
        return jobs_bundle(jobs), jobs
    sums = sums_frame(load_attempts(earliest), by, jobs)
    return sums_bundle(sums, by), sums
