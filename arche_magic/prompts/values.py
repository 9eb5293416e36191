"""Python values as parts of a prompt: tables and lists cut to a budget, pictures as images.

No library is imported for that: the user has loaded the library of a value already.
"""

from __future__ import annotations

import csv
import inspect
import io
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from arche_magic.llm_providers import Pending
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.request import Image, Message, read_image

from .sources import source_of
from .tables import as_pandas

_PLAIN = (str, int, float, complex, bool, type(None))
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
# The text of a generator, for example, is only its type and its address.
_ADDRESS = re.compile(r"<(memory|[\w.]+ object( \S+)?)( at 0x[0-9A-Fa-f]+)?>")
# Larger integers are written as text, as Python may refuse to write them as numbers.
_LARGE_BITS = 2000


@dataclass(frozen=True)
class Shown:
    """A value as text.

    Attributes:
        text: what goes into the prompt.
        note: what the user should know, such as what was left out; or "".
        block: it has several lines, so the prompt continues on a new line after it.
    """

    text: str
    note: str = ""
    block: bool = False


def as_text(value: Any, name: str, budget: int) -> Shown:
    """Return the value as the text of a prompt.

    Text is never cut. A table, array or collection is cut to `budget` tokens, after a line with its
    size and what was left out. A function or class is its source; a path is its name.

    Raises:
        InvalidRequest: it has no text form.
    """
    if isinstance(value, Pending):
        value = value.wait()
    if isinstance(value, str):
        return Shown(str(value))
    try:
        shown = _as_text(value, name, budget)
    except InvalidRequest:
        raise
    except Exception as error:  # noqa: BLE001  # a value's own code runs when it is shown
        raise InvalidRequest(f"{name} cannot be shown as text: {error!r}") from None
    return replace(shown, block="\n" in shown.text)


def _as_text(value: Any, name: str, budget: int) -> Shown:
    if isinstance(value, _PLAIN):
        return Shown(_text_of(value))
    # A function wrapped by `functools.cache` is not a function, but holds one.
    if inspect.isfunction(getattr(value, "__wrapped__", value)) or inspect.isclass(value):
        return Shown(source_of(value, name))
    if isinstance(value, os.PathLike):
        return _path(Path(value), name)
    if inspect.ismodule(value) or inspect.isroutine(value):
        kind = "module" if inspect.ismodule(value) else "function"
        raise InvalidRequest(
            f"{name} is a {kind}; {{{{…}}}} does not call functions: assign what you want to a "
            "name first"
        )
    if isinstance(value, bytes | bytearray):
        raise InvalidRequest(f"{name} is bytes, but not an image; decode it to text first")
    value = as_pandas(value)
    pandas, numpy = sys.modules.get("pandas"), sys.modules.get("numpy")
    if pandas and isinstance(value, pandas.DataFrame):
        return _table(value, name, "DataFrame", budget)
    if pandas and isinstance(value, pandas.Series):
        return _table(value.to_frame(), name, "Series", budget)
    if pandas and isinstance(value, pandas.Index):
        return _table(value.to_frame(index=False), name, "Index", budget)
    if numpy and isinstance(value, numpy.ndarray) and value.dtype == object:
        return _as_text(value.tolist(), name, budget)
    if numpy and isinstance(value, numpy.ndarray):
        return _array(value, name, budget)
    if isinstance(value, Mapping | list | tuple | set | frozenset) or is_dataclass(value):
        return _collection(value, name, budget)
    if hasattr(value, "model_dump"):
        return _collection(value.model_dump(mode="json"), name, budget)
    made_of, text = type(value), str(value)
    if _ADDRESS.fullmatch(text):
        raise InvalidRequest(f"{name} is of type {made_of.__name__}, which has no text form")
    return _cut(text, name, made_of.__name__, budget)


