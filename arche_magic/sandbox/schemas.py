"""JSON schemas: which ones providers refuse, and schemas inside prompts."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .exchange import Message

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
    decoder = json.JSONDecoder()
    for message in messages:
        if message.role != "system" or "JSON Schema" not in message.text:
            continue
        for brace in re.finditer(r"\{", message.text):
            try:
                found, _ = decoder.raw_decode(message.text, brace.start())
            except ValueError:
                continue
            if isinstance(found, dict) and "properties" in found:
                return found
    return None
