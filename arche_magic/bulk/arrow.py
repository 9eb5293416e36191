"""Values as Arrow's types and as JSON, for files and for tables of other libraries."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from arche_magic.prompts.tables import json_value

from .rows import plain

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from .results import Column

_LONGEST_SHOWN = 80


def arrow_columns(frame: pd.DataFrame, columns: Sequence[Column]) -> pa.Table:
    """The added columns in Arrow's types, which do not depend on the rows.

    If a column cannot hold a value, the row's error says so.
    """
    import pandas as pd
    import pyarrow as pa

    simple = simple_types()
    kinds = {
        column.name: simple.get(column.field.kind)
        or _arrow_type(column.field.definition, column.field.definition)
        for column in columns
    }
    error = next(column for column in columns if column.of == "error" and not column.is_field)
    shown = frame[[column.name for column in columns]].reset_index(drop=True)
    errors = [plain(value) for value in shown[error.name]]
    for column in columns:
        if column.field.kind == "other":
            fitting = _fitting(column.name, shown[column.name], kinds[column.name], errors)
            shown[column.name] = pd.Series(fitting, dtype=object)
    shown[error.name] = error.series(errors)
    return pa.Table.from_pandas(shown, pa.schema(kinds.items()), preserve_index=False)


def with_columns(table: pa.Table, added: pa.Table) -> pa.Table:
    """The table with the columns of another one after its own."""
    for name in added.column_names:
        table = table.append_column(added.schema.field(name), added[name])
    return table


def _fitting(
    name: str, values: pd.Series, kind: pa.DataType, errors: list[str | None]
) -> list[Any]:
    found = []
    for row, value in enumerate(values):
        try:
            found.append(_fit(value, kind))
        except (TypeError, ValueError, OverflowError, NotImplementedError):
            found.append(None)
            shown = cell_text(value)[:_LONGEST_SHOWN]
            error = f"{name}: {shown} does not fit the file's column of type {kind}"
            errors[row] = "; ".join(filter(None, (errors[row], error)))
    return found


def simple_types() -> dict[str, pa.DataType]:
    """The Arrow types of simple kinds of values."""
    import pyarrow as pa

    return {
        "text": pa.string(), "choice": pa.dictionary(pa.int32(), pa.string()),
        "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(),
        "date": pa.date32(), "time": pa.timestamp("us"),
    }  # fmt: skip


def _arrow_type(schema: Mapping[str, Any] | bool, root: Mapping[str, Any]) -> pa.DataType:
    """The type of a column that holds what a JSON Schema describes; text where none fits."""
    import pyarrow as pa

    if isinstance(schema, bool):
        # True is a schema that any value fits.
        return pa.string()
    if reference := schema.get("$ref"):
        target: Any = root
        for step in str(reference).removeprefix("#/").split("/"):
            target = target.get(step, {})
        # Arrow has no recursive types.
        return pa.string() if target is root else _arrow_type(target, {**root, "$defs": {
            name: entry for name, entry in root.get("$defs", {}).items() if entry is not target
        }})  # fmt: skip
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    others = [one for one in schema.get("anyOf", ()) if one is True or one.get("type") != "null"]
    if len(others) == 1:
        return _arrow_type(others[0], root)
    kinds = [kind for kind in kinds if kind != "null"]
    if len(kinds) == 1 and kinds[0] in ("integer", "number", "boolean"):
        return simple_types()[kinds[0]]
    if kinds == ["array"]:
        return pa.list_(_arrow_type(schema.get("items", {}), root))
    properties = schema.get("properties")
    if kinds == ["object"] and properties:
        return pa.struct(
            [pa.field(name, _arrow_type(entry, root)) for name, entry in properties.items()]
        )
    return pa.string()


def _fit(value: Any, kind: pa.DataType) -> Any:
    """A value in its column's type; raises ValueError or a similar error if it does not fit."""
    import pyarrow as pa

    value = plain(value)
    if value is None:
        return None
    if pa.types.is_string(kind):
        return cell_text(value)
    if pa.types.is_list(kind):
        return [_fit(entry, kind.value_type) for entry in value]
    if pa.types.is_struct(kind):
        return {field.name: _fit(value.get(field.name), field.type) for field in kind}
    return pa.scalar(value, kind).as_py()


def is_nested(value: Any) -> bool:
    """Whether a value is a collection, or an object that its library can convert to one."""
    return isinstance(value, list | tuple | dict | set | frozenset) or hasattr(value, "tolist")


def cell_text(value: Any) -> str:
    """A value as text; nested values become JSON."""
    if is_nested(value):
        return as_json_text(value)
    return str(_json_scalar(value)) if isinstance(value, bytes) else str(value)


def as_json_text(value: Any) -> str:
    """A value as JSON that every reader accepts; NaN, infinities and missing values become null."""
    value = json_value(value, _json_scalar, itertools.count())
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _json_scalar(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str | int) or plain(value) is None:
        return plain(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