def as_image(value: Any) -> Image | None:
    """Return the value as an image if it is one: bytes of an image file, a figure or a picture.

    It takes figures and axes of matplotlib and seaborn, and images of Pillow and IPython.

    Raises:
        InvalidRequest: it is one, but cannot be drawn or is too large.
    """
    if isinstance(value, Image):
        return value
    if isinstance(value, bytes | bytearray):
        try:
            return read_image(bytes(value))
        except InvalidRequest:
            return None
    maker = type(value).__module__.partition(".")[0]
    figure: Any = value if hasattr(value, "savefig") else getattr(value, "figure", None)
    if maker in ("matplotlib", "seaborn") and hasattr(figure, "savefig"):
        return _drawn(lambda file: figure.savefig(file, format="png", bbox_inches="tight"))
    if maker == "PIL" and hasattr(value, "save"):
        kind = "JPEG" if getattr(value, "format", "") == "JPEG" else "PNG"
        return _drawn(lambda file: value.save(file, format=kind))
    if maker == "IPython" and isinstance(getattr(value, "data", None), bytes):
        return read_image(value.data)
    return None


def _drawn(draw: Callable[[io.BytesIO], object]) -> Image:
    file = io.BytesIO()
    try:
        draw(file)
    except Exception as error:  # noqa: BLE001  # a figure runs its owner's code when drawn
        raise InvalidRequest(f"the figure cannot be drawn: {error}") from None
    return read_image(file.getvalue())


def _path(path: Path, name: str) -> Shown:
    """Return the name of a file, with a note on how to insert its contents."""
    how = f"--image {name}" if path.suffix.lower() in IMAGES else f"text = {name}.read_text()"
    inserts = "sends the image" if path.suffix.lower() in IMAGES else "and {{text}} insert it"
    return Shown(str(path), f"{name} is a path, so only the path was inserted; {how} {inserts}")


def _text_of(value: Any) -> str:
    try:
        return str(value)
    except ValueError:
        # Python converts no integer of more than 4,300 digits; Decimal has no such limit.
        if isinstance(value, int):
            return str(Decimal(value))
        raise


