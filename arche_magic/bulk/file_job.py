"""Jobs over files larger than memory, which are read, asked and written in chunks of rows."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from arche_magic.llm_providers.errors import InvalidRequest

from .comparison import Quality
from .file_source import WRITTEN, SourceFile, separator, usable_path
from .file_writer import FileWriter
from .job import Job
from .job_records import JobRecord
from .progress import Progress
from .results import Replies
from .rows import Row

ROWS = 10_000
"""Rows that are in memory at a time."""
_ROWS = ("done", "resumed", "errors", "twice", "to_ask_twice")


class FileJob:
    """A job over the rows of a file, whose result is another file; used like a `Job`.

    The result file appears only when it is complete. After an interrupt the unfinished file is
    deleted; the replies are on disk, and the next run reads them from there. Parquet keeps the
    types of its columns; the cells of a CSV stay text.

    Args:
        source, encoding, sheet: the file or folder to read; see `SourceFile`.
        to: the file to write, in UTF-8; an existing file is replaced.
        template: the prompt; see `Job`, also for the options.
        sep: the separator of CSV fields, in the source and in the result.
        **options: bounds apply to the whole file.

    Attributes:
        quality: how the rows written so far compare, with `twice=` or `gold=`.

    Raises:
        InvalidRequest: a file cannot be used, or template or an option is wrong.
        ConfigurationError: a package is missing.
    """

    def __init__(
        self,
        source: str | Path,
        to: str | Path | None,
        template: str | None,
        *,
        encoding: str | None = None,
        sep: str | None = None,
        sheet: str | None = None,
        **options: Any,
    ) -> None:
        self._source = SourceFile(source, encoding, sep, sheet, template)
        self.to = _target(self._source.path, to)
        self._template, self._options = template, options
        self._job = Job(self._source.first_row, template, **options)
        # Wrong columns are refused here, before anything is asked.
        self._columns = Replies(self._job, always_raw=True).columns
        # Fields are renamed if the data has columns with their names; all chunks must use the same
        # names.
        fields = self._job.schema.fields if self._job.schema else ()
        there = [name for name in fields if name in self._source.first_row.columns]
        wanted = (*self._job.rows.columns, *self._job.gold.values(), *there)
        self._read = list(dict.fromkeys(wanted))
        self._sep = separator(self.to, sep)
        self._total = self._source.count()
        self._before = Progress(0, self._total)
        self.quality = Quality()
        self._cancelled = False

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Generator[Row, None, None]:
        """Yield the rows as they finish; the file exists after the last one.

        It raises what a `Job` raises, and InvalidRequest if the file cannot be written.
        """
        before: Progress | None = self._before
        while before is not None:
            before = yield from self._write(before)

    def _write(self, before: Progress) -> Generator[Row, None, Progress | None]:
        """Write all rows; returns the earlier progress if the job must start again, else None.

        It starts again if packed replies are discarded that were already written to earlier chunks.
        Kept replies are not asked for again.
        """
        self.quality, recorded = Quality(), JobRecord()
        agreement = self._job.whole.agreement
        start, refutations = 0, agreement.refutations
        writer = FileWriter(self.to, self._columns, self._source.kinds, self._sep)
        with closing(writer):
            for frame, table in self._source.chunks(ROWS, self._read):
                options = {**self._options, "part_of": self._job.whole}
                # Together, because other threads ask for the progress.
                self._before, self._job = before, Job(frame, self._template, **options)
                replies = Replies(self._job, always_raw=True)
                for row in self._job:
                    replies.add(row)
                    yield replace(row, position=start + row.position)
                if self._cancelled:
                    return None
                recorded = recorded.plus(self._job.recorded)
                if start and agreement.refutations > refutations:
                    self._job.forget_rows(recorded)
                    return Progress(0, self._total).spending_also(self.progress())
                refutations = agreement.refutations
                writer.write(replies.frame(), table)
                self.quality = self.quality.plus(replies.quality)
                before = self.progress()
                start += len(frame)
            writer.finish()
        return None

    def progress(self) -> Progress:
        """Return the progress of the whole job."""
        before, job = self._before, self._job
        now = job.progress(later=self._total - before.done - len(job))
        sums = {name: getattr(before, name) + getattr(now, name) for name in _ROWS}
        return replace(now.spending_also(before), total=self._total, **sums)

    def cancel(self) -> None:
        """End soon; see `Job`."""
        self._cancelled = True
        self._job.cancel()


def _target(source: Path, to: str | Path | None) -> Path:
    if to is None:
        raise InvalidRequest(
            f"{source.name}: name a file for the rows and their replies with "
            "to='replies.parquet' (--into replies.parquet)"
        )
    if str(to).lower().endswith((".xlsx", ".xlsm")):
        raise InvalidRequest(f"{to}: Excel files are read, not written; name a .csv or .parquet")
    to = usable_path(to, WRITTEN)
    if not os.path.isdir(to.parent):  # noqa: PTH112  # raises nothing
        raise InvalidRequest(f"the folder {to.parent} does not exist")
    if to.is_dir():
        raise InvalidRequest(f"{to} is a folder; name a file")
    if source.is_dir() and source.resolve() in to.resolve().parents:
        raise InvalidRequest(f"{to} is in the input folder; name a file in another folder")
    if source.resolve() == to.resolve():
        raise InvalidRequest(f"{to} is the input file and would be overwritten; name another file")
    return to
