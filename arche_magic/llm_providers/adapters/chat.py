"""The chat completions format, which OpenAI, Groq, Mistral and many others share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from ..request import Message, Request
from ..tools import Tool
from ..types import Usage
from .bodies import ErrorInReply, field_text, mapping, mappings
from .formats import Format, response_format
from .replies import Part, as_count, counted, finish_kind, whole_calls

# Google documents this value for calls that another model made: Gemini 3 refuses the first call of
# a turn without a signature (ai.google.dev/gemini-api/docs/thought-signatures, 2026). On the wire
# it must read like this, and the SDK writes bytes in base64.
FOREIGN_SIGNATURE = "skip_thought_signature_validator"


def chat_messages(
    request: Request, call_id: Callable[[str], str], *, signed: bool = False
) -> list[dict[str, Any]]:
    """The messages of a request, in the format of chat completions.

    `call_id` converts the ids of tool calls to those that are sent. `signed` is True for Google's
    service, which requires Gemini's thought signatures to be sent back.
    """

    def turn(message: Message) -> dict[str, Any]:
        turn: dict[str, Any] = {"role": message.role, "content": _content(message)}
        if message.name:
            turn["name"] = message.name
        if message.role == "tool":
            turn["tool_call_id"] = call_id(message.tool_call_id)
        if message.tool_calls:
            turn["content"] = turn["content"] or None
            turn["tool_calls"] = [
                {
                    "id": call_id(call.id),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in message.tool_calls
            ]
        for number, call in enumerate(message.tool_calls if signed else ()):
            # Gemini signs only the first of several calls that it makes together.
            if signature := call.signature or ("" if number else FOREIGN_SIGNATURE):
                sent = {"google": {"thought_signature": signature}}
                turn["tool_calls"][number]["extra_content"] = sent
        return turn

    return [turn(message) for message in request.messages]


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    parts: list[dict[str, Any]] = []
    if message.content:
        parts.append({"type": "text", "text": message.content})
    for image in message.images:
        picture = {"url": image.data_uri}
        if image.detail:
            picture["detail"] = image.detail
        parts.append({"type": "image_url", "image_url": picture})
    return parts


def chat_parameters(
    request: Request, form: Format | None, schema_field: str, others: Mapping[str, Any]
) -> dict[str, Any]:
    """The parameters of a call that are set; `others` are those that services name differently.

    `schema_field` is what the SDK calls the schema in `response_format`.
    """
    choice: Any = request.tool_choice or None
    if any(tool.name == choice for tool in request.tools):
        choice = {"type": "function", "function": {"name": choice}}
    parameters = {
        **others,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop) or None,
        "response_format": response_format(request, form, schema_field),
        "tools": [_tool_definition(tool) for tool in request.tools] or None,
        "tool_choice": choice,
        "parallel_tool_calls": request.parallel_tool_calls,
    }
    return {name: value for name, value in parameters.items() if value is not None}


def _tool_definition(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.schema}
    if tool.description:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def short_id(call_id: str, length: int) -> str:
    """Return an id of `length` letters and digits; equal ids give equal results."""
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:length]


def chat_part(item: Any) -> Part | None:
    """One chat completion, or one chunk of it.

    Raises:
        TypeError: it is not a JSON object.
        ErrorInReply: it describes an error.
    """
    if isinstance(item, str):
        raise ErrorInReply(item)
    if not isinstance(item, dict):
        raise TypeError("JSON that is not an object")
    extra = mapping(item.get("x_groq"))
    usage = mapping(extra.get("usage")) or mapping(item.get("usage"))
    count = _counted(usage)
    choices = mappings(item.get("choices"))
    choice = choices[0] if choices else {}
    # Mistral's error in a stream, and those of OpenRouter, FastAPI's servers and Cloudflare.
    signs = ("error",) if choices else ("error", "detail", "errors")
    if any(map(item.get, signs)) or item.get("object") == "error" or choice.get("error"):
        raise ErrorInReply(choice if choice.get("error") else item)
    if not choices:
        return Part(usage=count) if count else None
    whole = mapping(choice.get("message"))
    message = whole or mapping(choice.get("delta"))
    calls = mappings(message.get("tool_calls"))
    if called := mapping(message.get("function_call")):
        # The format of `functions`, OpenAI's predecessor of tools.
        calls.append({"function": called})
    # Groq names here why it stopped a stream early.
    stopped, reason = field_text(extra, "error"), field_text(choice, "finish_reason")
    return Part(
        text=_text(message.get("content")),
        refusal=_text(message.get("refusal")),
        finish_reason="error" if stopped else finish_kind(reason),
        usage=count,
        reason=stopped or reason,
        tool_calls=tuple(call for one in calls for call in whole_calls([one])) if whole else (),
        call_pieces=() if whole else tuple(calls),
        choices=tuple(choices) if whole else (),
    )


def _counted(usage: Mapping[str, Any]) -> Usage | None:
    """The provider's own count.

    xAI, and Google's service on this wire, leave reasoning out of the completion's tokens, but not
    out of the total (github.com/UKGovernmentBEIS/inspect_ai/issues/5528).
    """
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    prompt, completion, total = (as_count(usage.get(name)) for name in names)
    if prompt > 0 and completion >= 0:
        completion = max(completion, total - prompt)
    return counted(prompt, completion)


def _text(content: Any) -> str:
    """The text of a message, which some services send in parts; parts of reasoning are left out."""
    if isinstance(content, str):
        return content
    return "".join(
        field_text(part, "text") for part in mappings(content) if part.get("type") == "text"
    )
