"""JSON schemas: values for them, which ones providers refuse, and schemas inside prompts."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .types import Message

# Refused in strict schemas, by error texts of OpenAI and Groq reported from 2024 to 2026.
_REFUSED = (
    "allOf", "oneOf", "not", "if", "default", "minLength", "maxLength", "minItems", "maxItems",
    "uniqueItems", "prefixItems", "patternProperties", "propertyNames",
)  # fmt: skip
_BOUND = re.compile(
    r"\b(format|minimum|maximum|exclusiveMinimum|exclusiveMaximum|multipleOf|minLength|maxLength|"
    r"minItems|maxItems) ([\w.-]+)(?=[,)])"
)
_NESTED = ("properties", "$defs", "definitions")
_DEEPEST = 100  # levels of a value


def strict_problem(schema: Mapping[str, Any]) -> tuple[tuple[str, ...], str, str] | None:
    """Why a strict schema is refused: the place, the broken rule and a name; or None.

    Rules: `closed` (an object must be closed to other properties), `required` (it must list all
    of its own; the name is a missing one), `keyword` (the name is a keyword that is refused).
    """
    for place, node in _nodes(schema, ()):
        for keyword in _REFUSED:
            if keyword in node:
                return place, "keyword", keyword
        properties = node.get("properties")
        if properties is None and node.get("type") != "object":
            continue
        if node.get("additionalProperties") is not False:
            return place, "closed", ""
        missing = [name for name in properties or () if name not in node.get("required", ())]
        if missing:
            return place, "required", missing[0]
    return None


def _nodes(node: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    if not isinstance(node, dict):
        return
    yield place, node
    for nested in _NESTED:
        for name, inner in (node.get(nested) or {}).items():
            yield from _nodes(inner, (*place, nested, name))
    for number, inner in enumerate(node.get("anyOf") or ()):
        yield from _nodes(inner, (*place, "anyOf", str(number)))
    yield from _nodes(node.get("items"), (*place, "items"))


def bounds_in_words(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema with the bounds that its description names, `(minimum 0, maximum 1)`.

    Clients put bounds into the description if the schema would be refused with them.
    """
    found = dict(_BOUND.findall(str(schema.get("description", ""))))
    if not found:
        return schema
    numbers = {
        name: float(text) if "." in text else int(text)
        for name, text in found.items()
        if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text)
    }
    kind = {"format": found["format"]} if "format" in found else {}
    return {**kind, **numbers, **schema}


def schema_in(messages: Iterable[Message]) -> dict[str, Any] | None:
    """The JSON schema in a system message, used for models without the parameter; or None."""
    texts = (m.text for m in messages if m.role == "system" and "schema" in m.text.lower())
    found = (value for text in texts for value in json_in(text, r"\{"))
    return next((value for value in found if "properties" in value), None)


def json_in(text: str, beginning: str) -> Iterator[Any]:
    """The JSON values in a text that begin with a pattern."""
    for place in re.finditer(beginning, text):
        with suppress(ValueError):
            yield json.JSONDecoder().raw_decode(text, place.start())[0]


def json_for_schema(
    schema: Mapping[str, Any] | bool,
    *,
    number: int = 0,
    name: str = "value",
    root: Any = None,
    depth: int = 0,
) -> Any:
    """A value that is valid for a JSON schema, or for Gemini's OpenAPI subset of it.

    Follows type, enum, const, properties, items, prefixItems, anyOf, oneOf, allOf, $ref, and the
    bounds on numbers, lengths and item counts. A `pattern` is not followed. Raises
    ArithmeticError, LookupError, TypeError or ValueError for a schema that has no value or makes no
    sense.
    """
    if depth > _DEEPEST:
        # Below the interpreter's recursion limit, at which even finalizers fail.
        raise ValueError("every value of this schema is endless")
    root = schema if root is None else root
    schema = bounds_in_words({} if isinstance(schema, bool) else schema)
    # A schema may contain itself (a tree). From this depth on, only required parts are filled.
    deep = depth > 12

    def inner(sub: Any, label: str, salt: int) -> Any:
        return json_for_schema(
            sub, number=number // 3 + salt, name=label, root=root, depth=depth + 1
        )

    if "$ref" in schema:
        return inner(_target(root, schema["$ref"]), name, 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][number % len(schema["enum"])]
    if schema.get("allOf"):
        return inner(_merged(schema), name, 1)
    for union in ("anyOf", "oneOf", "any_of"):
        if schema.get(union):
            options = schema[union]
            ends = [option for option in options if option.get("type") == "null"] if deep else []
            return inner((ends or options)[0], name, 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = str(kind[0] if isinstance(kind, list) else kind).lower()
    if kind == "object":
        fields = schema.get("properties") or {}
        fields = {key: sub for key, sub in fields.items() if sub is not False}
        if deep:
            fields = {key: sub for key, sub in fields.items() if key in schema.get("required", ())}
        return {key: inner(sub, key, n) for n, (key, sub) in enumerate(fields.items(), 1)}
    if kind == "array":
        first = schema.get("prefixItems") or []
        most = int(schema.get("maxItems", max(2, len(first))))
        length = max(int(schema.get("minItems", 0)), min(0 if depth > 3 else 2, most), len(first))
        items = schema.get("items")
        subs = [*first, *([items or {}] * (length - len(first)))]
        return [inner(sub, name, n) for n, sub in enumerate(subs, 1)]
    if kind in ("number", "integer"):
        return _number(schema, number, whole=kind == "integer")
    if kind == "boolean":
        return bool(number % 2)
    return None if kind == "null" else _string(schema, name)


def _target(root: Any, reference: Any) -> Any:
    """The schema that a `$ref` refers to."""
    target = root
    for part in str(reference).removeprefix("#").strip("/").split("/"):
        target = target[part.replace("~1", "/").replace("~0", "~")] if part else target
    return target


def _merged(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with `allOf` as one without it."""
    merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
    for part in schema["allOf"]:
        properties = {**merged.get("properties", {}), **part.get("properties", {})}
        merged = {**merged, **part, **({"properties": properties} if properties else {})}
    return merged


def _number(schema: Mapping[str, Any], number: int, *, whole: bool) -> float | int:
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    step = schema.get("multipleOf", 1)
    if least is None:
        least = 0 if most is None else most - 10 * step
    if "minimum" not in schema:
        least = least + (step if whole else 0) if "exclusiveMinimum" in schema else least
    span = 10 if most is None else most - least
    if whole:
        least = -(-least // step) * step
        room = int((span - (1 if "exclusiveMaximum" in schema else 0)) // step)
        return int(least + step * (number % (max(0, room) + 1)))
    return float(least + span * (1 + number % 9) / 10)


def _string(schema: Mapping[str, Any], name: str) -> str:
    fixed = {
        "date-time": "2026-01-02T03:04:05Z",
        "date": "2026-01-02",
        "time": "03:04:05Z",
        "email": "simulated@example.com",
        "uri": "https://example.com/",
        "uuid": "00000000-0000-4000-8000-000000000000",
    }.get(schema.get("format", ""))
    text = fixed or f"simulated {name}"
    text = text.ljust(int(schema.get("minLength", 0)), ".")
    return text[: int(schema["maxLength"])] if "maxLength" in schema else text
