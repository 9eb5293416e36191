"""Tools in the requests of OpenAI, Groq and Mistral: definitions, choice, calls and results."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from ..exchange import Message, Refusal, Tool, ToolCall
from ..schemas import strict_problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MISTRAL_ID = re.compile(r"[a-zA-Z0-9]{9}")
_MOST = 128
# The problem if calls of tools have no results, for the providers that are known to check it.
_ANSWERS = {"openai": "calls_alone", "mistral": "calls_count"}


def refuse(problem: str, param: str, **details: Any) -> NoReturn:
    """Raise the refusal for a problem with tools; `tool_words.py` has the texts."""
    raise Refusal("invalid_request", param=param, problem=problem, **details)


def read_tools(body: Mapping[str, Any], provider: str) -> tuple[Tool, ...]:
    """The tools of a request. Raises Refusal if a definition is invalid."""
    given = body.get("tools")
    if given is None:
        return ()
    if not isinstance(given, list):
        refuse("type", "tools", expected="an array")
    if not given and provider == "openai":
        refuse("empty", "tools")
    if len(given) > _MOST and provider != "mistral":
        refuse("tools_many", "tools", bound=_MOST, value=len(given))
    tools = [_tool(item, f"tools[{number}]", provider) for number, item in enumerate(given)]
    return tuple(tools)


def _tool(item: Any, place: str, provider: str) -> Tool:
    if not isinstance(item, dict):
        refuse("type", place, expected="an object")
    if item.get("type", "function" if provider == "mistral" else None) != "function":
        known = ("function", "custom") if provider == "openai" else ("function",)
        refuse("value", f"{place}.type", value=item.get("type"), known=known)
    function = item.get("function")
    if not isinstance(function, dict):
        refuse("missing", f"{place}.function")
    name = function.get("name")
    if name is None:
        refuse("missing", f"{place}.function.name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        refuse("tool_name", f"{place}.function.name", value=name)
    schema = function.get("parameters")
    if schema is None:
        if provider == "mistral":  # a required field of its Function (mistralai 3.7)
            refuse("missing", f"{place}.function.parameters")
        schema = {}
    if not isinstance(schema, dict) or (schema and schema.get("type") != "object"):
        kind = schema.get("type") if isinstance(schema, dict) else schema
        refuse("tool_schema", f"{place}.function.parameters", tool=name, value=kind)
    if provider == "openai" and function.get("strict") and (found := strict_problem(schema)):
        where, rule, missing = found
        refuse(
            "tool_strict",
            f"{place}.function.parameters",
            tool=name,
            place=where,
            rule=rule,
            name=missing,
        )
    return Tool(name, schema, str(function.get("description") or ""))


def read_choice(body: Mapping[str, Any], tools: Sequence[Tool], provider: str) -> str:
    """`tool_choice`: "auto", "none", "required" or the name of a tool. Raises Refusal."""
    if not tools and body.get("parallel_tool_calls") is not None and provider == "openai":
        refuse("parallel_alone", "parallel_tool_calls")
    given = body.get("tool_choice")
    if given is None:
        return "auto"
    if isinstance(given, dict):
        name = (given.get("function") or {}).get("name")
        if not isinstance(name, str):
            refuse("missing", "tool_choice.function.name")
        if not tools:
            refuse("choice_alone", "tool_choice", tool=name)
        if name not in {tool.name for tool in tools}:
            refuse("choice_unknown", "tool_choice", tool=name)
        return name
    known = ("none", "auto", "any", "required") if provider == "mistral" else (
        "none", "auto", "required",
    )  # fmt: skip
    if given not in known:
        problem = "value" if provider == "mistral" else "choice_value"
        refuse(problem, "tool_choice", value=given, known=known)
    if not tools and (provider == "openai" or given not in ("none", "auto")):
        refuse("choice_alone", "tool_choice", tool=given)
    return "required" if given == "any" else str(given)


def read_calls(item: Mapping[str, Any], place: str, provider: str) -> tuple[ToolCall, ...]:
    """The tool calls of an assistant's message. Raises Refusal if one is malformed."""
    given = item.get("tool_calls")
    if given is None:
        return ()
    if item.get("role") != "assistant" or not isinstance(given, list):
        refuse("unknown", f"{place}.tool_calls", value=given)
    if not given and provider == "openai":
        refuse("empty", f"{place}.tool_calls")
    calls = []
    for number, entry in enumerate(given):
        where = f"{place}.tool_calls[{number}]"
        function = entry.get("function") if isinstance(entry, dict) else None
        if not isinstance(function, dict):
            refuse("missing", f"{where}.function")
        for name in ("name", "arguments"):
            if function.get(name) is None:
                refuse("missing", f"{where}.function.{name}")
        arguments = function["arguments"]
        if isinstance(arguments, dict) and provider == "mistral":
            arguments = json.dumps(arguments)  # its FunctionCall takes both (mistralai 3.7)
        if not isinstance(arguments, str):
            refuse("type", f"{where}.function.arguments", expected="a string")
        if not isinstance(entry.get("id"), str):
            refuse("missing", f"{where}.id")
        _check_id(entry["id"], f"{where}.id", provider)
        calls.append(ToolCall(entry["id"], str(function["name"]), arguments))
    return tuple(calls)


def _check_id(text: str, place: str, provider: str) -> None:
    if provider == "mistral" and not _MISTRAL_ID.fullmatch(text):
        refuse("call_id", place, value=text)


def link_results(
    messages: Sequence[Message], given: Sequence[Mapping[str, Any]], provider: str
) -> tuple[Message, ...]:
    """The messages, with the tool's name in each result. Raises Refusal for a bad order.

    All providers refuse a result without a call. OpenAI wants every call answered before anyone
    else speaks, and Mistral also a model's message after results (github.com/mistralai/client-ts/
    issues/106, github.com/datapizza-labs/datapizza-ai/issues/98); no such check of Groq is known.
    """
    linked: list[Message] = []
    calls: dict[str, str] = {}
    waiting: list[str] = []
    before = ""
    for number, (message, item) in enumerate(zip(messages, given, strict=True)):
        place = f"messages[{number}]"
        if message.role == "tool":
            key = item.get("tool_call_id")
            if not isinstance(key, str):
                refuse("missing", f"{place}.tool_call_id")
            _check_id(key, f"{place}.tool_call_id", provider)
            if not calls:
                refuse("result_alone", f"{place}.role", value=before)
            if key not in calls:
                refuse("result_unknown", f"{place}.tool_call_id", value=key)
            if key in waiting:
                waiting.remove(key)
            linked.append(Message("tool", message.text, message.images, tool=calls[key]))
        else:
            if waiting and provider in _ANSWERS:
                refuse(_ANSWERS[provider], f"{place}.role", value=", ".join(waiting))
            if provider == "mistral" and before == "tool" and message.role != "assistant":
                refuse("order_after_tool", f"{place}.role", value=message.role)
            calls = {made.id: made.name for made in message.calls}
            waiting = list(calls)
            linked.append(message)
        before = message.role
    if waiting and provider in _ANSWERS and (provider == "openai" or before == "tool"):
        place = f"messages[{len(messages) - 1}].role"
        refuse(_ANSWERS[provider], place, value=", ".join(waiting))
    return tuple(linked)
