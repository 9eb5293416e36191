"""Writes the result file of a job: the rows, and the columns of their replies."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .columns import Column

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_LONGEST_SHOWN = 80
_PANDAS = b"pandas"


class FileWriter:
    """Appends frames to a file; the first one decides its columns.

    Args:
        path: where to write.
        name: the name that the file will have, which decides its format.
        columns: those that are added to the data.
        sep: what separates the fields of a CSV.
        kinds: the kinds of values in the data's columns; see `FileReader`.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        columns: Sequence[Column],
        sep: str = ",",
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        self._path, self._name, self._columns, self._sep = path, name, columns, sep
        self._data_kinds = kinds or {}
        self._parquet: Any = None
        self._begun = False
        # Computed before anything is asked; columns without their own type are text.
        self._kinds: dict[str, Any] = {}
        if name.endswith(".parquet"):
            self._kinds = arrow_kinds(columns)

    def write(self, frame: pd.DataFrame, tables: Iterable[pa.Table] | None = None) -> None:
        """Append a chunk of rows.

        Args:
            frame: the added columns and, without tables, those of the data.
            tables: the data of the same rows, in pieces.
        """
        if self._kinds:
            self._write_parquet(frame, tables)
        elif tables is None:
            self._write_text(frame)
        else:
            for table, added in self._pieces(tables, frame):
                data = table.to_pandas(integer_object_nulls=True, ignore_metadata=True)
                self._write_text(data.join(added.set_axis(data.index)))

    def _pieces(
        self, tables: Iterable[pa.Table], frame: pd.DataFrame
    ) -> Iterator[tuple[pa.Table, pd.DataFrame]]:
        """Each piece of the data, with the added columns of its rows."""
        added, start = frame[[column.name for column in self._columns]], 0
        for table in tables:
            yield table, added.iloc[start : start + len(table)]
            start += len(table)

    def _write_text(self, frame: pd.DataFrame) -> None:
        import pandas as pd

        if self._name.endswith((".jsonl", ".jsonl.gz")):
            self._write_lines(frame)
            return
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
                file.write(_json(record) + "\n")

    def close(self) -> None:
        """Write what ends the file."""
        if self._parquet is not None:
            self._parquet.close()

    def _write_parquet(self, frame: pd.DataFrame, tables: Iterable[pa.Table] | None) -> None:
        import pyarrow.parquet as pq

        for table, part in self._pieces(tables or [self._table_of(frame)], frame):
            added, whole = arrow_columns(part, self._columns, self._kinds), table
            for name in added.column_names:
                whole = whole.append_column(added.schema.field(name), added[name])
            whole = _with_types_of(whole, added)
            if self._parquet is None:
                self._parquet = pq.ParquetWriter(self._path, whole.schema)
            self._parquet.write_table(whole)

    def _table_of(self, frame: pd.DataFrame) -> pa.Table:
        """The data of a file whose columns have no types, each typed by its values."""
        import pyarrow as pa

        types = {
            "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(),
            "time": pa.timestamp("us"),
        }  # fmt: skip
        columns = {}
        for name in [name for name in frame.columns if name not in self._kinds]:
            kind = self._data_kinds.get(name, "string")
            values = [_plain(value) for value in frame[name]]
            if kind == "number":
                values = [None if value is None else float(value) for value in values]
            if kind == "other":
                values = [None if value is None else _text(value) for value in values]
            columns[str(name)] = pa.array(values, types.get(kind, pa.string()))
        return pa.table(columns)


def arrow_columns(
    frame: pd.DataFrame, columns: Sequence[Column], kinds: Mapping[str, pa.DataType] | None = None
) -> pa.Table:
    """The added columns in Arrow's types, which do not depend on the rows.

    If a column cannot hold a value, the row's error says so.
    """
    import pandas as pd
    import pyarrow as pa

    kinds = kinds or arrow_kinds(columns)
    error = next(column for column in columns if column.of == "error" and not column.is_field)
    shown = frame[[column.name for column in columns]].reset_index(drop=True)
    errors = [_plain(value) for value in shown[error.name]]
    for column in columns:
        if column.field.kind == "other":
            fitting = _fitting(column.name, shown[column.name], kinds[column.name], errors)
            shown[column.name] = pd.Series(fitting, dtype=object)
    shown[error.name] = error.series(errors)
    return pa.Table.from_pandas(shown, pa.schema(kinds.items()), preserve_index=False)


