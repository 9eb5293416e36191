"""The replies of the simulated models: texts, JSON and tool calls, and their token counts.

The same seed, model and prompt give the same reply.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal

from .models import MODELS
from .schemas import json_for_schema, json_in, schema_in
from .types import Call, Message, Reply, Tool, ToolCall, Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_TOKENS_MARKER = re.compile(r"\[tokens=(\d{1,6})\]")
_TOKENS_PER_IMAGE = 1000
_NO_TOOLS = "[no tools]"  # a prompt with this text is answered without tools
_VALUE = re.compile(r"""(?<![\w.-])([A-Za-z_][\w-]*)=("[^"]*"|'[^']*'|\S+)""")
_RESULT = 400  # the number of characters of a result that a reply repeats
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_ECHO = 80  # the number of characters of the prompt that a reply repeats

_OPENINGS = (
    "No model read this prompt. The sandbox wrote this reply on your machine, at no cost.",
    "This is placeholder text instead of a model's answer. No request left your machine.",
    "The text comes from a fixed list, so the same prompt always gets the same reply.",
    "Nothing was sent to a provider, and no real quota was used.",
)
_MIDDLES = (
    "A real answer can contain **bold words**, `code` and lists, and is displayed the same way.",
    "Limits and errors follow the real services, so your notebook behaves as it would with them.",
    "Tokens are counted as they are for a real reply, so the figures below a cell are realistic.",
    "With your own API key, the same cell asks the real model.",
)
_CLOSINGS = (
    "All figures shown with this reply are simulated.",
    "Use it to check layout and timing, not content.",
    "Stop the sandbox to use your configured providers again.",
)
_FILLER = (
    "This sentence makes the reply as long as the prompt asked for.",
    "It means nothing, and is here so that you can try a long reply.",
    "Every paragraph repeats the same three sentences.",
)


def calls_tokens(calls: Iterable[ToolCall]) -> int:
    """Tokens of tool calls: their names and arguments, and 4 for each."""
    return sum(text_tokens(made.name + made.arguments) + 4 for made in calls)


def input_tokens(call: Call) -> int:
    """Input tokens of a request: its messages, and its schema and tools, which providers count too.

    Each message counts 4 tokens, and the request 3, besides their texts. Providers count an image
    as 258 to 2,048 tokens, most by its size; here all count the same. For embeddings: the tokens of
    all texts.
    """
    if call.embedding.texts:
        return call.embedding.tokens
    schema = json.dumps(call.json_schema) if call.json_schema is not None else ""
    tools = sum(
        text_tokens(tool.name + tool.description + json.dumps(tool.schema)) + 4
        for tool in call.tools
    )
    messages = sum(
        text_tokens(m.text) + calls_tokens(m.calls) + 4 + _TOKENS_PER_IMAGE * m.images
        for m in call.messages
    )
    return 3 + messages + text_tokens(schema) + tools


def text_tokens(text: str) -> int:
    """Tokens of a text: a quarter of its UTF-8 bytes, rounded up."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


def make_reply(call: Call, seed: int, custom: Writer | None = None) -> Reply:
    """Write the reply to `call`, cut at its stop texts and at `max_tokens`.

    `seed` counts for calls without one. `custom` replaces the built-in text: it is given the model
    and the messages (dicts of role and content) and returns the text.
    """
    own = seed if call.seed is None else call.seed
    first, *others = (
        _one_reply(replace(call, seed=own + number), custom) for number in range(call.choices)
    )
    output = first.output_tokens + sum(other.output_tokens for other in others)
    return replace(first, others=tuple(others), output_tokens=output)


def _one_reply(call: Call, custom: Writer | None) -> Reply:
    calls: tuple[ToolCall, ...] = ()
    text = ""
    if custom is not None:
        text = custom(call.model, [{"role": m.role, "content": m.text} for m in call.messages])
    elif calls := _make_calls(call):
        pass
    elif call.json_wanted or schema_in(call.messages) is not None:
        text = json.dumps(_json_reply(call), ensure_ascii=False)
    else:
        text = _prose(call)
    for stop in call.stop:
        text = text.partition(stop)[0]
    finish: Literal["stop", "length", "tool_calls"] = "tool_calls" if calls else "stop"
    thought_tokens = MODELS[call.provider][call.model].thought_tokens
    if call.max_tokens is not None:
        room = max(0, call.max_tokens - thought_tokens)
        thought_tokens = min(thought_tokens, call.max_tokens)
        if text_tokens(text) + calls_tokens(calls) > room:
            text, calls = _cut(text, room), _cut_calls(calls, room * 4)
            finish = "length"
    return Reply(
        text=text,
        input_tokens=input_tokens(call),
        output_tokens=text_tokens(text) + calls_tokens(calls) + thought_tokens,
        thought_tokens=thought_tokens,
        finish=finish,
        calls=calls,
    )


def _cut(text: str, tokens: int) -> str:
    return text.encode("utf-8", "replace")[: tokens * 4].decode("utf-8", "ignore")


def _echo(prompt: str) -> str:
    line = " ".join(prompt.split())
    if len(line) > _ECHO:
        line = line[: _ECHO - 1].rstrip() + "…"
    # Otherwise, the prompt's own Markdown would change the layout of the reply.
    return re.sub(r"([\\`*_<>\[\]$#|])", r"\\\1", line)


def _number(call: Call) -> int:
    """A number that decides what the reply to a call says."""
    return zlib.crc32(f"{call.seed}|{call.model}|{call.prompt}".encode("utf-8", "replace"))


def _prose(call: Call) -> str:
    number = _number(call)
    name = call.model.rpartition("/")[2]
    head = f"*Simulated reply (sandbox, {call.provider} · {name}).*"
    if answers := _results_in_words(call.messages):
        return f"{head}\n\n{answers}"
    asked = f" You asked: “{_echo(call.prompt)}”" if call.prompt.strip() else ""
    if call.images:
        asked += f" You sent {call.images} image{'s' if call.images > 1 else ''}."
    lines = [_OPENINGS[number % len(_OPENINGS)], _MIDDLES[number // 7 % len(_MIDDLES)]]
    if number // 41 % 2:
        lines.append(_CLOSINGS[number // 97 % len(_CLOSINGS)])
    text = f"{head}{asked}\n\n{' '.join(lines)}"
    markers = _TOKENS_MARKER.findall(call.prompt)
    return _pad(text, int(markers[-1])) if markers else text


def _pad(text: str, tokens: int) -> str:
    paragraph = "\n\n" + " ".join(_FILLER)
    missing = max(0, tokens * 4 - len(text.encode("utf-8", "replace")))
    return _cut(text + paragraph * (missing // len(paragraph) + 1), tokens)


def _json_reply(call: Call) -> Any:
    schema = call.json_schema or schema_in(call.messages)
    if schema is not None and (entries := _prompts_in_a_list(call, schema)):
        return _replies_by_id(call, schema, entries)
    # No value may fit a schema in the prompt, but a model replies anyway.
    with suppress(AttributeError, LookupError, TypeError, ValueError):
        if schema is not None:
            return json_for_schema(schema, number=_number(call))
    return {"simulated": True, "model": call.model, "answer": f"You asked: {call.prompt[:_ECHO]}"}


def _prompts_in_a_list(call: Call, schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The prompts by id, if the request contains several prompts; otherwise empty."""
    if "id" not in json.dumps(schema.get("properties", {}).get("replies", "")):
        return []
    entries: list[Any] = next(json_in(call.prompt, r'\[\{"id"'), [])
    return [entry for entry in entries if isinstance(entry, dict) and "prompt" in entry]


