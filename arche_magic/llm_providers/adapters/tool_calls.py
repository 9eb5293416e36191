"""Tools and calls of them on OpenAI's wire: definitions, messages, and the pieces of a stream."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..text.characters import whole_characters
from ..tools import ToolCall, thought_signature
from .error_bodies import mapping, said

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..request import Request

# Google documents this value for calls that another model made: Gemini 3 refuses the first call of
# a turn without a signature (ai.google.dev/gemini-api/docs/thought-signatures, 2026). On the wire
# it must read like this, and the SDK writes bytes in base64.
FOREIGN_SIGNATURE = "skip_thought_signature_validator"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def tool_definitions(request: Request) -> list[dict[str, Any]] | None:
    """Return the tools of a request in OpenAI's form; None if it has none."""
    tools = []
    for tool in request.tools:
        function: dict[str, Any] = {"name": tool.name, "parameters": tool.schema}
        if tool.description:
            function["description"] = tool.description
        if tool.strict is not None:
            function["strict"] = tool.strict
        tools.append({"type": "function", "function": function})
    return tools or None


def chosen_tool(request: Request) -> str | dict[str, Any] | None:
    """Return the `tool_choice` parameter; None if the request leaves it to the provider."""
    choice = request.tool_choice
    if any(tool.name == choice for tool in request.tools):
        return {"type": "function", "function": {"name": choice}}
    return choice or None


def new_call_id() -> str:
    """Return an id for a call that came without one."""
    return f"call_{os.urandom(12).hex()}"


def short_id(call_id: str, length: int) -> str:
    """Return an id of that many letters and digits, always the same for the same id."""
    number = int.from_bytes(hashlib.sha256(call_id.encode("utf-8", "replace")).digest(), "big")
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(digits)


class _Growing:
    """A call as far as it has arrived."""

    def __init__(self) -> None:
        self.id = self.name = self.signature = ""
        self._arguments: list[str] = []

    @property
    def arguments(self) -> str:
        return "".join(self._arguments)

    def add(self, call_id: str, name: str, arguments: Any, signature: str) -> None:
        self.id = self.id or call_id
        self.name = self.name or name
        self.signature = self.signature or signature
        if arguments is not None:
            # Mistral's reference also allows an object.
            text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            self._arguments.append(text)

    def is_whole(self) -> bool:
        """Return whether it came in one piece, with arguments that are complete."""
        if len(self._arguments) != 1:
            return False
        try:
            json.loads(self.arguments)
        except (ValueError, RecursionError):
            return False
        return True


def whole_calls(deltas: Iterable[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
    """Return the calls that a stream asks for, from their pieces.

    OpenAI sends the id and the name once and the arguments in pieces, with the call's index.
    Compatible services also send whole calls that all have the index 0, or no index at all, or
    calls without an id, or repeat id and name with each piece. A call without a name is left out,
    and one without an id gets one.
    """
    calls: list[_Growing] = []
    # By index, and by id where a piece has no index.
    at: dict[int | str, _Growing] = {}
    for delta in deltas:
        function = mapping(delta.get("function"))
        # Mistral's SDK writes a missing id as "null".
        call_id = "" if delta.get("id") == "null" else said(delta, "id")
        name, index = said(function, "name"), delta.get("index")
        place = index if isinstance(index, int) else call_id
        call = at.get(place) if place != "" else calls[-1] if calls else None
        if call is None or _begins_another(call, call_id, name):
            call = _Growing()
            calls.append(call)
        at[place] = call
        call.add(call_id, name, function.get("arguments"), thought_signature(delta))
    return tuple(
        ToolCall(
            whole_characters(call.id) or new_call_id(),
            whole_characters(call.name),
            whole_characters(call.arguments) or "{}",
            call.signature,
        )
        for call in calls
        if call.name
    )


def _begins_another(call: _Growing, call_id: str, name: str) -> bool:
    """Return whether a piece with this id and name begins another call than that in its place."""
    if not name or not call.name:
        return False
    if call_id and call.id:
        return call_id != call.id
    return call.is_whole()


def distinct_calls(calls: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    """Return the calls, each with an id of its own."""
    by_id: dict[str, ToolCall] = {}
    for call in calls:
        one = replace(call, id=new_call_id()) if call.id in by_id else call
        by_id[one.id] = one
    return tuple(by_id.values())
