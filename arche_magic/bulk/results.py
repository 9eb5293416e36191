"""The result of a job: its columns, whose types do not depend on the rows, and the frame."""

from __future__ import annotations

import datetime
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import Reply, fields_of
from arche_magic.llm_providers.request import Field, Kind, Schema
from arche_magic.llm_providers.text.characters import whole_characters
from arche_magic.prompts.tables import is_arrow, library_of

from .arrow import arrow_columns, with_columns
from .comparison import PROVIDER, REPLY, SECOND, SECOND_MODEL, Quality, quality
from .job import Job
from .progress import SPENT
from .rows import Row

if TYPE_CHECKING:
    import pandas as pd

_RAW = "raw"
_TEXT = Field("text")
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
        """Its values as a Series; each is None or of the column's type."""
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
    """The columns that a job adds to some data, in their order; see `Replies`.

    The prefix goes before our own columns, and before a field whose name the data already has.

    Raises:
        InvalidRequest: two columns would have the same name.
    """
    if not isinstance(prefix, str) or prefix != whole_characters(prefix):
        raise InvalidRequest(f"prefix is {prefix!r}; it must be a text, such as 'llm_'")
    fields = dict(schema.fields) if schema else {}
    ours = ({} if fields else {REPLY: _TEXT}) | _ABOUT | ({_RAW: _TEXT} if schema else {})
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


def _fitted(value: Any, field: Field) -> Any:
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


