"""Reading a JSON Schema: its object, the fields of its values, and its form for strict modes.

OpenAI, Groq and Mistral enforce a schema token by token if every object is closed
(`additionalProperties: false`), lists every property as required, and uses few keywords. Gemini
accepts the same form. Sources: the providers' guides to structured outputs, 2026-10, and their
errors for other schemas. What is omitted here is checked when the reply is parsed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from ..request import Field, Kind

_SIMPLE: dict[str, Kind] = {
    "string": "text", "integer": "integer", "number": "number", "boolean": "boolean",
}  # fmt: skip
_NULL = {"type": "null"}
# Providers enforce some of these keywords and refuse others, so they are described to the model in
# words.
_IN_WORDS = (
    "format", "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems",
)  # fmt: skip
_DEFINITIONS = ("$defs", "definitions")


def as_object(definition: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with an object at its root.

    Raises:
        ValueError: it describes something else, or has a reference to nothing or only to itself.
    """
    for reference in _references(definition):
        seen, at = set(), reference
        while at is not None and not isinstance(at, dict):
            if str(at) in seen:
                raise ValueError(f"its reference {reference!r} leads only to references")
            seen.add(str(at))
            at = _resolved(definition, at).get("$ref")
    if "$ref" in definition:
        kept = {name: definition[name] for name in _DEFINITIONS if name in definition}
        definition = {**_resolved(definition, definition["$ref"]), **kept}
    if "type" not in definition and "properties" in definition:
        definition = {"type": "object", **definition}
    if definition.get("type") != "object":
        raise ValueError(
            "it does not describe an object; name what you want, as a field of a class or dict "
            "with 'type': 'object' and 'properties'"
        )
    return definition


def _references(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if "$ref" in node and not isinstance(node["$ref"], dict):
            yield node["$ref"]
        for entry in node.values():
            yield from _references(entry)
    elif isinstance(node, list):
        for entry in node:
            yield from _references(entry)


def _resolved(definition: Mapping[str, Any], reference: Any) -> dict[str, Any]:
    found: Any = definition
    for step in str(reference).removeprefix("#").split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not str(reference).startswith("#"):
        raise ValueError(f"it refers to {reference!r}, which it does not contain")
    return found


def fields_in(definition: Mapping[str, Any], *, formats: bool) -> dict[str, Field]:
    """Return the fields of an object, by name.

    `formats` says whether strings with a format are converted, as pydantic does with dates.
    """
    shared = {name: definition[name] for name in _DEFINITIONS if name in definition}
    return {
        name: _field(entry, {**_mapping(entry), **shared}, formats)
        for name, entry in definition.get("properties", {}).items()
    }


def _field(entry: Any, root: Mapping[str, Any], formats: bool) -> Field:
    found = [_of_option(option, formats) for option in _options(entry, root, ())]
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
    if "$ref" in entry:
        reference = str(entry["$ref"])
        try:
            # A definition that contains itself has no simple kind.
            target = {} if reference in seen else _resolved(root, reference)
        except ValueError:
            target = {}
        yield from _options(target, root, (*seen, reference))
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
    types = {type(value) for value in values}
    if types == {str}:
        return Field("choice", tuple(values))
    if types == {bool}:
        return Field("boolean")
    if types == {int}:
        return Field("integer")
    return Field("number" if types and types <= {int, float} else "other")


def _mapping(entry: Any) -> Mapping[str, Any]:
    return entry if isinstance(entry, Mapping) else {}


def strict_form(definition: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema in strict form; None if it is not specific enough.

    Optional fields become required and may be null.
    """
    try:
        form = _node(definition)
        shared = {
            name: _node(entry)
            for place in _DEFINITIONS
            for name, entry in definition.get(place, {}).items()
        }
    except ValueError:
        return None
    return {**form, "$defs": shared} if shared else form


def _node(node: Any) -> dict[str, Any]:
    """Return a part in strict form; raises ValueError if it is not specific enough."""
    if not isinstance(node, dict):
        raise ValueError("a part is not a schema")
    node = _merged(node)
    form: dict[str, Any] = _described(node)
    if "$ref" in node:
        return _reference(node["$ref"], form)
    options = node.get("anyOf") or node.get("oneOf")
    if options:
        return {**form, "anyOf": [_node(option) for option in options]}
    if "enum" in node or "const" in node:
        kind = {"type": node["type"]} if "type" in node else {}
        return {**form, **kind, "enum": list(node.get("enum", [node.get("const")]))}
    kinds = node.get("type")
    if not kinds:
        raise ValueError("a part has no type")
    form["type"] = kinds
    listed = kinds if isinstance(kinds, list) else [kinds]
    if "object" in listed:
        form |= _object(node)
    if "array" in listed:
        if "prefixItems" in node:
            raise ValueError("an array has several types of items")
        form["items"] = _node(node.get("items"))
    return form


def _described(node: dict[str, Any]) -> dict[str, Any]:
    bounds = ", ".join(f"{name} {node[name]}" for name in _IN_WORDS if name in node)
    parts = [node.get("description"), f"({bounds})" if bounds else ""]
    description = " ".join(str(part) for part in parts if part)
    return {"description": description} if description else {}


def _object(node: dict[str, Any]) -> dict[str, Any]:
    properties = node.get("properties")
    # Arbitrary names, as in a dict.
    if not properties or isinstance(node.get("additionalProperties"), dict):
        raise ValueError("an object takes any names")
    if node.get("patternProperties"):
        raise ValueError("an object takes names by a pattern")
    required = node.get("required", ())
    return {
        "properties": {
            name: _node(entry) if name in required else _or_null(_node(entry))
            for name, entry in properties.items()
        },
        "required": list(properties),
        "additionalProperties": False,
    }


def _or_null(form: dict[str, Any]) -> dict[str, Any]:
    kinds = form.get("type")
    options = form.get("anyOf", [])
    if kinds == "null" or (isinstance(kinds, list) and "null" in kinds) or _NULL in options:
        return form
    if None in form.get("enum", ()):
        return form
    if options:
        return {**form, "anyOf": [*options, _NULL]}
    return {"anyOf": [form, _NULL]}


def _reference(reference: Any, form: dict[str, Any]) -> dict[str, Any]:
    """Return a reference. Nothing else is allowed beside it."""
    place, _, name = str(reference).rpartition("/")
    if place.removeprefix("#/") not in _DEFINITIONS:
        raise ValueError("a reference leads out of the definitions")
    target = {"$ref": f"#/$defs/{name}"}
    return {**form, "anyOf": [target]} if form else target


def _merged(node: dict[str, Any]) -> dict[str, Any]:
    """Return a node with the contents of its `allOf`, which some tools wrap around a reference."""
    parts = node.get("allOf")
    if parts is None:
        return node
    if len(parts) != 1 or not isinstance(parts[0], dict):
        raise ValueError("a part combines several schemas")
    return {**parts[0], **node}
