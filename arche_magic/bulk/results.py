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
ABOUT = ("provider", "model", "tokens", "error")


class Replies:
    """Collects the finished rows of a job, in whatever order they come.

    Columns: `reply`, or the fields of the schema; `provider` and `model`; `tokens`, spent on the
    row then or now; `error`, why a row has no reply, or None. They replace columns of those names.

    Args:
        job: whose rows.

    Raises:
        InvalidRequest: a field of the schema has the name of a column.
    """

    def __init__(self, job: Job) -> None:
        self._rows = job.rows
        schema = job.schema
        self._fields = tuple(schema.definition["properties"]) if schema else ()
        for field in self._fields:
            if field in self._rows.frame.columns:
                raise InvalidRequest(
                    f"the frame has a column {field!r} already; call the schema's field otherwise, "
                    "or drop the column"
                )
        self._columns: dict[str, list[Any]] = {
            name: [None] * len(self._rows) for name in (*(self._fields or (REPLY,)), *ABOUT)
        }
        self._finished = bytearray(len(self._rows))

    def add(self, row: Row) -> None:
        """Note one finished row."""
        columns, at = self._columns, row.position
        self._finished[at] = 1
        columns["error"][at] = row.error
        columns["tokens"][at] = row.tokens
        if row.reply is None:
            return
        columns["provider"][at] = sys.intern(row.reply.provider)
        columns["model"][at] = sys.intern(row.reply.model)
        if not self._fields:
            # Text alone: a reply remembers how it came.
            columns[REPLY][at] = str(row.reply)
            return
        values = fields_of(row.reply.parsed)
        for name in self._fields:
            columns[name][at] = values.get(name)

    def frame(self) -> pd.DataFrame:
        """The finished rows: a copy of the data, in its order, with its labels."""
        import pandas as pd

        data = self._rows.frame
        columns = {
            name: pd.Series(values, index=data.index, dtype=_dtype(name)).infer_objects()
            for name, values in self._columns.items()
        }
        kept = data.loc[:, ~data.columns.isin(list(columns))]
        frame = pd.concat([kept, pd.DataFrame(columns, index=data.index)], axis=1)
        if all(self._finished):
            return frame
        return frame[pd.Series(self._finished, index=data.index, dtype=bool).to_numpy()]


def _dtype(name: str) -> str:
    return "Int64" if name == "tokens" else "object"
