"""One prompt for every row of a frame, as fast as the limits allow; stopped jobs can continue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.options import check_callable

from . import cluster
from .comparison import Quality, quality
from .embedding import embed
from .file_job import FileJob
from .file_source import is_file
from .job import Job
from .planning import plan
from .plans import Plan, Way
from .progress import LineBar, Progress
from .results import Replies, like
from .rows import Row, Rows
from .whole_job import JobStopped

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Job",
    "JobStopped",
    "Plan",
    "Progress",
    "Quality",
    "Replies",
    "Row",
    "Rows",
    "Way",
    "embed",
    "imap",
    "map",
    "plan",
    "quality",
]


def map(  # noqa: A001  # what the builtin does, for prompts
    data: Any,
    template: str | None = None,
    *,
    to: str | Path | None = None,
    encoding: str | None = None,
    sep: str | None = None,
    sheet: str | None = None,
    client: Any = None,
    on_done: Callable[[Row], object] | None = None,
    progress: bool = False,
    **options: Any,
) -> pd.DataFrame | Any:
    """Ask one prompt per row; return the data with columns for the replies.

    `map(reviews, "Is this positive or negative? {{text}}", schema="sentiment pos|neg")`. Each row
    is saved as soon as it is finished (`outputs/llm_replies.sqlite`). After an interrupt or a
    crash, the same call asks only the missing rows.

    Args:
        data: a DataFrame, a Series or a list of texts, which is not changed; a table of polars,
            pyarrow or DuckDB; the path of a file of any size (Parquet, CSV, TSV, JSON lines, Excel)
            or of a folder of Parquet files; or a Dask DataFrame.
        template: the prompt, with `{{column}}` for the values of a row. Without one, the texts of
            a Series or list are the prompts.
        to: the file to write, with the rows of the input file and their replies.
        encoding: the encoding of a text file; by default UTF-8, or what its byte order mark says.
        sep: the field separator of a CSV file.
        sheet: the name of the sheet of an Excel file; the first one if not given.
        client: a `distributed.Client` whose workers ask a frame, or None; see `bulk.cluster`.
        on_done: called with each finished `Row`.
        progress: show the progress and the finish time in one line on stderr.
        **options: see `Job`.

    Returns:
        The data with the columns `reply` (or the fields of the schema), `provider`, `model`,
        `tokens` and `error`, in its own order, with its own index; `details=` and `twice=` add
        more, see `Replies`. For a file, the path that was written. For a Dask DataFrame, a lazy
        one, which asks when it is computed.

    Raises:
        InvalidRequest: data, template or an option is invalid; nothing was sent.
        JobStopped: the job reached a bound; `.frame` has the finished rows.
        LLMProviderError: no row can be asked, for example without a key.
    """
    check_callable("on_done", on_done)
    read = {"encoding": encoding, "sep": sep, "sheet": sheet}
    if is_file(data):
        if client is not None:
            raise InvalidRequest("client= does not accept a file; read it with dask.dataframe")
        file_job = FileJob(data, to, template, **read, **options)
        with _bar(file_job.progress, progress):
            for row in file_job:
                if on_done:
                    on_done(row)
        return file_job.to
    if to is not None and not isinstance(data, str):
        raise InvalidRequest("to= is only for files; for a frame, the result is returned")
    if any(value is not None for value in read.values()):
        raise InvalidRequest("encoding=, sep= and sheet= are only for files")
    if cluster.is_dask(data):
        if client is not None:
            raise InvalidRequest(
                "client= does not accept a Dask frame, which has its own scheduler"
            )
        if on_done or progress:
            raise InvalidRequest(
                "on_done= and progress= do not work for a Dask frame, which is computed elsewhere; "
                "use dask.diagnostics.ProgressBar or distributed.progress"
            )
        return cluster.map_partitions(data, template, options)
    job = _job(data, template, client, options)
    replies = Replies(job)
    try:
        with closing(iter(job)) as rows, _bar(job.progress, progress):
            for row in rows:
                replies.add(row)
                if on_done:
                    on_done(row)
    except JobStopped as stopped:
        stopped.frame = like(data, replies)
        raise
    return like(data, replies)


def imap(
    data: Any, template: str | None = None, *, client: Any = None, **options: Any
) -> Iterator[Row]:
    """Yield the rows as they finish, in any order; see `map`. Closing the iterator ends the job."""
    return iter(_job(data, template, client, options))


def _job(data: Any, template: str | None, client: Any, options: dict[str, Any]) -> Job:
    if client is None:
        return Job(data, template, **options)
    return cluster.ClusterJob(client, data, template, **options)


def _bar(progress: Callable[[], Progress], is_shown: bool) -> AbstractContextManager[object]:
    return LineBar(progress, get_configuration().clock.time) if is_shown else nullcontext()
