"""The fields of a structured reply, from the JSON Schema of its value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..request import Field, Kind

_SIMPLE: dict[str, Kind] = {
    "string": "text", "integer": "integer", "number": "number", "boolean": "boolean",
}  # fmt: skip


def fields_in(definition: Mapping[str, Any], *, formats: bool) -> dict[str, Field]:
    """Return the fields of an object, by name.

    Args:
        definition: the JSON Schema of the object.
        formats: whether strings with a format are converted, as pydantic does with dates.
    """
    shared = {name: definition[name] for name in ("$defs", "definitions") if name in definition}
    return {
        name: _field(entry, {**_mapping(entry), **shared}, formats)
        for name, entry in definition.get("properties", {}).items()
    }


def _field(entry: Any, root: Mapping[str, Any], formats: bool) -> Field:
    options = list(_options(entry, root, ()))
    found = [_of_option(option, formats) for option in options]
    kinds = {one.kind for one in found}
    whole = Field("other")
    if kinds == {"choice"}:
        choices = dict.fromkeys(choice for one in found for choice in one.choices)
        whole = Field("choice", tuple(choices))
    elif len(kinds) == 1:
        whole = Field(kinds.pop())
    elif kinds == {"text", "choice"}:
        whole = Field("text")
    elif kinds == {"integer", "number"}:
        whole = Field("number")
    return replace(whole, definition=root)


def _options(
    entry: Any, root: Mapping[str, Any], seen: tuple[str, ...]
) -> Iterator[Mapping[str, Any]]:
    """Yield the types that a value may have, except null, with references resolved."""
    entry = _mapping(entry)
    parts = entry.get("allOf", ())
    if len(parts) == 1:
        entry = {**entry, **_mapping(parts[0])}
    reference = entry.get("$ref")
    if reference is not None:
        target: Any = root
        for step in str(reference).removeprefix("#/").split("/"):
            target = _mapping(target).get(step)
        # A definition that contains itself has no simple kind.
        simple = isinstance(target, Mapping) and reference not in seen
        if simple:
            yield from _options(target, root, (*seen, str(reference)))
        else:
            yield {}
        return
    if alternatives := entry.get("anyOf") or entry.get("oneOf"):
        for one in alternatives:
            yield from _options(one, root, seen)
        return
    kinds = entry.get("type")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind != "null":
            yield {**entry, "type": kind}


def _of_option(entry: Mapping[str, Any], formats: bool) -> Field:
    if "enum" in entry or "const" in entry:
        return _of_values(entry.get("enum", [entry.get("const")]))
    kind = _SIMPLE.get(str(entry.get("type")), "other")
    if kind == "text" and formats and ("format" in entry or "contentMediaType" in entry):
        return Field("date" if entry.get("format") == "date" else "other")
    return Field(kind)


def _of_values(values: list[Any]) -> Field:
    values = [value for value in values if value is not None]
    for kinds, kind in (((str,), "choice"), ((bool,), "boolean"), ((int,), "integer")):
        if values and all(type(value) in kinds for value in values):
            return Field(kind, tuple(values) if kind == "choice" else ())  # type: ignore[arg-type]
    is_number = values and all(type(value) in (int, float) for value in values)
    return Field("number" if is_number else "other")


def _mapping(entry: Any) -> Mapping[str, Any]:
    return entry if isinstance(entry, Mapping) else {}
