"""Writes the rows of a file job to a Parquet, CSV, TSV or JSON lines file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .columns import Column, arrow_columns, as_json_text, as_text, plain
from .file_readers import as_frame

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_PANDAS = b"pandas"


class FileWriter:
    """Appends frames to a file; the first one decides its columns.

    Args:
        path: where to write.
        name: the name that the file will have, which decides its format.
        columns: those that are added to the data.
        kinds: the kinds of values in the data's columns; see `RecordReader`.
        sep: what separates the fields of a CSV.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        columns: Sequence[Column],
        kinds: Mapping[str, str],
        sep: str,
    ) -> None:
        self._path, self._name, self._columns, self._sep = path, name.lower(), columns, sep
        self._data_kinds = kinds
        self._parquet: Any = None
        self._begun = False

    def write(self, frame: pd.DataFrame, table: pa.Table | None = None) -> None:
        """Append a chunk of rows with the added columns.

        If the data has typed columns, they are those of `table`, and not those of the frame.
        """
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

    def close(self) -> None:
        """Write what ends the file."""
        if self._parquet is not None:
            self._parquet.close()

    def _write_parquet(self, frame: pd.DataFrame, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        added = arrow_columns(frame, self._columns)
        for name in added.column_names:
            table = table.append_column(added.schema.field(name), added[name])
        table = _with_types_of(table, added)
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self._path, table.schema)
        self._parquet.write_table(table)

    def _table_of(self, frame: pd.DataFrame) -> pa.Table:
        """The data of a file whose columns have no types, each typed by its values."""
        import pyarrow as pa

        types = {
            "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(),
            "time": pa.timestamp("us"),
        }  # fmt: skip
        columns = {}
        for name in frame.columns.difference([column.name for column in self._columns], sort=False):
            kind = self._data_kinds.get(name, "string")
            values = [plain(value) for value in frame[name]]
            if kind == "number":
                values = [None if value is None else float(value) for value in values]
            if kind == "other":
                values = [None if value is None else as_text(value) for value in values]
            columns[str(name)] = pa.array(values, types.get(kind, pa.string()))
        return pa.table(columns)


def _with_types_of(table: pa.Table, added: pa.Table) -> pa.Table:
    """The table with the pandas types of the added columns, which pandas reads them back with."""
    metadata = dict(table.schema.metadata or {})
    ours = json.loads(added.schema.metadata[_PANDAS])
    theirs = json.loads(metadata.get(_PANDAS, b"{}"))
    whole = ours | theirs | {"columns": [*theirs.get("columns", ()), *ours["columns"]]}
    return table.replace_schema_metadata({**metadata, _PANDAS: json.dumps(whole).encode()})


def _as_cell(value: Any) -> Any:
    several = isinstance(value, list | tuple | set | frozenset | dict | bytes)
    return as_text(value) if several or hasattr(value, "tolist") else value
