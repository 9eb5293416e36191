"""The short form of a schema: `sentiment pos|neg, score float, note str?`."""

from __future__ import annotations

import datetime
import re
from typing import Any, Literal, NotRequired

from ..errors import InvalidRequest
from ..text.hints import did_you_mean

_TYPES: dict[str, type] = {
    "str": str, "int": int, "float": float, "bool": bool, "date": datetime.date,
}  # fmt: skip
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_FIELD = re.compile(r"\s*([^\W\d]\w*)(?:\s*:\s*|\s+|$)(.*)", re.DOTALL)
_LIST = re.compile(r"list\s*\[(.*)\]", re.DOTALL)


def fields_of(line: str) -> dict[str, Any]:
    """Return the fields of a line, each with its type.

    A field is a name and a type: `str` (the default), `int`, `float`, `bool`, `date`,
    `list[TYPE]`, or a choice of words, `pos|neg|"not sure"`. A `?` after the type means that the
    field may be null.

    Raises:
        InvalidRequest: the line cannot be parsed; the message shows where.
    """
    fields: dict[str, Any] = {}
    for part in _split(line, ","):
        field = _FIELD.fullmatch(part)
        if field is None:
            raise InvalidRequest(
                f"schema: {part.strip()!r} is not a field; write a name and a type, such as 'score "
                "float', with commas between fields"
            )
        name, kind = field[1], field[2].strip()
        if name in fields:
            raise InvalidRequest(f"schema: there are two fields named {name!r}")
        optional = kind.endswith("?")
        found = _type(name, kind.removesuffix("?").rstrip() or "str")
        fields[name] = NotRequired[found | None] if optional else found
    return fields


def _type(name: str, kind: str) -> Any:
    if kind in _TYPES:
        return _TYPES[kind]
    if listed := _LIST.fullmatch(kind):
        return list[_type(name, listed[1].strip())]  # type: ignore[misc]  # made at run time
    choices = [choice.strip() for choice in _split(kind, "|")]
    if len(choices) == 1:
        known = [*_TYPES, "list"]
        raise InvalidRequest(
            f"schema: unknown type {kind!r} of {name!r}{did_you_mean(kind, known)}; known types: "
            f"{', '.join(_TYPES)}, list[TYPE], and choices of words, such as pos|neg"
        )
    if mixed := [choice for choice in choices if choice in _TYPES or not choice]:
        what = repr(mixed[0]) if mixed[0] else "nothing"
        raise InvalidRequest(
            f"schema: {name!r} has {what} as a choice; put a choice that is the name of a type "
            "into quotes, and use a class for a field of several types"
        )
    if all(re.fullmatch(r"-?[0-9]{1,15}", choice) for choice in choices):
        return Literal[tuple(dict.fromkeys(map(int, choices)))]
    return Literal[tuple(dict.fromkeys(map(_unquoted, choices)))]


def _split(text: str, sign: str) -> list[str]:
    """Return the parts between separators. Quoted text is not split."""
    hidden = _QUOTED.sub(lambda quoted: "\0" * len(quoted[0]), text)
    parts, start = [], 0
    for end in [place for place, found in enumerate(hidden) if found == sign] + [len(text)]:
        parts.append(text[start:end])
        start = end + 1
    return parts


def _unquoted(choice: str) -> str:
    return choice[1:-1] if _QUOTED.fullmatch(choice) else choice
