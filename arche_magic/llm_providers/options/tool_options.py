"""Tools and the choice among them, from a caller's arguments.

A wrong value raises InvalidRequest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import InvalidRequest
from ..text.characters import whole_characters
from ..tools import Tool, is_name
from .values import check_fields, read_flag, shown

TOOL_CHOICES = ("auto", "none", "required")
_FIELDS = ("name", "description", "parameters", "strict")


def read_tools(value: object) -> tuple[Tool, ...]:
    """Return tools from OpenAI's definitions and `Tool` objects; () for None."""
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InvalidRequest("tools must be a list of functions, definitions or Tool objects")
    tools = tuple(map(_tool, value))
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"two tools have the name {name!r}")
    return tools


def read_tool_choice(value: object, tools: Sequence[Tool]) -> str:
    """Return `auto`, `none`, `required`, the name of a tool, or "" for the provider's default."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        function = value.get("function")
        chosen = function.get("name") if isinstance(function, Mapping) else None
    else:
        chosen = value
    if not isinstance(chosen, str):
        raise InvalidRequest(
            "tool_choice must be auto, none, required, the name of a tool, or "
            "{'type': 'function', 'function': {'name': '…'}}"
        )
    if not tools and chosen in ("auto", "none"):
        return ""
    if not tools:
        raise InvalidRequest(f"tool_choice is {chosen!r}, but there are no tools")
    names = [tool.name for tool in tools]
    if chosen not in (*TOOL_CHOICES, *names):
        known = ", ".join(names)
        raise InvalidRequest(f"tool_choice names the tool {chosen!r}; the tools are: {known}")
    return chosen


def read_parallel(value: object, tools: Sequence[Tool]) -> bool | None:
    """Return whether several tools may be called at once; None for the provider's default."""
    if value is None:
        return None
    allowed = read_flag("parallel_tool_calls", value)
    if not tools:
        raise InvalidRequest("parallel_tool_calls is set, but there are no tools")
    return allowed


def _tool(value: object) -> Tool:
    if isinstance(value, Tool):
        _checked_name(value.name)
        _check_schema(value.name, _read_json(value.name, value.parameters))
        return replace(
            value,
            description=whole_characters(value.description),
            parameters=whole_characters(value.parameters),
        )
    if not isinstance(value, Mapping) or value.get("type") != "function":
        raise InvalidRequest(
            "a tool is a dict such as {'type': 'function', 'function': {'name': 'f', "
            f"'parameters': {{…}}}}}}, or a Tool; not {_described(value)}"
        )
    function = value.get("function")
    if not isinstance(function, Mapping):
        raise InvalidRequest("a tool of the type function needs 'function', a dict with its name")
    name, description = _checked_name(function.get("name")), function.get("description") or ""
    check_fields(f"the tool {name}", function, _FIELDS)
    check_fields(f"the tool {name}", value, ("type", "function"))
    if not isinstance(description, str):
        raise InvalidRequest(f"the description of the tool {name} must be text")
    strict = function.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise InvalidRequest(
            f"strict of the tool {name} is {shown(strict)}; it must be True or False"
        )
    parameters = function.get("parameters") or Tool(name).schema
    _check_schema(name, parameters)
    return Tool(name, whole_characters(description), _as_json(name, parameters), strict)


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not is_name(name) or name in TOOL_CHOICES:
        raise InvalidRequest(
            f"a tool has the name {name!r:.80}; a name has 1 to 64 letters, digits, _ and -, and "
            f"is not {', '.join(TOOL_CHOICES)}"
        )
    return name


def _check_schema(name: str, parameters: object) -> None:
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise InvalidRequest(
            f"the parameters of the tool {name} must be a JSON Schema of the type object"
        )


def _as_json(name: str, parameters: object) -> str:
    try:
        text = json.dumps(parameters, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"the parameters of the tool {name} are not JSON: {error}") from None
    return whole_characters(text)


def _read_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest(f"the parameters of the tool {name} are not JSON") from None


def _described(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a dict with the type {value.get('type')!r:.40}"
    return f"a value of type {type(value).__name__}"
