"""Messages and tools, from dicts in the form of OpenAI's chat completions.

A wrong value raises InvalidRequest.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ..errors import InvalidRequest
from ..request import Image, Message, read_image
from ..text.characters import whole_characters
from ..tools import Tool, ToolCall, is_name, thought_signature
from .values import check_fields, read_flag, read_text, shown

Messages = Iterable[Mapping[str, Any] | Message]

# OpenAI renamed the system prompt of its reasoning models.
_ROLES = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
    "tool": "tool",
}  # fmt: skip
_DATA_URI = re.compile(r"data:[\w.+/=;-]*;base64,(.*)", re.DOTALL | re.IGNORECASE)
_DETAILS = ("auto", "low", "high")
_FIELDS = ("role", "content", "images", "tool_calls", "tool_call_id", "name")
# What some services and clients put into replies, and hints for caches. They are not sent, because
# other services refuse them. `parsed` is from `parse()` of OpenAI's client (openai 3.57),
# `extra_content` from Gemini's own service for it (github.com/mozilla-ai/any-llm/pull/1320), and
# `provider_specific_fields` from LiteLLM (github.com/BerriAI/litellm/issues/25595).
_OF_ONE_SERVICE = (
    "reasoning", "reasoning_content", "reasoning_details", "thinking_blocks", "annotations",
    "citations", "executed_tools", "cache_control", "parsed", "extra_content",
    "provider_specific_fields",
)  # fmt: skip
TOOL_CHOICES = ("auto", "none", "required")
_TOOL_FIELDS = ("name", "description", "parameters", "strict")


def read_messages(entries: Messages) -> list[Message]:
    """Return the messages, checked one by one and together.

    The text parts of a message are joined with newlines, and its images follow the text.
    """
    turns = [_message(entry) for entry in entries]
    _check_calls(turns)
    return turns


def read_images(value: object) -> tuple[Image, ...]:
    """Return images from a list of paths, bytes and `Image` objects; () for None."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise InvalidRequest("images must be a list of paths, bytes or Image objects")
    return tuple(read_image(source) for source in value)


def _message(entry: Mapping[str, Any] | Message) -> Message:
    if isinstance(entry, Message):
        entry = vars(entry)
    if not isinstance(entry, Mapping):
        raise InvalidRequest("a message is a dict such as {'role': 'user', 'content': 'text'}")
    role = entry.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(
            f"a message's role is {shown(role)}; it can be system, developer, user, assistant or "
            "tool"
        )
    check_fields(f"a message with the role {role}", entry, _FIELDS, _OF_ONE_SERVICE)
    calls = _calls(entry.get("tool_calls"), role)
    text, in_content = _content(entry.get("content"), role, optional=bool(calls))
    images = (*in_content, *read_images(entry.get("images")))
    if images and role != "user":
        raise InvalidRequest(
            f"a message with the role {role} has images; only user messages can have images"
        )
    call_id = entry.get("tool_call_id")
    if role == "tool" and (not isinstance(call_id, str) or not call_id):
        raise InvalidRequest(
            "a message with the role tool needs tool_call_id, the id of the call that it answers"
        )
    # In a tool's message, the name only repeats that of its call.
    name = None if role == "tool" else entry.get("name") or None
    return Message(
        cast("Any", _ROLES[role]),
        text,
        images,
        calls,
        whole_characters(cast("str", call_id)) if role == "tool" else "",
        read_text("the name of a message", name) or "",
    )


def _content(value: object, role: str, *, optional: bool) -> tuple[str, tuple[Image, ...]]:
    """Return the text and the images of a message's content."""
    if isinstance(value, str):
        return whole_characters(value), ()
    if value is None and optional:
        return "", ()
    if not isinstance(value, list | tuple):
        raise InvalidRequest(
            f"the content of a message with the role {role} is of type {type(value).__name__}; "
            "it must be text, or a list of parts such as {'type': 'text', 'text': '…'}"
        )
    texts, images = [], []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("text", "refusal", "image_url"):
            check_fields(f"a part of the type {kind}", part, ("type", kind), _OF_ONE_SERVICE)
        if kind == "image_url":
            images.append(_image(part.get("image_url")))
        elif kind in ("text", "refusal") and isinstance(part.get(kind), str):
            texts.append(part[kind])
        else:
            raise InvalidRequest(
                f"a part of a message's content is {shown(kind or part)}; it can be a text with "
                "'text', or an image_url with 'url'"
            )
    return whole_characters("\n".join(texts)), tuple(images)


