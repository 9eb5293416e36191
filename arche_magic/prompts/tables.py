"""Tables, arrays and collections as text, cut to a budget of tokens.

Tables of other libraries than pandas are converted first.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.request import text_tokens
from arche_magic.llm_providers.text.wording import plural, shortened

PLAIN = (str, int, float, complex, bool, type(None))
# Larger integers are written as text, as Python may refuse to write them as numbers.
_LARGE_BITS = 2000
# Maximum number and depth of dicts and lists in an entry: many times what fits into a prompt.
_MOST_PARTS, _DEEPEST = 100_000, 100
# Tables that are computed lazily, each with the method that computes it.
_LAZY = {
    "polars.LazyFrame": "collect", "dask.DataFrame": "compute", "dask_expr.DataFrame": "compute",
}  # fmt: skip


@dataclass(frozen=True)
class ValueText:
    """A value as text.

    Attributes:
        text: the text for the prompt.
        note: a note for the user, for example about omitted parts; or "".
        block: whether it has several lines, so that the prompt continues on a new line.
    """

    text: str
    note: str = ""
    block: bool = False


def as_pandas(data: Any) -> Any:
    """Convert a table of another library to a DataFrame, and a column to a Series.

    It takes tables of polars, pyarrow and DuckDB, and of any library with `to_pandas`, the Arrow
    stream of the PyCapsule interface (arrow.apache.org/docs/format/CDataInterface), or the older
    `__dataframe__`. Other values are returned unchanged. Rows of a table are numbered from 0.

    Raises:
        InvalidRequest: it is not computed yet, or it cannot be converted.
    """
    kind = f"{library_of(data)}.{type(data).__name__}"
    if method := _LAZY.get(kind):
        raise InvalidRequest(f"the data is a {kind}; pass data.{method}()")
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
                # pandas warns that the Arrow stream is preferred.
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


def table_text(frame: Any, name: str, kind: str, budget: int) -> ValueText:
    """Return a frame as CSV: columns that fit in half the budget, then rows that fit."""
    index, (rows, columns) = frame.index, frame.shape
    plain = type(index).__name__ == "RangeIndex" and (index.start, index.step) == (0, 1)
    heads = [] if plain else [_head(level) for level in index.names]
    shown = _columns_that_fit(frame, budget / 2 - text_tokens(_csv(heads)))
    heads += map(_head, frame.columns[:shown])
    # One row takes at most half of the budget, so that several rows are shown.
    longest = max(16, 2 * budget // max(1, len(heads)))
    lines, texts_cut = [_csv(heads)], False
    spent = text_tokens(lines[0])
    for row in frame.iloc[:budget, :shown].itertuples(index=not plain, name=None):
        cells = [*row[0], *row[1:]] if not plain and index.nlevels > 1 else row
        texts = [_cell(cell) for cell in cells]
        line = _csv(shortened(text, longest) for text in texts)
        spent += text_tokens(line)
        if spent > budget and len(lines) > 1:
            break
        texts_cut = texts_cut or any(len(text) > longest for text in texts)
        lines.append(line)
    noun = "row" if kind == "DataFrame" else "value"
    size = f"{kind}, {plural(rows, noun)}"
    size += f" × {plural(columns, 'column')}" if kind == "DataFrame" else ""
    left = [
        f"the first {plural(len(lines) - 1, noun)}" if len(lines) - 1 < rows else "",
        f"the first {plural(shown, 'column')}" if shown < columns else "",
        f"{longest:,} characters per text" if texts_cut else "",
    ]
    return _stated("\n".join(lines), name, size, *left)


def _columns_that_fit(frame: Any, budget: float) -> int:
    """Return how many columns fit, at least one; a column takes about its name and first value."""
    first = [_cell(cell)[:40] for cell in (frame.iloc[0] if len(frame) else ())]
    for number, column in enumerate(frame.columns):
        budget -= text_tokens(_head(column) + "".join(first[number : number + 1])) + 0.5
        if number and budget < 0:
            return number
    return len(frame.columns)


def array_text(array: Any, name: str, budget: int) -> ValueText:
    """Return an array: its first numbers, or its first rows, one per line."""
    if array.ndim == 0:
        return ValueText(str(array.item()))
    # A number takes more than half a token.
    entries, flat = array[: 2 * budget], array.ndim == 1
    kept = _as_many((_json(entry, _rounded) for entry in entries), budget)
    text = (", " if flat else "\n").join(kept)
    size = f"array of {array.dtype}, {' × '.join(f'{length:,}' for length in array.shape)}"
    if text_tokens(text) > budget + 1:
        return cut_text(text, name, size, budget)
    left = f"the first {plural(len(kept), 'value' if flat else 'row')}"
    return _stated(text, name, size, left if len(kept) < len(array) else "")


def _rounded(number: Any) -> Any:
    """Round to ten digits, which take half as many tokens as seventeen."""
    return float(f"{number:.10g}") if isinstance(number, float) else number


def collection_text(value: Any, name: str, budget: int) -> ValueText:
    """Return a collection as JSON, cut to its first entries if it does not fit."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    # An entry takes more than half a token.
    first = itertools.islice(value.items() if isinstance(value, Mapping) else value, 2 * budget)
    if isinstance(value, Mapping):
        opening, closing, texts = "{", "}", map(_pair, first)
    else:
        opening, closing, texts = "[", "]", map(_json, first)
    kept = _as_many(texts, budget)
    text, kind = opening + ", ".join(kept) + closing, type(value).__name__
    if text_tokens(text) > budget + 1:
        return cut_text(text, name, kind, budget)
    if len(kept) == len(value):
        return ValueText(text)
    return _stated(text, name, f"{kind} of {len(value):,}", f"the first {len(kept):,}")


