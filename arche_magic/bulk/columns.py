"""Names and types of the columns that a job adds to its data; they do not depend on its rows."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.request import Field, Kind, Schema

if TYPE_CHECKING:
    import pandas as pd

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


@dataclass(frozen=True)
class Column:
    """A column that a job adds.

    Attributes:
        name: in the result.
        of: a field of the schema, or our name for the column without the prefix.
        field: the kind of its values.
        is_field: whether it holds a field of the schema.
    """

    name: str
    of: str
    field: Field
    is_field: bool = False

    def dtype(self) -> Any:
        """The pandas type of its values."""
        import pandas as pd

        if self.field.kind == "choice":
            return pd.CategoricalDtype(list(self.field.choices))
        return _DTYPES.get(self.field.kind, "object")

    def series(self, values: Sequence[Any], index: pd.Index | None = None) -> pd.Series:
        """Its values, each None or as `fitted` gives it, as a Series."""
        import pandas as pd

        series: pd.Series = pd.Series(values, index=index, dtype=self.dtype())
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
    if not isinstance(prefix, str):
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
    """A value in the type of its column; None if it is missing.

    Raises:
        ValueError: the column cannot hold it.
    """
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
