"""Requests for chat completions, which OpenAI, Groq and Mistral read in nearly the same way.

Only errors that clients really make are distinguished. For a request with another structure, these
functions raise Python errors, and the service refuses it as invalid JSON.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ..schemas import strict_problem
from ..types import Call, Message, Refusal, Tool, ToolCall
from .common import check_base64, read_integer, read_number, read_stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .openai import OpenAI

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MISTRAL_ID = re.compile(r"[a-zA-Z0-9]{9}")
_MOST_TOOLS = 128
# The problem if calls of tools have no results, for the providers that are known to check it.
_UNANSWERED = {"openai": "calls_alone", "mistral": "calls_count"}


def read_chat(body: Mapping[str, Any], model: str, wire: OpenAI) -> Call:
    """Read and check a request for `model`, whose parameters are known. Raises Refusal."""
    messages = _link_results(_read_messages(body, wire), body["messages"], wire.provider)
    tools = _read_tools(body, wire.provider)
    read_number(body, "temperature", 0, wire.highest_temperature)
    read_number(body, "top_p", 0, 1)
    choices = read_integer(body, "n", 1, wire.most_choices) or 1
    most = [
        read_integer(body, name, wire.least_max_tokens)
        for name in ("max_completion_tokens", "max_tokens")
    ]
    json_wanted, schema = _read_format(body, strict=wire.strict)
    return Call(
        provider=wire.provider,
        model=model,
        messages=messages,
        stream=bool(body.get("stream")),
        max_tokens=next((number for number in most if number is not None), None),
        stop=read_stop(body, "stop", wire.most_stops),
        seed=read_integer(body, wire.seed, wire.least_seed),
        json_wanted=json_wanted,
        json_schema=schema,
        usage_wanted=bool((body.get("stream_options") or {}).get("include_usage")),
        tools=tools,
        tool_choice=_read_choice(body, tools, wire.provider),
        parallel=body.get("parallel_tool_calls") is not False,
        choices=choices,
    )


def _read_messages(body: Mapping[str, Any], wire: OpenAI) -> tuple[Message, ...]:
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise Refusal("empty" if given == [] else "type", "messages", expected="an array")
    messages = []
    for number, item in enumerate(given):
        place = f"messages[{number}]"
        role, content = item.get("role"), item.get("content")
        if role not in wire.roles:
            raise Refusal("value", f"{place}.role", value=role, known=list(wire.roles))
        images = 0
        if isinstance(content, list):
            images = sum(_is_image(part, f"{place}.content") for part in content)
            content = "".join(str(part.get("text", "")) for part in content)
        if content is None and role == "assistant":
            content = ""
        if not isinstance(content, str):
            raise Refusal("type", f"{place}.content", expected="a string")
        calls = _read_calls(item, place, wire.provider)
        role = "system" if role == "developer" else role
        messages.append(Message(role, content, images, calls))
    return tuple(messages)


def _is_image(part: Mapping[str, Any], place: str) -> bool:
    """Whether a part of a message is an image. Raises Refusal if it cannot be read."""
    if part.get("type") != "image_url":
        return False
    value = part.get("image_url")
    address = value.get("url") if isinstance(value, dict) else value
    if not isinstance(address, str) or not address.startswith(("data:", "https://", "http://")):
        raise Refusal("type", place, expected="an image URL")
    if address.startswith("data:"):
        kind, _, data = address.partition(";base64,")
        if not kind.startswith("data:image/"):
            raise Refusal("type", place, expected="an image")
        check_base64(data, place)
    return True


def _read_format(body: Mapping[str, Any], *, strict: bool) -> tuple[bool, Mapping[str, Any] | None]:
    """Whether `response_format` asks for JSON, and the schema if it has one. Raises Refusal.

    If `strict`, a strict schema must follow the rules of OpenAI and Groq, and a prompt for JSON
    without a schema must contain the word "json".
    """
    value = body.get("response_format")
    if value is None:
        return False, None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return False, None
    if kind == "json_object":
        if strict and "json" not in json.dumps(body.get("messages")).lower():
            raise Refusal("no_json_word", "messages")
        return True, None
    outer = value.get("json_schema") if kind == "json_schema" else None
    if not isinstance(outer, dict):
        known = ["text", "json_object", "json_schema"]
        raise Refusal("value", "response_format", value=kind, known=known)
    schema = outer.get("schema", outer.get("schema_definition"))
    if not outer.get("name") or not isinstance(schema, dict):
        raise Refusal("missing", "response_format.json_schema")
    if strict and outer.get("strict"):
        _check_strict("schema", "response_format", schema, name=outer["name"])
    return True, schema


def _check_strict(what: str, param: str, schema: Mapping[str, Any], name: str) -> None:
    """Raise Refusal if a strict schema breaks a rule; `what` has it ("schema", "tool")."""
    if found := strict_problem(schema):
        place, rule, broken = found
        path = "".join(f"/{step}" for step in place)
        raise Refusal(f"{what}_{rule}", param, name=name, place=place, path=path, broken=broken)


# --- tools: definitions, choice, calls and results


def _read_tools(body: Mapping[str, Any], provider: str) -> tuple[Tool, ...]:
    given = body.get("tools")
    if given is None:
        return ()
    if not given and provider == "openai":
        raise Refusal("empty", "tools")
    if len(given) > _MOST_TOOLS and provider != "mistral":
        raise Refusal("too_many", "tools", bound=_MOST_TOOLS, value=len(given))
    return tuple(_tool(item, f"tools[{number}]", provider) for number, item in enumerate(given))


def _tool(item: Any, place: str, provider: str) -> Tool:
    if item.get("type", "function" if provider == "mistral" else None) != "function":
        known = ["function", "custom"] if provider == "openai" else ["function"]
        raise Refusal("value", f"{place}.type", value=item.get("type"), known=known)
    function = item["function"]
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refusal("tool_name", f"{place}.function.name", value=name)
    where = f"{place}.function.parameters"
    schema = function.get("parameters")
    if schema is None:
        if provider == "mistral":  # a required field of its Function (mistralai 3.7)
            raise Refusal("missing", where)
        schema = {}
    if not isinstance(schema, dict) or (schema and schema.get("type") != "object"):
        kind = schema.get("type") if isinstance(schema, dict) else schema
        raise Refusal("tool_schema", where, tool=name, value=kind)
    if provider == "openai" and function.get("strict"):
        _check_strict("tool", where, schema, name=name)
    return Tool(name, schema, str(function.get("description") or ""))


def _read_choice(body: Mapping[str, Any], tools: Sequence[Tool], provider: str) -> str:
    """`tool_choice`: "auto", "none", "required" or the name of a tool. Raises Refusal."""
    if not tools and body.get("parallel_tool_calls") is not None and provider == "openai":
        raise Refusal("parallel_alone", "parallel_tool_calls")
    given = body.get("tool_choice")
    if given is None:
        return "auto"
    if isinstance(given, dict):
        name = str(given["function"]["name"])
        if not tools:
            raise Refusal("choice_alone", "tool_choice", tool=name)
        if name not in {tool.name for tool in tools}:
            raise Refusal("choice_unknown", "tool_choice", tool=name)
        return name
    known = ["none", "auto", "required"]
    if provider == "mistral":
        known.insert(2, "any")
    if given not in known:
        raise Refusal("choice_value", "tool_choice", value=given, known=known)
    if not tools and (provider == "openai" or given not in ("none", "auto")):
        raise Refusal("choice_alone", "tool_choice", tool=given)
    return "required" if given == "any" else str(given)


def _read_calls(item: Mapping[str, Any], place: str, provider: str) -> tuple[ToolCall, ...]:
    """The tool calls of an assistant's message. Raises Refusal if one is malformed."""
    given = item.get("tool_calls")
    if given is None:
        return ()
    if item.get("role") != "assistant" or not isinstance(given, list):
        raise Refusal("unknown", f"{place}.tool_calls", value=given)
    if not given and provider == "openai":
        raise Refusal("empty", f"{place}.tool_calls")
    calls = []
    for number, entry in enumerate(given):
        where, function = f"{place}.tool_calls[{number}]", entry["function"]
        arguments = function["arguments"]
        if isinstance(arguments, dict) and provider == "mistral":
            arguments = json.dumps(arguments)  # its FunctionCall takes both (mistralai 3.7)
        if not isinstance(arguments, str):
            raise Refusal("type", f"{where}.function.arguments", expected="a string")
        _check_id(entry["id"], f"{where}.id", provider)
        calls.append(ToolCall(entry["id"], str(function["name"]), arguments))
    return tuple(calls)


