"""Jobs over files larger than memory, which are read, asked and written in chunks of rows."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.files import open_ours
from arche_magic.llm_providers.processes import is_dead, this_process

from .arrow import (
    arrow_columns,
    as_json_text,
    cell_text,
    is_nested,
    simple_types,
    with_columns,
)
from .comparison import Quality
from .file_readers import as_frame
from .file_source import WRITTEN, SourceFile, separator, usable_path
from .job import Job
from .progress import Progress
from .results import Column, Replies
from .rows import Row, plain
from .whole_job import JobRecord

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ROWS = 10_000
"""Rows that are in memory at a time."""
_ROWS = ("done", "resumed", "errors", "twice", "to_ask_twice")
_PANDAS = b"pandas"
_PART = ".part"


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
        whole, start = self._job.whole, 0
        refuted = whole.refuted
        writer = _FileWriter(self.to, self._columns, self._source.kinds, self._sep)
        with closing(writer):
            for frame, table in self._source.chunks(ROWS, self._read):
                options = {**self._options, "part_of": whole}
                # Together, because other threads ask for the progress.
                self._before, self._job = before, Job(frame, self._template, **options)
                replies = Replies(self._job, always_raw=True)
                for row in self._job:
                    replies.add(row)
                    yield replace(row, position=start + row.position)
                if self._cancelled:
                    return None
                recorded = recorded.plus(self._job.recorded)
                if start and whole.refuted > refuted:
                    self._job.forget_rows(recorded)
                    return Progress(0, self._total).spending_also(self.progress())
                refuted = whole.refuted
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


class _FileWriter:
    """Appends frames to a file, which appears only when it is complete.

    Until then, a hidden file in the same folder is written. Each run has its own hidden file, so
    that several kernels can write the same result. A run deletes the hidden files of killed
    kernels.

    Args:
        to: the file; its name decides the format, and an existing file is replaced.
        columns: the columns that are added to the data.
        kinds: the kinds of values in the data's columns; see `RecordReader`.
        sep: the field separator of a CSV.

    Raises:
        InvalidRequest: it cannot be written; raised by the methods too.
    """

    def __init__(
        self, to: Path, columns: Sequence[Column], kinds: Mapping[str, str], sep: str
    ) -> None:
        self._to, self._columns, self._sep = to, columns, sep
        self._name = to.name.lower()
        self._data_kinds = kinds
        self._parquet: Any = None
        self._begun = False
        with self._writing():
            for other in to.parent.glob(f".*{_PART}"):
                if is_dead(_process_of(other)):
                    other.unlink(missing_ok=True)
            self._path = to.with_name(_new_name())
            os.close(open_ours(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))

    def write(self, frame: pd.DataFrame, table: pa.Table | None = None) -> None:
        """Append a chunk of rows with the added columns; the first chunk determines all columns.

        If the data has typed columns, they are taken from `table` instead of the frame.
        """
        with self._writing():
            if self._name.endswith(".parquet"):
                self._write_parquet(frame, self._table_of(frame) if table is None else table)
                return
            if table is not None:
                added = frame[[column.name for column in self._columns]]
                frame = as_frame(table).join(added.reset_index(drop=True))
            if self._name.endswith((".jsonl", ".jsonl.gz")):
                self._write_lines(frame)
            else:
                self._write_csv(frame)

    def finish(self) -> None:
        """Complete the file, and rename it to its final name."""
        with self._writing():
            if self._parquet is not None:
                self._parquet.close()
            self._path.replace(self._to)

    def close(self) -> None:
        """Delete the file if it is not complete."""
        # An error here must not hide the reason why the job ended.
        with suppress(OSError):
            if self._parquet is not None:
                self._parquet.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InvalidRequest(
                f"{self._to} cannot be written ({error.strerror or error}); finished rows are "
                "kept, so the same call asks only the others"
            ) from None

    def _write_csv(self, frame: pd.DataFrame) -> None:
        import pandas as pd

        packed = "gzip" if self._name.endswith(".gz") else None
        # Nested values become JSON, in columns of the source too.
        shown = frame.apply(
            # `Series.map` would turn integers beside missing values into floats.
            lambda column: (
                pd.Series([*map(_as_cell, column)], column.index, object)
                if column.dtype == object
                else column
            )
        )
        mode = "a" if self._begun else "w"
        shown.to_csv(
            self._path, mode=mode, header=not self._begun, index=False, compression=packed,
            sep=self._sep,
        )  # fmt: skip
        self._begun = True

    def _write_lines(self, frame: pd.DataFrame) -> None:
        opened = gzip.open if self._name.endswith(".gz") else open
        with opened(self._path, "at", encoding="utf-8") as file:
            for record in frame.to_dict("records"):
                file.write(as_json_text(record) + "\n")

    def _write_parquet(self, frame: pd.DataFrame, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        added = arrow_columns(frame, self._columns)
        table = _with_types_of(with_columns(table, added), added)
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self._path, table.schema)
        self._parquet.write_table(table)

    def _table_of(self, frame: pd.DataFrame) -> pa.Table:
        """The data of a file without column types; each type is inferred from the values."""
        import pyarrow as pa

        types, columns = simple_types(), {}
        for name in frame.columns.difference([column.name for column in self._columns], sort=False):
            kind = self._data_kinds.get(name, "string")
            values = [plain(value) for value in frame[name]]
            if kind == "number":
                values = [None if value is None else float(value) for value in values]
            if kind == "other":
                values = [None if value is None else cell_text(value) for value in values]
            columns[str(name)] = pa.array(values, types.get(kind, pa.string()))
        return pa.table(columns)


def _new_name() -> str:
    """A name for an unfinished file, with that of this process."""
    return f".{os.urandom(4).hex()}.{this_process().replace(':', ',')}{_PART}"


def _process_of(path: Path) -> str:
    """The name of the process that writes an unfinished file."""
    return path.name[1:].removesuffix(_PART).partition(".")[2].replace(",", ":")


def _with_types_of(table: pa.Table, added: pa.Table) -> pa.Table:
    """The table with the pandas types of the added columns, so that pandas restores them."""
    metadata = dict(table.schema.metadata or {})
    ours = json.loads(added.schema.metadata[_PANDAS])
    theirs = json.loads(metadata.get(_PANDAS, b"{}"))
    whole = ours | theirs | {"columns": [*theirs.get("columns", ()), *ours["columns"]]}
    return table.replace_schema_metadata({**metadata, _PANDAS: json.dumps(whole).encode()})


def _as_cell(value: Any) -> Any:
    return cell_text(value) if is_nested(value) or isinstance(value, bytes) else value
