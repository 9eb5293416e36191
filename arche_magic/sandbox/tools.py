"""Which tools the simulated model calls, with which arguments, and what it says afterwards."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .schemas import json_for_schema
from .types import Call, Message, Tool, ToolCall

if TYPE_CHECKING:
    from collections.abc import Sequence

NO_TOOLS = "[no tools]"  # a prompt with this text is answered without tools
_VALUE = re.compile(r"""(?<![\w.-])([A-Za-z_][\w-]*)=("[^"]*"|'[^']*'|\S+)""")
_RESULT = 400  # the number of characters of a result that a reply repeats
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def make_calls(call: Call, seed: int, draw: int) -> tuple[ToolCall, ...]:
    """The calls in the reply to a request, or () if it is answered with text.

    A reply calls the tools that the prompt names, in the order of their names in the prompt, or
    the first tool if it names none. After results of tools, only a request that insists on a tool
    (`tool_choice`) gets a call, of a tool that has not been called yet if there is one.
    `draw` is the number that decides the arguments; words like `city=Oslo` in the prompt replace
    them. Arguments with a default are left out unless the prompt gives them.
    """
    if not call.tools or call.tool_choice == "none":
        return ()
    forced = call.tool_choice != "auto"
    answered = call.messages[-1].role == "tool"
    if not forced and (answered or NO_TOOLS in call.prompt):
        return ()
    made = []
    for tool, words in _chosen(call, answered=answered):
        drawn = json_for_schema(tool.schema, number=draw) if tool.schema else {}
        values = drawn if isinstance(drawn, dict) else {}
        made.append((tool.name, json.dumps(_with_words(tool, values, words), ensure_ascii=False)))
    distinct = tuple(dict.fromkeys(made))
    if not call.parallel:
        distinct = distinct[:1]
    return tuple(
        ToolCall(_id(call, seed, number), name, arguments)
        for number, (name, arguments) in enumerate(distinct)
    )


def results_in_words(messages: Sequence[Message]) -> str:
    """A sentence for each result of a tool at the end of a conversation."""
    lines: list[str] = []
    for message in reversed(messages):
        if message.role != "tool":
            break
        text = message.text if len(message.text) <= _RESULT else message.text[:_RESULT] + "…"
        lines.append(f"The tool {message.tool or 'that was called'} answered: {text}")
    return "\n\n".join(reversed(lines))


def calls_cut(calls: tuple[ToolCall, ...], characters: int) -> tuple[ToolCall, ...]:
    """The calls that fit into a number of characters; the arguments of the last may be cut."""
    kept = []
    for made in calls:
        room = characters - len(made.name)
        if room <= 0:
            break
        kept.append(replace(made, arguments=made.arguments[:room]))
        characters = room - len(made.arguments)
    return tuple(kept)


def _chosen(call: Call, *, answered: bool) -> list[tuple[Tool, str]]:
    """The tools to call, each with the words of the prompt that belong to it."""
    by_name = {tool.name: tool for tool in call.tools}
    if call.tool_choice in by_name:
        return [(by_name[call.tool_choice], call.prompt)]
    if answered:
        called = {made.name for message in call.messages for made in message.calls}
        left = [tool for tool in call.tools if tool.name not in called]
        return [(left[0] if left else call.tools[-1], call.prompt)]
    names = "|".join(re.escape(name) for name in sorted(by_name, key=len, reverse=True))
    found = list(re.finditer(rf"(?<![\w-])({names})(?![\w-]|=)", call.prompt))
    if not found:
        return [(call.tools[0], call.prompt)]
    ends = [match.start() for match in found[1:]] + [len(call.prompt)]
    chosen = []
    for match, end in zip(found, ends, strict=True):
        own = call.prompt[match.end() : end]
        # Values beside the tool's name count before the values of the whole prompt.
        chosen.append((by_name[match[1]], f"{call.prompt} {own}"))
    return chosen


def _with_words(tool: Tool, values: dict[str, Any], words: str) -> dict[str, Any]:
    fields = tool.schema.get("properties") or {}
    given = {
        name: _typed(text, fields[name]) for name, text in _VALUE.findall(words) if name in fields
    }
    drawn = {
        name: value
        for name, value in values.items()
        if not isinstance(schema := fields.get(name), dict) or "default" not in schema
    }
    return {**drawn, **given}


def _typed(text: str, schema: Any) -> Any:
    """A value from a word of the prompt, with the type that the schema asks for."""
    text = text[1:-1] if text[0] in "\"'" else text.rstrip(".,;:!?)")
    kinds = json.dumps(schema).lower()
    if '"string"' in kinds:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _id(call: Call, seed: int, number: int) -> str:
    """An id in the form of the provider, the same for the same conversation.

    Mistral's ids have nine letters and digits: github.com/nearai/ironclaw/issues/1241, 2026-03.
    """
    told = "\x00".join(f"{m.role}{m.text}{m.calls}" for m in call.messages)
    content = f"{seed}|{call.provider}|{call.model}|{call.seed}|{number}|{told}"
    digest = hashlib.sha256(content.encode("utf-8", "replace")).digest()
    letters = "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest)
    if call.provider == "mistral":
        return letters[:9]
    if call.provider == "google":
        return letters[:8].lower()
    return f"call_{letters[:24]}"