def cut_text(text: str, name: str, kind: str, budget: int) -> ValueText:
    """Return a text, cut to its beginning if it does not fit."""
    if text_tokens(text) <= budget:
        return ValueText(text)
    kept = beginning(text, budget)
    size = f"{kind}, {len(text):,} characters"
    return _stated(kept + " …", name, size, f"the first {len(kept):,} characters")


def beginning(text: str, budget: int) -> str:
    """Return as much of the beginning of a text as fits, at least one character."""
    # A character is at least a quarter of a token.
    lengths = range(2, min(len(text), 4 * budget) + 1)
    return text[: 1 + bisect_right(lengths, float(budget), key=lambda end: text_tokens(text[:end]))]


def _stated(text: str, name: str, size: str, *left: str) -> ValueText:
    """Return the text below a line with its name, its size, and the size to which it was cut, if
    any.
    """
    cut = " and ".join(filter(None, left))
    heading = f"[{name}: {size}{f', cut to {cut}' if cut else ''}]"
    return ValueText(f"{heading}\n{text}", f"{name} ({size}) was cut to {cut}" if cut else "")


def _as_many(texts: Iterable[str], budget: int) -> list[str]:
    """Return as many of the first texts as fit, at least one."""
    kept: list[str] = []
    spent = 0.0
    for text in texts:
        spent += text_tokens(text) + 0.5
        if spent > budget and kept:
            break
        kept.append(text)
    return kept


def _pair(entry: tuple[Any, Any]) -> str:
    return f"{_json(str_of(entry[0]))}: {_json(entry[1])}"


def _without_large(value: Any) -> Any:
    is_large = isinstance(value, int) and value.bit_length() > _LARGE_BITS
    return str_of(value) if is_large else value


def _json(value: Any, scalar: Callable[[Any], Any] = _without_large) -> str:
    value = json_value(value, scalar, iter(range(_MOST_PARTS)), _DEEPEST)
    return json.dumps(value, ensure_ascii=False, default=str)


def json_value(
    value: Any, scalar: Callable[[Any], Any], left: Iterator[object], deepest: float = math.inf
) -> Any:
    """Return the value as dicts and lists, with each scalar converted by `scalar`.

    Each dict and list takes one item of `left`. After the last item, and below `deepest` levels,
    the value is cut to `…`, because it may contain itself.
    """
    if isinstance(value, PLAIN):
        return scalar(value)
    # Scalars and arrays of numpy and columns of pandas convert themselves.
    if hasattr(value, "tolist"):
        value = value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if not isinstance(value, Mapping | list | tuple):
        return scalar(value)
    if deepest < 0 or next(left, None) is None:
        return "…"
    if isinstance(value, Mapping):
        return {
            str_of(key): json_value(entry, scalar, left, deepest - 1)
            for key, entry in value.items()
        }
    return [json_value(entry, scalar, left, deepest - 1) for entry in value]


def _csv(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.10g}"
    text = str_of(value)
    if isinstance(value, datetime):
        return "" if text == "NaT" else text.removesuffix(" 00:00:00")
    return "" if value is None or text == "<NA>" else text


def _head(name: Any) -> str:
    """Return the name of a column or of an index, with its levels joined."""
    if isinstance(name, tuple):
        return " / ".join(map(str, name))
    return "" if name is None else str(name)


def str_of(value: Any) -> str:
    """Return `str(value)`, also for integers that are too long for Python to convert."""
    try:
        return str(value)
    except ValueError:
        # Python does not convert integers of more than 4,300 digits to text; Decimal does.
        if isinstance(value, int):
            return str(Decimal(value))
        raise