def _replies_by_id(call: Call, schema: Mapping[str, Any], entries: list[dict[str, Any]]) -> Any:
    """The id of each prompt, with the reply that the prompt would get alone."""
    wanted = schema["properties"]["replies"]["items"]["properties"]["reply"]
    replies = []
    for entry in entries:
        alone = replace(call, messages=(Message("user", str(entry["prompt"])),))
        if str(wanted.get("type", "object")).lower() == "string":
            reply: Any = _prose(alone)
        else:
            reply = json_for_schema(wanted, number=_number(alone), root=schema)
        replies.append({"id": entry["id"], "reply": reply})
    return {"replies": replies}


# --- tool calls


def _make_calls(call: Call) -> tuple[ToolCall, ...]:
    """The calls in the reply to a request, or () if it is answered with text.

    A reply calls the tools that the prompt names, in the order of their names in the prompt, or
    the first tool if it names none. After results of tools, only a request that requires a tool
    (`tool_choice`) gets a call, of a tool that has not been called yet if there is one.
    Words like `city=Oslo` in the prompt replace arguments. Arguments with a default are left out
    unless the prompt gives them.
    """
    if not call.tools or call.tool_choice == "none":
        return ()
    forced = call.tool_choice != "auto"
    answered = call.messages[-1].role == "tool"
    if not forced and (answered or _NO_TOOLS in call.prompt):
        return ()
    made = []
    for tool, words in _chosen(call, answered=answered):
        drawn = json_for_schema(tool.schema, number=_number(call)) if tool.schema else {}
        values = drawn if isinstance(drawn, dict) else {}
        made.append((tool.name, json.dumps(_with_words(tool, values, words), ensure_ascii=False)))
    distinct = tuple(dict.fromkeys(made))
    if not call.parallel:
        distinct = distinct[:1]
    return tuple(
        ToolCall(_id(call, number), name, arguments)
        for number, (name, arguments) in enumerate(distinct)
    )


def _results_in_words(messages: Sequence[Message]) -> str:
    """A sentence for each result of a tool at the end of a conversation."""
    results = list(takewhile(lambda message: message.role == "tool", reversed(messages)))
    return "\n\n".join(
        f"The tool {m.tool} answered: {m.text[:_RESULT]}{'…' if len(m.text) > _RESULT else ''}"
        for m in reversed(results)
    )


def _cut_calls(calls: Iterable[ToolCall], characters: int) -> tuple[ToolCall, ...]:
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
        # Values next to the tool's name override the values of the whole prompt.
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


def _id(call: Call, number: int) -> str:
    """An id in the form of the provider, the same for the same conversation.

    Mistral's ids have nine letters and digits: github.com/nearai/ironclaw/issues/1241, 2026-03.
    """
    talk = "\x00".join(f"{m.role}{m.text}{m.calls}" for m in call.messages)
    content = f"{call.provider}|{call.model}|{call.seed}|{number}|{talk}"
    digest = hashlib.sha256(content.encode("utf-8", "replace")).digest()
    letters = "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest)
    if call.provider == "mistral":
        return letters[:9]
    if call.provider == "google":
        return letters[:8].lower()
    return f"call_{letters[:24]}"
