"""`--tools`: the functions that a cell names, and a line for each call of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from arche_magic.llm_providers import Function, ToolCall, ToolRun
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.text.hints import did_you_mean

from .structured import attribute_of
from .styles import QUIET, RED, one_line

# Characters of a call's line, and of its arguments and result when it is unfolded.
_LONGEST_CALL, _LONGEST_RESULT, _LONGEST_PART = 120, 80, 2_000
_PART = "white-space:pre-wrap;overflow-wrap:anywhere;margin:2px 0 2px 14px;font-size:95%"


def functions_named(text: str, names: Mapping[str, Any]) -> list[Function]:
    """The functions that `--tools TEXT` names, such as `lookup,db.query`.

    A model calls each by its last name: `lookup` and `query`.

    Raises:
        InvalidRequest: there is no such variable, it is not a function, or it cannot be a tool.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise InvalidRequest("%llm: --tools takes names of functions, such as f,g")
    return [_function(word, names) for word in words]


def _function(word: str, names: Mapping[str, Any]) -> Function:
    first = word.partition(".")[0]
    if first not in names:
        fitting = [name for name, value in names.items() if callable(value)]
        raise InvalidRequest(
            f"%llm: --tools {word!r} is not a variable{did_you_mean(first, fitting)}"
        )
    value = attribute_of(word, names, "--tools")
    if not callable(value):
        kind = type(value).__name__
        raise InvalidRequest(f"%llm: --tools {word!r} is of type {kind}; it must be a function")
    return Function.of(value, word.rpartition(".")[2])


def call_line(call: ToolCall) -> str:
    """`lookup(city="Oslo", days=3)`."""
    try:
        arguments = json.loads(call.arguments or "{}")
        shown = ", ".join(f"{name}={_json(value)}" for name, value in arguments.items())
    except (ValueError, AttributeError, RecursionError):
        shown = call.arguments
    return one_line(f"{call.name}({shown})", _LONGEST_CALL)


def run_bundle(run: ToolRun) -> dict[str, str]:
    """A call and its result: a grey line that unfolds to all of both."""
    line = call_line(run.call)
    result = one_line(run.result, _LONGEST_RESULT)
    error = "error: " if run.failed else ""
    mark = f'<b style="color:{RED}">error</b>: ' if run.failed else ""
    parts = [f"{run.call.name}({run.call.arguments})", run.result, f"{run.seconds:.2f} s"]
    inside = "".join(f'<pre style="{_PART}">{escape(_shortened(part))}</pre>' for part in parts)
    return {
        "text/plain": f"{line} → {error}{result}",
        "text/html": (
            f'<details style="{QUIET}"><summary style="cursor:pointer">'
            f"<code>{escape(line)}</code> → {mark}<code>{escape(result)}</code></summary>"
            f"{inside}</details>"
        ),
    }


def rounds_text(reply: Reply) -> str:
    """`3 rounds, 2 calls`, or "" if no function was called for this reply."""
    if not reply.tool_runs:
        return ""
    calls = len(reply.tool_runs)
    return f"{reply.tool_runs[-1].round + 1} rounds, {calls} call{'s' if calls > 1 else ''}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST_PART:
        return text
    return f"{text[:_LONGEST_PART]}\n[the first {_LONGEST_PART:,} of {len(text):,} characters]"