def _check_id(text: str, place: str, provider: str) -> None:
    if provider == "mistral" and not _MISTRAL_ID.fullmatch(text):
        raise Refusal("call_id", place, value=text)


def _link_results(
    messages: Sequence[Message], given: Sequence[Mapping[str, Any]], provider: str
) -> tuple[Message, ...]:
    """The messages, with the tool's name in each result. Raises Refusal for a bad order.

    All providers refuse a result without a call. OpenAI requires that every call is answered before
    the next turn, and Mistral also requires a model's message after results
    (github.com/mistralai/client-ts/issues/106, github.com/datapizza-labs/datapizza-ai/issues/98);
    no such check of Groq is known.
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
                raise Refusal("missing", f"{place}.tool_call_id")
            _check_id(key, f"{place}.tool_call_id", provider)
            if not calls:
                raise Refusal("result_alone", f"{place}.role", value=before)
            if key not in calls:
                raise Refusal("result_unknown", f"{place}.tool_call_id", value=key)
            if key in waiting:
                waiting.remove(key)
            linked.append(Message("tool", message.text, message.images, tool=calls[key]))
        else:
            if waiting and provider in _UNANSWERED:
                raise Refusal(_UNANSWERED[provider], f"{place}.role", value=", ".join(waiting))
            if provider == "mistral" and before == "tool" and message.role != "assistant":
                raise Refusal("order_after_tool", f"{place}.role", value=message.role)
            calls = {made.id: made.name for made in message.calls}
            waiting = list(calls)
            linked.append(message)
        before = message.role
    if waiting and provider in _UNANSWERED and (provider == "openai" or before == "tool"):
        place = f"messages[{len(messages) - 1}].role"
        raise Refusal(_UNANSWERED[provider], place, value=", ".join(waiting))
    return tuple(linked)