def _table(frame: Any, name: str, kind: str, budget: int) -> Shown:
    """Write a frame as CSV: columns that fit in half the budget, then rows that fit."""
    index, (rows, columns) = frame.index, frame.shape
    plain = type(index).__name__ == "RangeIndex" and (index.start, index.step) == (0, 1)
    heads = [] if plain else [_head(level) for level in index.names]
    spent = _tokens(_csv(heads))
    # A column takes about its name and its first value.
    first = [_cell(cell)[:40] for cell in (frame.iloc[0] if rows else ())]
    for shown, column in enumerate(frame.columns):
        spent += _tokens(_head(column) + "".join(first[shown : shown + 1])) + 0.5
        if shown and spent > budget / 2:
            break
        heads.append(_head(column))
    else:
        shown = columns
    # One row takes at most half of the budget, so that several are seen.
    longest = max(16, 2 * budget // max(1, len(heads)))
    lines, texts_cut = [_csv(heads)], False
    spent = _tokens(lines[0])
    for row in frame.iloc[:budget, :shown].itertuples(index=not plain, name=None):
        cells = [*row[0], *row[1:]] if not plain and index.nlevels > 1 else row
        texts = [_cell(cell) for cell in cells]
        line = _csv(_shortened(text, longest) for text in texts)
        spent += _tokens(line)
        if spent > budget and len(lines) > 1:
            break
        texts_cut = texts_cut or any(len(text) > longest for text in texts)
        lines.append(line)
    noun = "row" if kind == "DataFrame" else "value"
    size = f"{kind}, {_count(rows, noun)}"
    size += f" × {_count(columns, 'column')}" if kind == "DataFrame" else ""
    left = [
        f"the first {_count(len(lines) - 1, noun)}" if len(lines) - 1 < rows else "",
        f"the first {_count(shown, 'column')}" if shown < columns else "",
        f"{longest:,} characters a text" if texts_cut else "",
    ]
    return _stated("\n".join(lines), name, size, *left)


def _array(array: Any, name: str, budget: int) -> Shown:
    """Return an array: its first numbers, or its first rows, one a line."""
    if array.ndim == 0:
        return Shown(str(array.item()))
    # A number takes more than half a token.
    entries, flat = array[: 2 * budget], array.ndim == 1
    kept = _as_many((_rounded(entry.tolist()) for entry in entries), budget)
    text = (", " if flat else "\n").join(kept)
    size = f"array of {array.dtype}, {' × '.join(f'{length:,}' for length in array.shape)}"
    if _tokens(text) > budget + 1:
        return _cut(text, name, size, budget)
    left = f"the first {_count(len(kept), 'value' if flat else 'row')}"
    return _stated(text, name, size, left if len(kept) < len(array) else "")


def _rounded(number: Any) -> Any:
    """Round to ten digits, which take half as many tokens as seventeen."""
    if isinstance(number, list):
        return [_rounded(part) for part in number]
    return float(f"{number:.10g}") if isinstance(number, float) else number


def _collection(value: Any, name: str, budget: int) -> Shown:
    """Return a collection as JSON, cut to its first entries if it does not fit."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    # An entry takes more than half a token.
    first = itertools.islice(value.items() if isinstance(value, Mapping) else value, 2 * budget)
    if isinstance(value, Mapping):
        opening, closing, kept = "{", "}", _as_many(first, budget, _pair)
    else:
        opening, closing, kept = "[", "]", _as_many(first, budget)
    text, kind = opening + ", ".join(kept) + closing, type(value).__name__
    if _tokens(text) > budget + 1:
        return _cut(text, name, kind, budget)
    if len(kept) == len(value):
        return Shown(text)
    return _stated(text, name, f"{kind} of {len(value):,}", f"the first {len(kept):,}")


def _cut(text: str, name: str, kind: str, budget: int) -> Shown:
    if _tokens(text) <= budget:
        return Shown(text)
    kept = text[: 4 * budget]
    while _tokens(kept) > budget:
        kept = kept[: len(kept) * 9 // 10]
    size = f"{kind}, {len(text):,} characters"
    return _stated(kept + " …", name, size, f"the first {len(kept):,} characters")


def _stated(text: str, name: str, size: str, *left: str) -> Shown:
    """Return the text below a line with its name and size, and what it was cut to, if it was."""
    cut = " and ".join(filter(None, left))
    heading = f"[{name}: {size}{f', cut to {cut}' if cut else ''}]"
    return Shown(f"{heading}\n{text}", f"{name} ({size}) was cut to {cut}" if cut else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _as_many(
    entries: Iterable[Any], budget: int, text_of: Callable[[Any], str] | None = None
) -> list[str]:
    """Return the first entries as JSON, as many as fit, at least one."""
    kept: list[str] = []
    spent = 0.0
    for entry in entries:
        text = (text_of or _json)(entry)
        spent += _tokens(text) + 0.5
        if spent > budget and kept:
            break
        kept.append(text)
    return kept


def _pair(entry: tuple[Any, Any]) -> str:
    return f"{_json(_text_of(entry[0]))}: {_json(entry[1])}"


def _json(value: Any) -> str:
    return json.dumps(_jsonable(value), ensure_ascii=False, default=str)


def _jsonable(value: Any, depth: int = 0) -> Any:
    """Return the value as plain dicts, lists and scalars; very deep parts become text."""
    if isinstance(value, int) and value.bit_length() > _LARGE_BITS:
        return _text_of(value)
    if isinstance(value, _PLAIN):
        return value
    if depth > 20:
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {_text_of(key): _jsonable(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(entry, depth + 1) for entry in value]
    # Scalars and arrays of numpy and columns of pandas convert themselves.
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _csv(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.10g}"
    text = _text_of(value)
    if isinstance(value, datetime):
        return "" if text == "NaT" else text.removesuffix(" 00:00:00")
    return "" if value is None or text == "<NA>" else text


def _head(name: Any) -> str:
    """Return the name of a column or of an index, with its levels joined."""
    if isinstance(name, tuple):
        return " / ".join(map(str, name))
    return "" if name is None else str(name)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _tokens(text: str) -> float:
    return Message("user", text).tokens
