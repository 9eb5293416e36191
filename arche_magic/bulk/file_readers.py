"""Reads each kind of file in chunks of rows, as frames."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import MOST_LEVELS
from arche_magic.llm_providers.text.json_values import in_whole_characters
from arche_magic.llm_providers.text.wording import suggestion

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# The approximate size of a chunk in memory.
_CHUNK_BYTES = 32_000_000
# Bytes read from disk at a time, for each column.
_BUFFER_BYTES = 1_000_000
_SAMPLE_BYTES = 1_000_000
# Rows per read when they are only checked and counted.
_MOST_ROWS = 100_000


class ParquetReader:
    """A Parquet file, or a folder of them, whose names may hold values (`year=2026/`).

    Row groups are never in memory as a whole: columns are read through small buffers.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.dataset as ds
        import pyarrow.parquet as pq

        self._parts: list[tuple[str, dict[str, Any]]] = [(str(path), {})]
        fields: dict[str, pa.DataType] = {}
        if path.is_dir():
            files = _parquet_files(path)
            if not files:
                raise InvalidRequest(f"{path.name}: the folder has no .parquet files")
            folder = ds.dataset(
                files, format="parquet", partitioning="hive", partition_base_dir=str(path)
            )
            self._parts = [
                (one.path, ds.get_partition_keys(one.partition_expression))
                for one in folder.get_fragments()
            ]
            names = {name for _, keys in self._parts for name in keys}
            fields = {name: folder.schema.field(name).type for name in sorted(names)}
        schemas = [pq.read_schema(file) for file, _ in self._parts]
        schema = pa.unify_schemas(schemas, promote_options="permissive")
        for name, kind in fields.items():
            if name not in schema.names:
                schema = schema.append(pa.field(name, kind))
        self._schema: pa.Schema = schema

    def count(self) -> int:
        """Number of rows."""
        import pyarrow.parquet as pq

        return sum(int(pq.read_metadata(file).num_rows) for file, _ in self._parts)

    def frames(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """The rows with only the named columns; row numbers continue from one frame to the next."""
        start = 0
        for table in self.tables(rows, columns):
            yield as_frame(table, start)
            start += len(table)

    def tables(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows with only the named columns, as Arrow tables."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = list(self._schema.names if columns is None else columns)
        schema = pa.schema([self._schema.field(name) for name in names], self._schema.metadata)
        found = False
        for path, keys in self._parts:
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
                there = [name for name in names if name in file.schema_arrow.names]
                most = min(rows, _rows_at_once(file.metadata, there))
                for batch in file.iter_batches(most, columns=there):
                    found = True
                    yield _with_schema(pa.Table.from_batches([batch]), schema, keys)
        if not found:
            yield schema.empty_table()


def as_frame(table: pa.Table, start: int = 0) -> pd.DataFrame:
    """The table as a frame whose rows are numbered from `start` on."""
    import pandas as pd

    frame: pd.DataFrame = table.to_pandas(integer_object_nulls=True, ignore_metadata=True)
    frame.index = pd.RangeIndex(start, start + len(frame))
    return frame


def _parquet_files(folder: Path) -> list[str]:
    """The Parquet files in a folder and below, in the order of the numbers in their names.

    Names that begin with a dot or an underscore are left out, as other readers do.
    """
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))
    shown = [name for name in names if not re.search(r"(^|/)[._]", name)]
    shown.sort(key=lambda name: [part.zfill(20) for part in re.split(r"(\d+)", name)])
    return [str(folder / name) for name in shown]


def _rows_at_once(metadata: Any, columns: Sequence[str]) -> int:
    """The number of rows that make a chunk."""
    wanted, size = set(columns), 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for at in range(group.num_columns):
            column = group.column(at)
            if wanted & {column.path_in_schema, column.path_in_schema.partition(".")[0]}:
                size += column.total_uncompressed_size
    return max(1, int(_CHUNK_BYTES * metadata.num_rows / max(1, size)))


def _with_schema(table: pa.Table, schema: pa.Schema, keys: Mapping[str, Any]) -> pa.Table:
    """The table with the columns of all files, including those that its folders name."""
    import pyarrow as pa

    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table[field.name].cast(field.type))
        else:
            value = pa.scalar(keys.get(field.name), field.type)
            columns.append(pa.repeat(value, len(table)))
    return pa.Table.from_arrays(columns, schema=schema)


