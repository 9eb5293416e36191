"""Converts conversations, tools and extra fields to Gemini's format, and reads its calls."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..request import Request
from ..text.characters import whole_characters
from ..tools import ToolCall
from .bodies import field_text, mapping
from .chat import FOREIGN_SIGNATURE
from .replies import Part, new_call_id

# Models before Gemini 3 need no signature.
_OLDER = re.compile(r"(models/)?(gemini-[12]\b|gemma)")
# Tokens of thinking by OpenAI's levels, as Google's own service for OpenAI's clients translates
# them for Gemini 2.5 (ai.google.dev/gemini-api/docs/openai, 2026). Later models take levels.
_BUDGETS = {
    "none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576,
}  # fmt: skip


def contents_of(request: Request, model: str, stale: Container[str] = ()) -> list[dict[str, Any]]:
    """The conversation without its system prompt, in Gemini's format.

    The results of one turn's calls are joined. So are consecutive turns of the model, such as the
    given beginning of a reply and a call, because Gemini refuses a call that follows another turn
    of the model. Empty turns are left out. Signatures that are `stale` are not sent.
    """
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    before = ""
    for message in request.messages:
        parts: list[dict[str, Any]] = []
        if message.role == "tool":
            called, answer = names.get(message.tool_call_id, ""), {"output": message.content}
            result = {"id": message.tool_call_id, "name": called, "response": answer}
            parts = [{"function_response": result}]
        elif message.role != "system":
            # Gemini refuses empty parts (reported in github.com/RooCodeInc/Roo-Code/pull/10728).
            if message.content or not (message.role == "assistant" or message.images):
                parts.append({"text": message.content})
            for image in message.images:
                parts.append({"inline_data": {"mime_type": image.media_type, "data": image.data}})
            parts += _calls(message.tool_calls, stale, needs_signature=not _OLDER.match(model))
            names.update((call.id, call.name) for call in message.tool_calls)
        if parts and message.role == before != "user":
            contents[-1]["parts"] += parts
        elif parts:
            role = "model" if message.role == "assistant" else "user"
            contents.append({"role": role, "parts": parts})
        before = message.role if parts else before
    return contents


def tool_config(request: Request) -> dict[str, Any]:
    """The tools of a request and the choice among them, as fields of the SDK's config."""
    if not request.tools:
        return {}
    declarations = []
    for tool in request.tools:
        schema = tool.schema
        declaration: dict[str, Any] = {"name": tool.name}
        if tool.description:
            declaration["description"] = tool.description
        if schema.get("properties") or schema.keys() - {"type", "properties", "required"}:
            declaration["parameters_json_schema"] = schema
        declarations.append(declaration)
    given: dict[str, Any] = {"tools": [{"function_declarations": declarations}]}
    if calling := _calling(request):
        given["tool_config"] = {"function_calling_config": calling}
    return given


def _calling(request: Request) -> dict[str, Any]:
    if request.tool_choice == "none":
        return {"mode": "NONE"}
    if request.tool_choice == "required":
        return {"mode": "ANY"}
    if request.tool_choice not in ("", "auto"):
        return {"mode": "ANY", "allowed_function_names": [request.tool_choice]}
    # Gemini's mode for arguments that must fit their schemas.
    if any(tool.strict for tool in request.tools):
        return {"mode": "VALIDATED"}
    return {"mode": "AUTO"} if request.tool_choice else {}


def translated(request: Request, model: str) -> dict[str, Any]:
    """The extra fields of a request, under their names in the SDK's config."""
    names = ("frequency_penalty", "presence_penalty")
    given = {name: request.extra[name] for name in names if name in request.extra}
    if effort := request.extra.get("reasoning_effort"):
        if _OLDER.match(model) or effort == "none":
            given["thinking_config"] = {"thinking_budget": _BUDGETS[effort]}
        else:
            given["thinking_config"] = {"thinking_level": effort.upper()}
    return given


def calls_in(parts: Iterable[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
    """The calls in the parts of a reply. A call without an id gets a new one."""
    return tuple(
        ToolCall(
            field_text(call, "id") or new_call_id(),
            whole_characters(field_text(call, "name")),
            whole_characters(json.dumps(mapping(call.get("args")), ensure_ascii=False)),
            signature if _bytes(signature := field_text(part, "thoughtSignature")) else "",
        )
        for part in parts
        if field_text(call := mapping(part.get("functionCall")), "name")
    )


def first_call_only(parts: Iterable[Part | None]) -> Iterator[Part | None]:
    """The parts of a reply with one call at most.

    Gemini cannot be told to make a single call, and libraries for structured output always ask for
    one. A model that needs another call makes it after the result of the first.
    """
    is_called = False
    for part in parts:
        if part is None or not part.tool_calls:
            yield part
            continue
        yield replace(part, tool_calls=() if is_called else part.tool_calls[:1])
        is_called = True


def _calls(
    calls: Iterable[ToolCall], stale: Container[str], *, needs_signature: bool
) -> list[dict[str, Any]]:
    parts = []
    for number, call in enumerate(calls):
        part: dict[str, Any] = {
            "function_call": {"id": call.id, "name": call.name, "args": _arguments(call)}
        }
        signature = b"" if call.signature in stale else _bytes(call.signature)
        # Gemini signs only the first of several calls that it makes together.
        if not signature and number == 0 and needs_signature:
            signature = _bytes(FOREIGN_SIGNATURE)
        if signature:
            part["thought_signature"] = signature
        parts.append(part)
    return parts


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = None
    # Gemini accepts only an object, and another model may have written anything.
    return arguments if isinstance(arguments, dict) else {"arguments": call.arguments}


def _bytes(signature: str) -> bytes:
    """The bytes of a text in base64, in either of its alphabets; none if it is not base64."""
    text = signature.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""
