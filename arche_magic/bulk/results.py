"""Makes a frame from finished rows: the columns of the data, then those of the replies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import Reply, fields_of
from arche_magic.prompts.tables import is_arrow, library_of

from .columns import (
    RAW,
    REPLY,
    SECOND,
    SECOND_MODEL,
    Column,
    arrow_columns,
    columns_of,
    fitted,
    with_columns,
)
from .comparison import Quality, quality
from .job import Job
from .progress import SPENT
from .rows import Row

if TYPE_CHECKING:
    import pandas as pd

# Texts in a block.
_BLOCK = 4096


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
        columns: the columns that `frame` adds.
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
        self._values: dict[str, list[Any]] = {
            column.name: [None] * count
            for column in columns
            if column.is_field or column.of != REPLY
        }
        self._texts = None if self._fields else _Texts(count)
        self._finished = bytearray(count)
        self.quality = Quality()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that `frame` adds, in their order."""
        raw = self._ours.get(RAW)
        hides_raw = raw is not None and not (self._always_raw or any(self._values[raw.name]))
        columns = (*self._fields, *self._ours.values())
        return tuple(column for column in columns if not (hides_raw and column is raw))

    def add(self, row: Row) -> None:
        """Note one finished row."""
        at, reply = row.position, row.reply
        ours: dict[str, Any] = {"error": row.error, "tokens": row.tokens, RAW: row.raw}
        if reply is not None:
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
            if name != REPLY:
                self._values[column.name][at] = ours.get(name)
        if self._texts:
            # As plain text: a Reply holds its attempts too.
            self._texts.put(at, None if reply is None else str(reply))
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
                    found[column.of] = fitted(value, column.field)
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
                value = fitted(values.get(column.of), column.field)
            except ValueError as error:
                problems.append(f"{column.of}: {error}")
            self._values[column.name][at] = value
        return {"error": "; ".join(problems), RAW: str(reply)} if problems else {}

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
            column.name: self._texts.column().set_axis(data.index)
            if self._texts and column.of == REPLY
            else column.series(self._values[column.name], data.index)
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


def like(data: Any, frame: pd.DataFrame, columns: Sequence[Column]) -> Any:
    """Converts a job's result into the same kind of table as its data.

    A table of polars or pyarrow keeps its own columns unchanged, and gets the added `columns` of
    the frame. For any other data, the result is the frame.
    """
    if is_arrow(data):
        pa = library("pyarrow")
        table = pa.table(data).take(frame.index.to_numpy())
        return with_columns(table, arrow_columns(frame, columns))
    if library_of(data) == "polars":
        pl = library("polars")
        whole = data if isinstance(data, pl.DataFrame) else data.to_frame(frame.columns[0])
        return whole[frame.index.tolist()].hstack(pl.from_arrow(arrow_columns(frame, columns)))
    return frame


class _Texts:
    """A column of texts in blocks; a full block becomes a Series, which takes less memory."""

    def __init__(self, count: int) -> None:
        sizes = [min(_BLOCK, count - start) for start in range(0, count, _BLOCK)]
        self._blocks: list[list[str | None] | pd.Series] = [[None] * size for size in sizes]
        self._missing = sizes

    def put(self, at: int, text: str | None) -> None:
        """Note one text; it may replace an earlier one."""
        number, place = divmod(at, _BLOCK)
        block = self._blocks[number]
        if not isinstance(block, list):
            block = self._blocks[number] = block.tolist()
        self._missing[number] -= block[place] is None
        block[place] = text
        if not self._missing[number]:
            self._blocks[number] = _series(block)

    def column(self) -> pd.Series:
        """All of them, in their order."""
        import pandas as pd

        blocks = [_series(block) if isinstance(block, list) else block for block in self._blocks]
        if not blocks:
            return _series([])
        return pd.concat(blocks, ignore_index=True)


def _series(values: list[Any]) -> pd.Series:
    import pandas as pd

    return pd.Series(values, dtype="string")
