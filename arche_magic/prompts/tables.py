"""Tables of other libraries as pandas has them."""

from __future__ import annotations

from typing import Any

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.errors import InvalidRequest


def as_pandas(data: Any) -> Any:
    """A table of another library as a DataFrame, a column as a Series; anything else as it is.

    Taken are polars, pyarrow and DuckDB, and whatever has their methods: `to_pandas` or the Arrow
    stream of the PyCapsule interface (arrow.apache.org/docs/format/CDataInterface).

    Raises:
        InvalidRequest: it is a query that has not run, or cannot be converted.
    """
    kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"
    if kind == "polars.LazyFrame":
        raise InvalidRequest("the data is a polars.LazyFrame; give data.collect()")
    if kind.partition(".")[0] == "pandas":
        return data
    try:
        if callable(convert := getattr(data, "to_pandas", None)):
            return convert()
        if hasattr(data, "__arrow_c_stream__"):
            return library("pyarrow").table(data).to_pandas()
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"the data is a {kind}; to turn it into a DataFrame, {error.name} is missing: "
            "pip install 'arche_magic[parquet]'"
        ) from None
    return data
