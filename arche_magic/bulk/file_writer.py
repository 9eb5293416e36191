"""The file that a job over a file writes: the rows, and the columns of their replies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    """

    def __init__(self, path: Path, name: str, columns: Sequence[Column], sep: str = ",") -> None:
        self._path, self._name, self._columns, self._sep = path, name, columns, sep
        self._parquet: Any = None
        self._begun = False
        # Worked out before anything is asked: what has no type of its own is text.
        self._kinds: dict[str, Any] = {}
        if name.endswith(".parquet"):
            self._kinds = {column.name: _arrow_kind(column) for column in columns}

    def write(self, frame: pd.DataFrame, table: pa.Table | None) -> None:
        """Append a frame; what it has besides the added columns is taken from the table if any."""
        if self._kinds:
            self._write_parquet(frame, table)
            return
        packed = "gzip" if self._name.endswith(".gz") else None
        # Nested values of the source too, which have no other text than Python's.
        shown = frame.apply(
            lambda column: column.map(_as_cell) if column.dtype == object else column
        )
        mode = "a" if self._begun else "w"
        shown.to_csv(
            self._path, mode=mode, header=not self._begun, index=False, compression=packed,
            sep=self._sep,
        )  # fmt: skip
        self._begun = True

    def close(self) -> None:
        """Write what ends the file."""
        if self._parquet is not None:
            self._parquet.close()

    def _write_parquet(self, frame: pd.DataFrame, table: pa.Table | None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if table is None:
            kept = [name for name in frame.columns if name not in self._kinds]
            texts = [pa.array(frame[name], pa.string(), from_pandas=True) for name in kept]
            table = pa.Table.from_arrays(texts, names=[str(name) for name in kept])
        added = self._added(frame)
        for name in added.column_names:
            table = table.append_column(added.schema.field(name), added[name])
        table = _with_types_of(table, added)
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self._path, table.schema)
        self._parquet.write_table(table)

    def _added(self, frame: pd.DataFrame) -> pa.Table:
        """The added columns; a value that its type cannot hold is told in the row's error."""
        import pandas as pd
        import pyarrow as pa

        error = next(
            column for column in self._columns if column.of == "error" and not column.is_field
        )
        shown = frame[[column.name for column in self._columns]].reset_index(drop=True)
        errors = [_plain(value) for value in shown[error.name]]
        for column in self._columns:
            if column.field.kind == "other":
                fitting = _fitting(
                    column.name, shown[column.name], self._kinds[column.name], errors
                )
                shown[column.name] = pd.Series(fitting, dtype=object)
        shown[error.name] = error.series(errors)
        return pa.Table.from_pandas(shown, pa.schema(self._kinds.items()), preserve_index=False)


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
        # What holds itself has no type.
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
    """A value as its column's type takes it; raises ValueError or its kin if it cannot."""
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

    several = isinstance(value, list | tuple | set | frozenset | dict)
    return None if not several and pd.isna(value) else value


def _as_cell(value: Any) -> Any:
    several = isinstance(value, list | tuple | set | frozenset | dict | bytes)
    return _text(value) if several or hasattr(value, "tolist") else value


def _text(value: Any) -> str:
    if isinstance(value, list | tuple | dict | set | frozenset) or hasattr(value, "tolist"):
        return json.dumps(value, ensure_ascii=False, default=_for_json)
    return str(_for_json(value)) if isinstance(value, bytes) else str(value)


def _for_json(value: Any) -> Any:
    """What JSON has for a set, for numpy's arrays and numbers, for bytes; else a text."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.tolist() if hasattr(value, "tolist") else str(value)