def _image(value: object) -> Image:
    given = value if isinstance(value, Mapping) else {"url": value}
    url, detail = given.get("url"), given.get("detail") or "auto"
    if not isinstance(url, str):
        raise InvalidRequest("an image_url must have a 'url' that is text")
    if detail not in _DETAILS:
        raise InvalidRequest(
            f"detail of an image_url is {shown(detail)}; it can be auto, low or high"
        )
    # Options that are not set are not sent.
    detail = "" if detail == "auto" else detail
    if data := _DATA_URI.fullmatch(url):
        try:
            # `base64.encodebytes` and command lines break it into lines.
            content = base64.b64decode("".join(data[1].split()), validate=True)
        except (binascii.Error, ValueError):
            raise InvalidRequest("an image's data URI is not valid base64") from None
        return replace(read_image(content), detail=detail)
    if url.startswith(("http://", "https://")):
        # Never fetched here; providers that accept URLs fetch the image.
        return Image("", b"", whole_characters(url), detail)
    raise InvalidRequest(
        f"an image's url begins with {url[:20]!r}; it must be a base64 data URI, http or https"
    )


def _calls(value: object, role: str) -> tuple[ToolCall, ...]:
    if not value:
        return ()
    if role != "assistant":
        raise InvalidRequest(
            f"a message with the role {role} has tool_calls; only assistant messages can have them"
        )
    if not isinstance(value, list | tuple):
        raise InvalidRequest(f"tool_calls is of type {type(value).__name__}; it must be a list")
    calls = tuple(call if isinstance(call, ToolCall) else _call(call) for call in value)
    if len({call.id for call in calls}) < len(calls):
        raise InvalidRequest("two tool_calls of a message have the same id")
    return calls


def _call(value: object) -> ToolCall:
    call = value if isinstance(value, Mapping) else {}
    function = call.get("function")
    if call.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise InvalidRequest(
            "a tool call is a dict such as {'id': 'call_1', 'type': 'function', "
            "'function': {'name': 'f', 'arguments': '{}'}}"
        )
    for name, text in (("id", call.get("id")), ("name", function.get("name"))):
        if not isinstance(text, str) or not text:
            raise InvalidRequest(f"the {name} of a tool call is {shown(text)}; it must be text")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        raise InvalidRequest(
            f"the arguments of the call to {function['name']} are of type "
            f"{type(arguments).__name__}; they must be JSON as text"
        )
    return ToolCall(
        whole_characters(call["id"]),
        whole_characters(function["name"]),
        whole_characters(arguments) or "{}",
        thought_signature(call),
    )


def _check_calls(turns: Sequence[Message]) -> None:
    """Check that each result belongs to an earlier call, and each call has its result."""
    known: set[str] = set()
    awaited: dict[str, str] = {}
    for turn in turns:
        if turn.role == "tool":
            if turn.tool_call_id not in known:
                raise InvalidRequest(
                    f"a tool's result has the tool_call_id {turn.tool_call_id!r}, but no earlier "
                    "assistant message has a call with this id"
                )
            awaited.pop(turn.tool_call_id, None)
        elif awaited:
            break
        known.update(call.id for call in turn.tool_calls)
        awaited.update((call.id, call.name) for call in turn.tool_calls)
    for call_id, name in awaited.items():
        raise InvalidRequest(
            f"the call {call_id!r} to {name} has no result: a message with the role tool and this "
            "tool_call_id must follow it"
        )


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
    chosen = value
    if isinstance(value, Mapping):
        function = value.get("function")
        chosen = function.get("name") if isinstance(function, Mapping) else None
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
        try:
            schema = json.loads(value.parameters)
        except (TypeError, ValueError, RecursionError):
            raise InvalidRequest(f"the parameters of the tool {value.name} are not JSON") from None
        _check_schema(value.name, schema)
        return replace(
            value,
            description=whole_characters(value.description),
            parameters=whole_characters(value.parameters),
        )
    if not isinstance(value, Mapping) or value.get("type") != "function":
        given = f"a value of type {type(value).__name__}"
        if isinstance(value, Mapping):
            given = f"a dict with the type {value.get('type')!r:.40}"
        raise InvalidRequest(
            "a tool is a dict such as {'type': 'function', 'function': {'name': 'f', "
            f"'parameters': {{…}}}}}}, or a Tool; not {given}"
        )
    function = value.get("function")
    if not isinstance(function, Mapping):
        raise InvalidRequest("a tool of the type function needs 'function', a dict with its name")
    name, description = _checked_name(function.get("name")), function.get("description") or ""
    check_fields(f"the tool {name}", function, _TOOL_FIELDS)
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