def arrow_kinds(columns: Sequence[Column]) -> dict[str, pa.DataType]:
    """The types of the added columns; a column without a type of its own is text."""
    return {column.name: _arrow_kind(column) for column in columns}


def _fitting(
    name: str, values: pd.Series, kind: pa.DataType, errors: list[str | None]
) -> list[Any]:
    found = []
    for row, value in enumerate(values):
        try:
            found.append(_fit(value, kind))
        except (TypeError, ValueError, OverflowError, NotImplementedError):
            found.append(None)
            shown = _text(value)[:_LONGEST_SHOWN]
            error = f"{name}: {shown} does not fit the file's column of type {kind}"
            errors[row] = "; ".join(filter(None, (errors[row], error)))
    return found


def _with_types_of(table: pa.Table, added: pa.Table) -> pa.Table:
    """The table with the pandas types of the added columns, which pandas reads them back with."""
    metadata = dict(table.schema.metadata or {})
    ours = json.loads(added.schema.metadata[_PANDAS])
    theirs = json.loads(metadata.get(_PANDAS, b"{}"))
    whole = ours | theirs | {"columns": [*theirs.get("columns", ()), *ours["columns"]]}
    return table.replace_schema_metadata({**metadata, _PANDAS: json.dumps(whole).encode()})


def _arrow_kind(column: Column) -> pa.DataType:
    import pyarrow as pa

    simple = {
        "text": pa.string(),
        "choice": pa.dictionary(pa.int32(), pa.string()),
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
    }
    definition = column.field.definition
    return simple.get(column.field.kind) or arrow_type(definition, definition)


def arrow_type(schema: Mapping[str, Any], root: Mapping[str, Any]) -> pa.DataType:
    """The type of a column that holds what a JSON Schema describes; text where none fits."""
    import pyarrow as pa

    if reference := schema.get("$ref"):
        target: Any = root
        for step in str(reference).removeprefix("#/").split("/"):
            target = target.get(step, {})
        # Arrow has no recursive types.
        return pa.string() if target is root else arrow_type(target, {**root, "$defs": {
            name: entry for name, entry in root.get("$defs", {}).items() if entry is not target
        }})  # fmt: skip
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    others = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if len(others) == 1:
        return arrow_type(others[0], root)
    kinds = [kind for kind in kinds if kind != "null"]
    simple = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
    if len(kinds) == 1 and kinds[0] in simple:
        return simple[kinds[0]]
    if kinds == ["array"]:
        return pa.list_(arrow_type(schema.get("items", {}), root))
    properties = schema.get("properties")
    if kinds == ["object"] and properties:
        return pa.struct(
            [pa.field(name, arrow_type(entry, root)) for name, entry in properties.items()]
        )
    return pa.string()


def _fit(value: Any, kind: pa.DataType) -> Any:
    """A value in its column's type; raises ValueError or a similar error if it does not fit."""
    import pyarrow as pa

    value = _plain(value)
    if value is None:
        return None
    if pa.types.is_string(kind):
        return _text(value)
    if pa.types.is_list(kind):
        return [_fit(entry, kind.value_type) for entry in value]
    if pa.types.is_struct(kind):
        return {field.name: _fit(value.get(field.name), field.type) for field in kind}
    return pa.scalar(value, kind).as_py()


def _plain(value: Any) -> Any:
    """None for what pandas marks as missing."""
    import pandas as pd

    return None if pd.isna(value) is True else value


def _as_cell(value: Any) -> Any:
    several = isinstance(value, list | tuple | set | frozenset | dict | bytes)
    return _text(value) if several or hasattr(value, "tolist") else value


def _text(value: Any) -> str:
    if isinstance(value, list | tuple | dict | set | frozenset) or hasattr(value, "tolist"):
        return _json(value)
    return str(_as_json(value)) if isinstance(value, bytes) else str(value)


def _json(value: Any) -> str:
    """A value as JSON that every reader takes."""
    return json.dumps(_as_json(value), ensure_ascii=False, allow_nan=False)


def _as_json(value: Any) -> Any:
    """A value in the types of JSON; NaN, infinities and what is missing become None."""
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): _as_json(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str | int) or _plain(value) is None:
        return _plain(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
