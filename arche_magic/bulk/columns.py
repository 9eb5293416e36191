"""The columns that a job adds to its data: their names, and their types in pandas and Arrow.

Names and types do not depend on the rows of the data.
"""

from __future__ import annotations

import datetime
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.request import Field, Kind, Schema
from arche_magic.llm_providers.text.characters import whole_characters
from arche_magic.prompts.tables import json_value

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

REPLY = "reply"
SECOND = "second_"
SECOND_MODEL = "second_model"
RAW = "raw"
_TEXT = Field("text")
PROVIDER = "provider"
_ABOUT = {PROVIDER: _TEXT, "model": _TEXT, "tokens": Field("integer"), "error": _TEXT}
_DETAILS = {
    "key": _TEXT, "seconds": Field("number"), "cost_usd": Field("number"), "request": _TEXT,
}  # fmt: skip
_DTYPES: dict[Kind, str] = {
    "text": "string", "integer": "Int64", "number": "Float64", "boolean": "boolean",
}  # fmt: skip
_MOST_INTEGER = 2**63
_LONGEST_SHOWN = 80


@dataclass(frozen=True)
class Column:
    """A column that a job adds.

    Attributes:
        name: its name in the result.
        of: the field of the schema, or our name for the column without the prefix.
        field: the kind of its values.
        is_field: whether it holds a field of the schema.
    """

    name: str
    of: str
    field: Field
    is_field: bool = False

    def series(self, values: Sequence[Any], index: pd.Index | None = None) -> pd.Series:
        """Its values as a Series; each value is None or a result of `fitted`."""
        import pandas as pd

        dtype: Any = _DTYPES.get(self.field.kind, "object")
        if self.field.kind == "choice":
            dtype = pd.CategoricalDtype(list(self.field.choices))
        series: pd.Series = pd.Series(values, index=index, dtype=dtype)
        return series


def columns_of(
    data: pd.DataFrame,
    schema: Schema | None,
    prefix: str = "",
    *,
    details: bool = False,
    twice: bool = False,
) -> tuple[Column, ...]:
    """The columns that a job adds to some data, in their order.

    They are the fields of the schema, or `reply`; `provider`, `model`, `tokens` and `error`; and,
    with a schema, `raw`. `details` adds `key`, `seconds`, `cost_usd` and `request`; `twice` adds
    another model's fields, `second_…`, and `second_model`. The prefix goes before our own columns,
    and before a field whose name the data already has.

    Raises:
        InvalidRequest: two columns would have the same name.
    """
    if not isinstance(prefix, str) or prefix != whole_characters(prefix):
        raise InvalidRequest(f"prefix is {prefix!r}; it must be a text, such as 'llm_'")
    fields = dict(schema.fields) if schema else {}
    ours = ({} if fields else {REPLY: _TEXT}) | _ABOUT | ({RAW: _TEXT} if schema else {})
    ours |= _DETAILS if details else {}
    if twice:
        ours |= {f"{SECOND}{name}": field for name, field in (fields or {REPLY: _TEXT}).items()}
        ours[SECOND_MODEL] = _TEXT
    columns = tuple(
        Column(f"{prefix}{name}" if name in data.columns else name, name, field, is_field=True)
        for name, field in fields.items()
    )
    columns += tuple(Column(f"{prefix}{name}", name, field) for name, field in ours.items())
    _check_names(columns, data)
    return columns


def _check_names(columns: Iterable[Column], data: pd.DataFrame) -> None:
    """Refuse names that would occur twice."""
    counts = Counter(column.name for column in columns)
    there = [name for name in counts if name in data.columns]
    twice = [name for name, count in counts.items() if count > 1]
    problems = []
    if there:
        problems.append(f"the data already has {_shown(there)}")
    if twice:
        problems.append(f"the schema has {_shown(twice, 'field')}, which the result also has")
    if problems:
        raise InvalidRequest(
            f"{' and '.join(problems)}; prefix='llm_' (--prefix llm_) renames the columns that "
            "are added"
        )


def _shown(names: Sequence[str], noun: str = "column") -> str:
    several = len(names) > 1
    return f"{'' if several else 'a '}{noun}{'s' if several else ''} {', '.join(map(repr, names))}"


def fitted(value: Any, field: Field) -> Any:
    """A value in the type of its column; None if missing, ValueError if it does not fit."""
    if value is None or field.kind == "other":
        return value
    try:
        found = _converted(value, field)
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None:
        kind = _DTYPES.get(field.kind, field.kind)
        raise ValueError(f"{value!r:.80} does not fit a column of type {kind}")
    return found


def _converted(value: Any, field: Field) -> Any:
    match field.kind:
        case "text":
            return str(value)
        case "choice":
            return value if value in field.choices else None
        case "boolean":
            return value if isinstance(value, bool) else None
        case "integer":
            whole = int(value)
            fits = whole == value and -_MOST_INTEGER <= whole < _MOST_INTEGER
            return whole if fits else None
        case "number":
            return float(value)
        case _:
            return value if isinstance(value, datetime.date) else None


def arrow_columns(frame: pd.DataFrame, columns: Sequence[Column]) -> pa.Table:
    """The added columns in Arrow's types, which do not depend on the rows.

    If a column cannot hold a value, the row's error says so.
    """
    import pandas as pd
    import pyarrow as pa

    kinds = {column.name: _arrow_kind(column) for column in columns}
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


def _arrow_kind(column: Column) -> pa.DataType:
    """The type of a column; text if Arrow has no type for it."""
    definition = column.field.definition
    return simple_types().get(column.field.kind) or arrow_type(definition, definition)


def arrow_type(schema: Mapping[str, Any] | bool, root: Mapping[str, Any]) -> pa.DataType:
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
        return pa.string() if target is root else arrow_type(target, {**root, "$defs": {
            name: entry for name, entry in root.get("$defs", {}).items() if entry is not target
        }})  # fmt: skip
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    others = [one for one in schema.get("anyOf", ()) if one is True or one.get("type") != "null"]
    if len(others) == 1:
        return arrow_type(others[0], root)
    kinds = [kind for kind in kinds if kind != "null"]
    if len(kinds) == 1 and kinds[0] in ("integer", "number", "boolean"):
        return simple_types()[kinds[0]]
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


def plain(value: Any) -> Any:
    """None for what pandas marks as missing."""
    import pandas as pd

    return None if pd.isna(value) is True else value


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