class CsvReader:
    """A CSV or TSV file. All cells are text; empty cells are missing values."""

    def __init__(self, path: Path, encoding: str, sep: str) -> None:
        self._path, self._encoding, self._sep = path, encoding, sep

    @cached_property
    def _row_bytes(self) -> float:
        """Mean length of a row in bytes, estimated from the first lines."""
        with opened(self._path) as file:
            start = file.read(_SAMPLE_BYTES)
        return float(max(1, len(start)) / max(1, start.count(b"\n")))

    def count(self) -> int:
        """Number of rows."""
        # A row may span several lines.
        return sum(len(frame) for frame in self.frames(_MOST_ROWS))

    def frames(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """The rows with all columns; row numbers continue from one frame to the next."""
        import pandas as pd

        chunks = pd.read_csv(
            self._path, dtype=str, keep_default_na=False, na_values=[""],
            chunksize=max(1, min(rows, int(_CHUNK_BYTES / self._row_bytes))),
            skip_blank_lines=False, encoding=self._encoding, sep=self._sep,
            engine="c" if self._sep.isascii() else "python",
        )  # fmt: skip
        with chunks:
            for frame in chunks:
                if not isinstance(frame.index, pd.RangeIndex):
                    # pandas uses the first fields of such rows as the index.
                    raise pd.errors.ParserError("the rows have more fields than the header")
                yield frame


Record = tuple[dict[str, Any], int]
"""A row as a mapping, and its approximate size in bytes."""


class RecordReader:
    """Rows of typed values: JSON lines and Excel sheets.

    `records` reads the file from its beginning; this is done once to find all columns and their
    types. `names` are the first columns, which may have no values.
    """

    def __init__(self, records: Callable[[], Iterator[Record]], names: Iterable[str] = ()) -> None:
        self._records, self._first_names = records, names

    @cached_property
    def _scan(self) -> tuple[int, dict[str, set[str]]]:
        count, found = 0, {name: set[str]() for name in self._first_names}
        for record, _ in self._records():
            count += 1
            for name, value in record.items():
                kinds = found.setdefault(name, set())
                if value is not None:
                    kinds.add(_kind(value))
        return count, found

    @property
    def kinds(self) -> Mapping[str, str]:
        """The kind of values in each column.

        It is "string", "integer", "number", "boolean", "time" or "other".
        """
        merged = {frozenset({"integer", "number"}): "number", frozenset[str](): "string"}
        return {
            name: merged.get(frozenset(kinds), next(iter(kinds)) if len(kinds) == 1 else "other")
            for name, kinds in self._scan[1].items()
        }

    def count(self) -> int:
        """Number of rows."""
        return self._scan[0]

    def frames(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """The rows with all columns; row numbers continue from one frame to the next."""
        import pandas as pd

        names, began, size = list(self._scan[1]), 0, 0
        records: list[dict[str, Any]] = []

        def frame() -> pd.DataFrame:
            index = pd.RangeIndex(began, began + len(records))
            values = {name: [record.get(name) for record in records] for name in names}
            return pd.DataFrame(values, index=index, dtype=object)

        for record, length in self._records():
            records.append(record)
            size += length
            if len(records) >= rows or size >= _CHUNK_BYTES:
                yield frame()
                began, size, records = began + len(records), 0, []
        if records or not began:
            yield frame()


FileReader = ParquetReader | CsvReader | RecordReader


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if -(2**63) <= value < 2**63 else "other"
    if isinstance(value, float):
        return "number"
    if isinstance(value, datetime):
        return "time"
    return "string" if isinstance(value, str) else "other"


def _is_too_deep(value: Any, levels: int = MOST_LEVELS) -> bool:
    """Whether JSON has more levels than can be written."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return False
    return not levels or any(_is_too_deep(entry, levels - 1) for entry in value)


def json_lines(path: Path, encoding: str) -> Iterator[Record]:
    """The objects in the lines of a file; empty lines are skipped."""
    with opened(path, encoding) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = in_whole_characters(json.loads(line), line)
            except (ValueError, RecursionError) as error:
                why = getattr(error, "msg", str(error))
                raise InvalidRequest(f"{path.name}: line {number} is not JSON ({why})") from None
            if not isinstance(record, dict):
                raise InvalidRequest(f"{path.name}: line {number} is not a JSON object")
            # Counted first, because that is fast.
            if line.count("[") + line.count("{") > MOST_LEVELS and _is_too_deep(record):
                raise InvalidRequest(f"{path.name}: line {number} is nested too deeply")
            yield record, len(line)


def sheet_reader(path: Path, sheet: str | None) -> RecordReader:
    """Reads a sheet of an Excel file, by default the first one. Its first row has the names."""
    first = next(_sheet_rows(path, sheet, 1), ())
    names = [f"column {at}" if name is None else str(name) for at, name in enumerate(first, 1)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InvalidRequest(f"{path.name}: two columns have the name {twice[0]!r}")

    def records() -> Iterator[Record]:
        empty = 0
        for row in _sheet_rows(path, sheet, 2):
            # Sheets often end with rows that have a format but no values.
            if all(value is None for value in row):
                empty += 1
                continue
            for _ in range(empty):
                yield dict.fromkeys(names), 1
            empty = 0
            yield dict(zip(names, row, strict=False)), sum(len(str(value)) for value in row)

    return RecordReader(records, names)


def _sheet_rows(path: Path, sheet: str | None, first: int) -> Iterator[tuple[Any, ...]]:
    from openpyxl import load_workbook

    book = load_workbook(path, read_only=True, data_only=True)
    try:
        sheets = [sheet.title for sheet in book.worksheets]
        name = sheets[0] if sheet is None else sheet
        if name not in sheets:
            hint = suggestion(str(name), sheets)
            raise InvalidRequest(f"{path.name} has no sheet {name!r}{hint}")
        yield from book[name].iter_rows(min_row=first, values_only=True)
    finally:
        book.close()


def opened(path: Path, encoding: str | None = None) -> Any:
    """Open the file; decompress it if its name says so, and decode it if an encoding is given."""
    mode = "rb" if encoding is None else "rt"
    if path.suffix.lower() == ".gz":
        return gzip.open(path, mode, encoding=encoding)
    return path.open(mode, encoding=encoding)
