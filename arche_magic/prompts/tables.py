"""Tables of other libraries, as pandas objects."""

from __future__ import annotations

import warnings
from typing import Any

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.errors import InvalidRequest


def as_pandas(data: Any) -> Any:
    """Convert a table of another library to a DataFrame, and a column to a Series.

    It takes tables of polars, pyarrow and DuckDB, and of any library with `to_pandas`, the Arrow
    stream of the PyCapsule interface (arrow.apache.org/docs/format/CDataInterface), or the older
    `__dataframe__`. Other values are returned unchanged. Rows of a table are numbered from 0.

    Raises:
        InvalidRequest: it is a lazy query, or it cannot be converted.
    """
    kind = f"{library_of(data)}.{type(data).__name__}"
    if kind == "polars.LazyFrame":
        raise InvalidRequest("the data is a polars.LazyFrame; give data.collect()")
    if library_of(data) == "pandas":
        return data
    try:
        if is_arrow(data):
            return data.to_pandas(ignore_metadata=True)
        if callable(convert := getattr(data, "to_pandas", None)):
            return convert()
        if hasattr(data, "__arrow_c_stream__"):
            return library("pyarrow").table(data).to_pandas(ignore_metadata=True)
        if hasattr(data, "__dataframe__"):
            with warnings.catch_warnings():
                # pandas says that the Arrow stream is the better way.
                warnings.simplefilter("ignore")
                return library("pandas").api.interchange.from_dataframe(data)
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"the data is of type {kind}; to turn it into a DataFrame, {error.name} is missing: "
            "pip install 'arche_magic[parquet]'"
        ) from None
    return data


def library_of(data: object) -> str:
    """Return the name of the library that defines a value's type."""
    return type(data).__module__.partition(".")[0]


def is_arrow(data: Any) -> bool:
    """Return whether it is a table or record batch of pyarrow."""
    return library_of(data) == "pyarrow" and hasattr(data, "column_names")
