"""From finished rows to a frame: the data's own columns, and those of the replies behind them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import fields_of

from .job import Job
from .progress import Row

if TYPE_CHECKING:
    import pandas as pd

REPLY = "reply"
# So many texts are a block.
_BLOCK = 4096
_TOLD = (
    "requests", "tokens", "cost_usd", "routes", "packed", "checked", "agreed", "not_compared",
    "discarded",
)  # fmt: skip
ABOUT = ("provider", "model", "tokens", "error")


class Replies:
    """Collects the finished rows of a job, in whatever order they come.

    Columns: `reply`, or the fields of the schema; `provider` and `model`; `tokens`, spent on the
    row then or now; `error`, why a row has no reply, or None. They replace columns of those names.

    Args:
        job: whose rows. A row that comes again replaces the one before it.

    Raises:
        InvalidRequest: a field of the schema has the name of a column.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._rows = job, job.rows
        schema = job.schema
        self._fields = tuple(schema.definition["properties"]) if schema else ()
        for field in self._fields:
            if field in self._rows.frame.columns:
                raise InvalidRequest(
                    f"the frame has a column {field!r} already; call the schema's field otherwise, "
                    "or drop the column"
                )
        self._columns: dict[str, list[Any]] = {
            name: [None] * len(self._rows) for name in (*self._fields, *ABOUT)
        }
        self._texts = None if schema else _Texts(len(self._rows))
        self._finished = bytearray(len(self._rows))

    def add(self, row: Row) -> None:
        """Note one finished row."""
        columns, at = self._columns, row.position
        self._finished[at] = 1
        columns["error"][at] = row.error
        columns["tokens"][at] = row.tokens
        if self._texts:
            # Text alone: a reply remembers how it came.
            self._texts.put(at, None if row.reply is None else str(row.reply))
        if row.reply is None:
            return
        columns["provider"][at] = sys.intern(row.reply.provider)
        columns["model"][at] = sys.intern(row.reply.model)
        if self._fields:
            values = fields_of(row.reply.parsed)
            for name in self._fields:
                columns[name][at] = values.get(name)

    def frame(self) -> pd.DataFrame:
        """The finished rows: a copy of the data, in its order, with its labels.

        `frame.attrs["arche_magic"]` says what the job took: `requests`, `tokens`, `cost_usd`,
        `routes` (replies by route), and, of packed rows, how many were `packed`, `checked` and
        `agreed`, `not_compared` and `discarded`; see `Progress`.
        """
        import pandas as pd

        data = self._rows.frame
        columns = {REPLY: self._texts.column().set_axis(data.index)} if self._texts else {}
        columns |= {
            name: infer_types(pd.Series(values, index=data.index, dtype=_dtype(name)))
            for name, values in self._columns.items()
        }
        added = pd.DataFrame(columns, index=data.index)
        if levels := data.columns.nlevels - 1:
            # As pandas names a column that is added to a MultiIndex: `frame["reply"]` finds it.
            added.columns = pd.MultiIndex.from_tuples([(name, *[""] * levels) for name in added])
        replaced = set(added.columns)
        kept = data.loc[:, [name not in replaced for name in data.columns]]
        frame = pd.concat([kept, added], axis=1)
        progress = self._job.progress()
        frame.attrs["arche_magic"] = {name: getattr(progress, name) for name in _TOLD}
        if all(self._finished):
            return frame
        return frame[pd.Series(self._finished, index=data.index, dtype=bool).to_numpy()]


class _Texts:
    """A column of texts, block by block; one that is full is kept as pandas keeps it, in less room.

    Args:
        count: how many there will be.
    """

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
            return pd.Series(dtype=object)
        return infer_types(pd.concat(blocks, ignore_index=True))


def _series(values: list[Any]) -> pd.Series:
    import pandas as pd

    return infer_types(pd.Series(values, dtype=object))


def infer_types(column: pd.Series) -> pd.Series:
    """The column with the type of its values; as objects where pandas has none for them."""
    try:
        return column.infer_objects()
    except OverflowError:
        # Before pandas 3, for an integer past the largest float.
        return column


def _dtype(name: str) -> str:
    return "Int64" if name == "tokens" else "object"
