"""Further fields of OpenAI's chat completions, which `extra` passes to providers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from ..errors import InvalidRequest
from ..request import Schema
from ..schemas import schema_as_sent

# By field: the option to use instead.
_OPTIONS = {
    **{name: name for name in ("model", "messages", "tools", "tool_choice", "temperature")},
    **{name: name for name in ("parallel_tool_calls", "top_p", "stop", "seed", "max_tokens")},
    "max_completion_tokens": "max_tokens",
    "stream": "stream()",
}
_SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SCHEMA_FIELDS = ("name", "schema", "strict", "description")


def read_extra(value: object) -> tuple[dict[str, Any], Schema | None]:
    """Return the fields with a value, and the schema that a `response_format` among them asks for.

    A `response_format` with a JSON Schema becomes a schema, so that it works on every wire.

    Raises:
        InvalidRequest: it is not a mapping of names to JSON, or names an option of its own.
    """
    if value is None:
        return {}, None
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InvalidRequest("extra must be a dict of fields by name")
    for name in value:
        if name in _OPTIONS:
            raise InvalidRequest(f"extra: {name} is a separate option; use {_OPTIONS[name]}")
    given = {name: entry for name, entry in value.items() if entry is not None}
    try:
        # A copy, which stays as it is when the caller changes the original.
        fields = cast("dict[str, Any]", json.loads(json.dumps(given, allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"extra is not JSON: {error}") from None
    return _without_schema(fields)


def _without_schema(fields: dict[str, Any]) -> tuple[dict[str, Any], Schema | None]:
    form = fields.get("response_format")
    if form is None:
        return fields, None
    if not isinstance(form, dict) or not isinstance(form.get("type"), str):
        raise InvalidRequest("response_format must be a dict with a type, such as json_object")
    if form["type"] == "text":
        del fields["response_format"]
        return fields, None
    if form["type"] != "json_schema":
        return fields, None
    described = form.get("json_schema")
    if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
        raise InvalidRequest("response_format: json_schema needs a schema that is a dict")
    for name in described:
        if name not in _SCHEMA_FIELDS:
            raise InvalidRequest(f"response_format: json_schema has the unknown field {name!r}")
    name = described.get("name")
    if not isinstance(name, str) or not _SCHEMA_NAME.fullmatch(name):
        raise InvalidRequest(
            "response_format: json_schema needs a name of 1 to 64 letters, digits, _ and -"
        )
    del fields["response_format"]
    strict, description = described.get("strict") or False, described.get("description") or ""
    if not isinstance(strict, bool) or not isinstance(description, str):
        raise InvalidRequest(
            "response_format: strict must be True or False, and description must be text"
        )
    return fields, schema_as_sent(name, described["schema"], strict=strict, description=description)
