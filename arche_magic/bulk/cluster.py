"""Jobs on a Dask cluster: each part of the rows is a separate job on a Dask worker.

Dask workers read keys, models and the location of the ledger from their own environment; keys are
not sent to them. With a ledger in Redis, workers on several machines share the limits.
"""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest, NoKeys
from arche_magic.llm_providers.options import shown
from arche_magic.llm_providers.text.wording import plural
from arche_magic.prompts.tables import library_of

from .job import Job
from .progress import Progress
from .results import Replies
from .rows import Row, name_of_series
from .whole_job import JobStopped, new_job_id

if TYPE_CHECKING:
    import dask.dataframe as dd
    import pandas as pd
    from distributed import Client

_MOST_ROWS = 1000
# Parts per thread of the cluster; with several, the last part does not take long.
_PARTS = 4
_WATCH_SECONDS = 0.5


def is_dask(data: object) -> bool:
    """Whether data is a Dask DataFrame or Series; Dask is not imported for it."""
    return library_of(data) in ("dask", "dask_expr")


def map_partitions(
    data: dd.DataFrame, template: str | None, options: dict[str, Any]
) -> dd.DataFrame:
    """A lazy Dask DataFrame with the columns of the replies.

    Raises:
        InvalidRequest: template or an option is wrong.
    """
    if data.ndim == 1:
        data = data.to_frame(name_of_series(data.name, template))
    _check(options)
    meta = Replies(Job(data._meta, template, **options), always_raw=True).frame()
    return data.map_partitions(
        _ask_partition, template, options | {"part_of": new_job_id()}, meta=meta
    )


class ClusterJob(Job):
    """A job whose parts are asked by the workers of a cluster; its arguments are those of `Job`.

    Raises:
        InvalidRequest: data, template or an option is wrong; nothing is sent to a worker.
    """

    def __init__(self, client: Client, data: Any, template: str | None, **options: Any) -> None:
        _check(options)
        _check_client(client)
        super().__init__(data, template, **options)
        self._client, self._options = client, options
        self._spent = Progress(0, 0)

    def __iter__(self) -> Generator[Row, None, None]:
        """The rows as they finish; leaving early cancels the job.

        Raises:
            ConfigurationError: the workers have no keys, or do not share their limits.
            JobStopped: at one of the bounds, after all rows that were finished.
        """
        from distributed import as_completed

        client, frame = self._client, self.rows.frame
        threads = _check_workers(client)
        size = max(1, min(_MOST_ROWS, math.ceil(len(self) / (_PARTS * threads))))
        options = self._options | {"part_of": new_job_id()}
        futures = [
            client.submit(
                _ask_part, frame.iloc[start : start + size], self.rows.template, options, start,
                # Equal rows are separate rows.
                pure=False,
            )
            for start in range(0, len(self), size)
        ]  # fmt: skip
        try:
            stopped = None
            for future in as_completed(futures):
                rows, error, spent = future.result()
                self._spent = self._spent.spending_also(spent)
                for row in rows:
                    if row.second is None:
                        self._counts.finish([row])
                        self._counts.note_taken(row)
                    yield row
                future.release()
                stopped = stopped or error
                if error and not error.at_bound:
                    break
                # When one part reaches a bound, the other parts stop too, and their finished rows
                # are returned.
            if stopped is not None:
                raise stopped
        finally:
            client.cancel(futures)

    def progress(self, later: int = 0) -> Progress:
        """Return the progress, without the routes that the workers wait for, which are not known
        here.
        """
        return self._counts.progress().spending_also(self._spent)


def _check(options: dict[str, Any]) -> None:
    if options.get("llm") is not None:
        raise InvalidRequest("llm= cannot be sent to workers; each uses its own configuration")


def _check_client(client: object) -> None:
    try:
        from distributed import Client
    except ImportError:
        hint = " of the package distributed: pip install 'arche_magic[dask]'"
    else:
        if isinstance(client, Client):
            return
        hint = " of distributed"
    raise InvalidRequest(f"client is {shown(client)}; it must be a Client{hint}")


def _check_workers(client: Client) -> int:
    """The total number of threads of the workers.

    Raises ConfigurationError if there are no workers, if one has no key, or if they do not share
    one ledger.
    """
    found: dict[str, dict[str, Any]] = client.run(_about)
    if not found:
        raise ConfigurationError("the cluster has no workers")
    for address, about in found.items():
        if not about["keys"]:
            raise NoKeys(
                f"the worker {address} has no API key: set the variables in its own environment"
            )
    hosts = {about["host"] for about in found.values()}
    stores = {about["store"] for about in found.values()}
    alone = [store for store in stores if not store.startswith(("redis://", "rediss://"))]
    if len(stores) > 1 or (alone and (len(hosts) > 1 or "memory://" in alone[0])):
        raise ConfigurationError(
            f"the workers do not share one ledger ({', '.join(sorted(stores))} on "
            f"{plural(len(hosts), 'machine')}), so they would exceed the "
            "limits together: set ARCHE_QUOTA_STORE=redis://… in the environment of each"
        )
    counts: dict[str, int] = client.nthreads()
    return sum(counts.values())


def _about() -> dict[str, Any]:
    """Facts about a Dask worker; a URL comes without its password."""
    from arche_magic.llm_providers.config import get_configuration

    configuration = get_configuration()
    return {
        "host": socket.gethostname(),
        "store": str(configuration.store),
        "keys": len(configuration.keys),
    }


def _ask_partition(
    frame: pd.DataFrame, template: str | None, options: dict[str, Any]
) -> pd.DataFrame:
    """Ask the rows of one partition of a Dask DataFrame, on a worker."""
    job = Job(frame, template, **options)
    replies = Replies(job, always_raw=True)
    for row in _watched(job):
        replies.add(row)
    return replies.frame()


def _ask_part(
    frame: pd.DataFrame, template: str, options: dict[str, Any], start: int
) -> tuple[list[Row], JobStopped | None, Progress]:
    """Ask the rows from `start` on, on a worker; also returns what stopped it, or None."""
    job = Job(frame, template, **options)
    rows: list[Row] = []
    error = None
    try:
        for row in _watched(job):
            rows.append(replace(row, position=start + row.position))  # noqa: PERF401  # it may raise
    except JobStopped as stopped:
        error = stopped
    return rows, error, replace(job.progress(), waiting=None)


def _watched(job: Job) -> Iterator[Row]:
    """The rows of a job that ends when its task is cancelled."""
    ended = threading.Event()
    try:
        from distributed import get_worker

        worker = get_worker()
        key = worker.get_current_task()
    except (ImportError, ValueError):
        # Another of Dask's schedulers runs it in this process.
        yield from job
        return

    def watch() -> None:
        while not ended.wait(_WATCH_SECONDS):
            task = worker.state.tasks.get(key)
            if task is None or task.state == "cancelled":
                job.cancel()
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield from job
    finally:
        ended.set()