class Replies:
    """Collects the finished rows of a job, in any order.

    Columns: `reply`, or the fields of the schema, each of its type; `provider` and `model`;
    `tokens`, spent on the row now or when its reply was kept; `error`, why a row has no reply; and,
    if a reply does not fit the schema, its text in `raw`.

    With `details=True` also `key`, the label of the key that answered; `seconds`, the duration of
    the request, including waiting; `cost_usd` (USD); and `request`, the id of its attempts in
    `load_attempts()`. Rows packed into one request have the same request and seconds, and share
    its cost. With `twice=` also the fields of the second model's reply, `second_…`, and
    `second_model`; they are missing in rows that were not asked twice.

    Args:
        job: the job. A row that is added again replaces the earlier one.
        always_raw: add the column `raw` for every schema, even if no row needs it.

    Attributes:
        quality: how the rows of the last `frame` compare, with `twice=` or `gold=`.

    Raises:
        InvalidRequest: two columns would have the same name.
    """

    def __init__(self, job: Job, *, always_raw: bool = False) -> None:
        self._job, self._rows = job, job.rows
        columns = columns_of(
            self._rows.frame, job.schema, job.prefix, details=job.details, twice=bool(job.twice)
        )
        self._fields = tuple(column for column in columns if column.is_field)
        self._ours = {column.of: column for column in columns if not column.is_field}
        self._always_raw = always_raw
        count = len(self._rows)
        self._values: dict[str, list[Any]] = {column.name: [None] * count for column in columns}
        self._finished = bytearray(count)
        self.quality = Quality()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that `frame` adds, in their order."""
        raw = self._ours.get(_RAW)
        hides_raw = raw is not None and not (self._always_raw or any(self._values[raw.name]))
        columns = (*self._fields, *self._ours.values())
        return tuple(column for column in columns if not (hides_raw and column is raw))

    def add(self, row: Row) -> None:
        """Note one finished row."""
        at, reply = row.position, row.reply
        ours: dict[str, Any] = {"error": row.error, "tokens": row.tokens, _RAW: row.raw}
        if reply is not None:
            # As plain text: a Reply holds its attempts too.
            ours |= {REPLY: str(reply)} if not self._fields else {}
            ours |= {"provider": sys.intern(reply.provider), "model": sys.intern(reply.model)}
        if self._job.details:
            ours |= {"cost_usd": row.cost_usd, "request": row.request or None}
            if reply is not None:
                ours |= {"key": sys.intern(reply.key), "seconds": reply.seconds}
        if row.second is not None:
            ours |= self._of_second(row.second)
        if self._fields:
            ours |= self._add_fields(at, reply)
        for name, column in self._ours.items():
            self._values[column.name][at] = ours.get(name)
        # This comes last, because another thread may be making a frame now.
        self._finished[at] = 1

    def _of_second(self, reply: Reply) -> dict[str, Any]:
        """The values of another model's reply by column; a value that does not fit is missing."""
        found: dict[str, Any] = {SECOND_MODEL: sys.intern(reply.model)}
        values: dict[str, Any] = {} if self._fields else {REPLY: str(reply)}
        with suppress(InvalidRequest):
            values = values or fields_of(reply.parsed)
        for name, value in values.items():
            if (column := self._ours.get(f"{SECOND}{name}")) is not None:
                with suppress(ValueError):
                    found[column.of] = _fitted(value, column.field)
        return found

    def _add_fields(self, at: int, reply: Reply | None) -> dict[str, Any]:
        """Note the fields of a reply; returns an error if a column cannot hold one."""
        values, problems = dict[str, Any](), []
        try:
            values = {} if reply is None else fields_of(reply.parsed)
        except InvalidRequest as error:
            problems.append(str(error))
        for column in self._fields:
            value = None
            try:
                value = _fitted(values.get(column.of), column.field)
            except ValueError as error:
                problems.append(f"{column.of}: {error}")
            self._values[column.name][at] = value
        return {"error": "; ".join(problems), _RAW: str(reply)} if problems else {}

    def frame(self) -> pd.DataFrame:
        """The finished rows: a copy of the data, in its order, with its labels.

        `frame.attrs["arche_magic"]` has the usage of the job: `requests`, `tokens`, `cost_usd`,
        `routes` (replies by route), and the numbers of rows that were `packed`, `checked`,
        `agreed`, `not_compared` and `discarded`; see `Progress`. With `twice=` or `gold=` also
        `twice` and `gold`, by column; `quality(frame)` has them as frames.
        """
        import pandas as pd

        data = self._rows.frame
        # Read before the values, because rows may finish meanwhile.
        finished, asked_again = bytes(self._finished), self._job.asked_again
        columns = {
            column.name: column.series(self._values[column.name], data.index)
            for column in self.columns
        }
        added = pd.DataFrame(columns, index=data.index)
        if levels := data.columns.nlevels - 1:
            # pandas gives such a name to a column that is added to a MultiIndex, and
            # `frame["reply"]` finds it.
            added.columns = pd.MultiIndex.from_tuples([(name, *[""] * levels) for name in added])
        added.columns.names = data.columns.names
        frame = pd.concat([data, added], axis=1)
        progress = self._job.progress()
        figures = {name: getattr(progress, name) for name in (*SPENT, "routes")}
        is_shown = [row and at not in asked_again for at, row in enumerate(finished)]
        if not all(is_shown):
            frame = frame[pd.Series(is_shown, index=data.index, dtype=bool).to_numpy()]
        if self._job.twice or self._job.gold:
            names = {column.of: column.name for column in self._fields} or {
                REPLY: self._ours[REPLY].name
            }
            gold = {names[field]: known for field, known in self._job.gold.items()}
            self.quality = quality(frame, gold)
            figures |= self.quality.to_dict()
        frame.attrs = {**data.attrs, "arche_magic": figures}
        return frame


def like(data: Any, replies: Replies) -> Any:
    """The finished rows of a job in the same kind of table as its data.

    A table of polars or pyarrow keeps its own columns unchanged, and gets the added ones. For any
    other data, the result is the frame.
    """
    frame, columns = replies.frame(), replies.columns
    if is_arrow(data):
        pa = library("pyarrow")
        table = pa.table(data).take(frame.index.to_numpy())
        return with_columns(table, arrow_columns(frame, columns))
    if library_of(data) == "polars":
        pl = library("polars")
        whole = data if isinstance(data, pl.DataFrame) else data.to_frame(frame.columns[0])
        return whole[frame.index.tolist()].hstack(pl.from_arrow(arrow_columns(frame, columns)))
    return frame
