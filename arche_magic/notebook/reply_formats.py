"""The formats of a reply: `-f markdown`, `text`, `code`, `json`, `html-source`, `math`.

The reply to a prompt with a schema is shown as a table of its fields, and `frame` returns it as a
DataFrame.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import Reply, fields_of
from arche_magic.llm_providers.text.characters import whole_characters, without_controls
from arche_magic.llm_providers.text.code_blocks import (
    code_of,
    fence_around,
    fenced_blocks,
    parts_of,
)
from arche_magic.llm_providers.text.json_values import json_in
from arche_magic.llm_providers.text.markdown import harmless_markdown, has_formula
from arche_magic.llm_providers.text.reasoning import without_reasoning
from arche_magic.prompts import as_pandas

from .styles import EDGE, escape

if TYPE_CHECKING:
    import pandas as pd

# The form of a reply to a prompt with a schema, which `-f` does not take.
STRUCTURED = "structured"
# These patterns take linear time.
_DISPLAY = re.compile(r"(?<!\\)\\\[((?:(?!\\\[).)+?)\\\]", re.DOTALL)
# Four words in a row without a sign of TeX: a sentence.
_SENTENCE = re.compile(r"(?<![^\W\d_])(?:[^\W\d_]{2,}[,;:]?[ \n]+){3}[^\W\d_]{2,}")
_TEX_SIGN = re.compile(r"[\\^_=<>]")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
# The table of a structured reply.
_NAME = f"padding:3px 16px 3px 0;{EDGE};text-align:left;vertical-align:top;font-weight:600"
_VALUE = (
    f"padding:3px 16px 3px 0;{EDGE};text-align:left;vertical-align:top;white-space:pre-wrap;"
    "max-width:640px;overflow-wrap:anywhere"
)
_TABLE = "border-collapse:collapse;border:none;margin:0;font-size:"
_DEEPEST = 3


def reply_bundle(text: str, form: str = "markdown", complete: bool = True) -> dict[str, str]:
    """A reply for every frontend, harmless whatever the model has written.

    `text/plain` is for frontends without Markdown. A reply that is not `complete` yet is shown as
    Markdown until its code block starts.
    """
    clean = without_controls(text)
    if form in ("text", STRUCTURED):
        return {"text/plain": clean}
    if form == "math":
        return {"text/plain": clean, "text/markdown": harmless_markdown(_in_dollars(clean))}
    if form == "markdown" or (not complete and not fenced_blocks(without_reasoning(clean))):
        return {"text/plain": clean, "text/markdown": harmless_markdown(clean)}
    if form == "code":
        language, code = code_of(clean)
        if not code:
            return reply_bundle(clean)
    else:
        language, code = form.removesuffix("-source"), _inner(without_reasoning(clean))
        if form == "json" and complete:
            code = _json_in(clean) or code
    fence = fence_around(code)
    block = harmless_markdown(f"{fence}{language}\n{code}\n{fence}")
    return {"text/plain": code, "text/markdown": block}


def is_prose(text: str) -> bool:
    """Whether a reply that should be a formula has sentences and nothing that looks like TeX."""
    answer = without_reasoning(text)
    return not (_TEX_SIGN.search(answer) or has_formula(answer)) and bool(_SENTENCE.search(answer))


def is_json(text: str) -> bool:
    """Whether there is JSON in the reply."""
    return _json_in(text) is not None


def _json_in(text: str) -> str | None:
    """The JSON in a reply, indented: all of it, a block, or the object at its end; else None."""
    answer = without_reasoning(text)
    blocks = sorted(fenced_blocks(answer), key=lambda block: not block[0].startswith("json"))
    readings = [(json.loads, answer), *((json.loads, code) for _, code in blocks), (json_in, text)]
    for read, candidate in readings:
        try:
            value = read(candidate)
        except (ValueError, RecursionError):
            continue
        return whole_characters(json.dumps(value, indent=2, ensure_ascii=False))
    return None


def _in_dollars(text: str) -> str:
    """The reply with dollar signs around its formulas.

    A reply without any is one formula, except a sentence.
    """
    answer = without_reasoning(text)
    if has_formula("\n".join(part for part in parts_of(answer) if isinstance(part, str))):
        return answer
    # In this format brackets always enclose formulas.
    inner = _DISPLAY.sub(lambda match: f"$${match[1]}$$", _inner(answer)).strip()
    if has_formula(inner):
        return inner
    if is_prose(answer):
        return answer
    # A blank line ends a formula.
    return "\n\n".join(f"$$\n{part.strip()}\n$$" for part in _BLANK_LINES.split(inner))


def _inner(text: str) -> str:
    """The content of the first block, or the text itself if it has no block."""
    return next((code for _, code in fenced_blocks(text) if code), text.strip())


def structured_bundle(reply: Reply) -> dict[str, str]:
    """The parsed reply: as JSON in plain text, as a table of its fields in HTML."""
    from pydantic_core import to_jsonable_python

    fields = fields_of(reply.parsed)
    # Values and keys that JSON cannot represent become text.
    value = to_jsonable_python(fields, serialize_unknown=True, bytes_mode="base64")
    plain = json.dumps(value, ensure_ascii=False, indent=2)
    return {"text/plain": plain, "text/html": _table(value)}


def unread_bundle(text: str) -> dict[str, str]:
    """The text of a structured reply that is growing or cannot be parsed."""
    style = "white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font-size:90%"
    return {"text/plain": text, "text/html": f'<pre style="{style}">{escape(text)}</pre>'}


def _table(value: Mapping[str, Any], depth: int = 1) -> str:
    """A row per field."""
    rows = [_heading(name) + _cell(entry, depth) for name, entry in value.items()]
    return _whole(rows, depth)


def _list_table(entries: list[dict[str, Any]], depth: int) -> str:
    """A row per object, under the names of their fields."""
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    rows = ["".join(map(_heading, names))]
    rows += ["".join(_cell(entry.get(name), depth) for name in names) for entry in entries]
    return _whole(rows, depth)


def _whole(rows: list[str], depth: int) -> str:
    body = "".join(f'<tr style="background:none">{row}</tr>' for row in rows)
    size = "90%" if depth == 1 else "100%"
    return f'<table style="{_TABLE}{size}"><tbody>{body}</tbody></table>'


def _heading(name: str) -> str:
    return f'<th style="{_NAME}">{escape(name)}</th>'


def _cell(value: Any, depth: int) -> str:
    return f'<td style="{_VALUE}">{_inside(value, depth)}</td>'


def _inside(value: Any, depth: int) -> str:
    if isinstance(value, dict) and value and depth < _DEEPEST:
        return _table(value, depth + 1)
    if isinstance(value, list) and value and depth < _DEEPEST:
        if all(isinstance(entry, dict) and entry for entry in value):
            return _list_table(value, depth + 1)
        if not any(isinstance(entry, dict | list) for entry in value):
            return escape(", ".join(map(_scalar, value)))
    if isinstance(value, dict | list):
        return f"<code>{escape(json.dumps(value, ensure_ascii=False))}</code>"
    return escape(_scalar(value))


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def frame(replies: Reply | Iterable[Reply] | pd.DataFrame, *, naive: bool = False) -> pd.DataFrame:
    """Return structured replies as a DataFrame: a row per reply, a column per field.

    Columns are the fields of the schema, in its order; lists and nested objects are not flattened.

    Args:
        replies: one or several; or a table of pandas, polars or pyarrow, which is copied.
        naive: return times in UTC without a zone, as Excel needs them; also in the index.

    Raises:
        InvalidRequest: a reply has no schema.
    """
    library("pandas")
    import pandas as pd

    table = as_pandas(replies)
    if isinstance(table, pd.DataFrame):
        made = table.copy()
    else:
        rows: list[Any] = [replies] if isinstance(replies, Reply) else list(replies)
        for row in rows:
            if not isinstance(row, Reply) or row.parsed is None:
                raise InvalidRequest(
                    "only replies to prompts with a schema have fields; give schema="
                )
        made = pd.DataFrame([fields_of(row.parsed) for row in rows], dtype=object)
        made = made.apply(_with_types)
    return _without_zones(made) if naive else made


def _with_types(column: pd.Series) -> pd.Series:
    """The column with the type of its values; objects if pandas has no type for them."""
    try:
        return column.infer_objects()
    except OverflowError:
        # Raised before pandas 3 for an integer beyond the largest float.
        return column


def _without_zones(data: pd.DataFrame) -> pd.DataFrame:
    """The frame with its aware times, in columns and index, as naive times in UTC."""
    import pandas as pd

    if isinstance(data.index, pd.DatetimeIndex) and data.index.tz is not None:
        data.index = data.index.tz_convert("UTC").tz_localize(None)
    # By position, because names may repeat.
    columns = []
    for place in range(data.shape[1]):
        column = data.iloc[:, place]
        if pd.api.types.is_datetime64_any_dtype(column) and column.dt.tz is not None:
            columns.append(column.dt.tz_convert("UTC").dt.tz_localize(None))
        elif column.dtype == object:
            columns.append(pd.Series(map(_naive, column), index=column.index, dtype=object))
        else:
            columns.append(column)
    made = pd.concat(columns, axis=1) if columns else data
    made.columns, made.attrs = data.columns, data.attrs
    return made


def _naive(value: Any) -> Any:
    is_aware = isinstance(value, datetime) and value.tzinfo is not None
    return value.astimezone(UTC).replace(tzinfo=None) if is_aware else value
