"""A job's result as the kind of table that its data is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.bounded import library
from arche_magic.prompts.tables import is_arrow, library_of

from .columns import Column
from .file_writer import arrow_columns

if TYPE_CHECKING:
    import pandas as pd


def like(data: Any, frame: pd.DataFrame, columns: Sequence[Column]) -> Any:
    """A job's result as the kind of table that its data is.

    A table of polars or pyarrow keeps its own columns as they are, and gets the added ones; the
    result for anything else is the DataFrame.

    Args:
        data: what was asked about, as it was given.
        frame: the finished rows, as pandas has them.
        columns: those that the job has added to it.
    """
    if is_arrow(data):
        pa = library("pyarrow")
        table = pa.table(data).take(frame.index.to_numpy())
        added = arrow_columns(frame, columns)
        for name in added.column_names:
            table = table.append_column(added.schema.field(name), added[name])
        return table
    if library_of(data) == "polars":
        pl = library("polars")
        whole = data if isinstance(data, pl.DataFrame) else data.to_frame(frame.columns[0])
        return whole[frame.index.tolist()].hstack(pl.from_arrow(arrow_columns(frame, columns)))
    return frame
