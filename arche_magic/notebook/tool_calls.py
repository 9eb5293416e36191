"""`--tools`: the functions that a cell names, and a line for each call of them."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from arche_magic.llm_providers import ToolCall, ToolRun
from arche_magic.llm_providers.reply import Reply

from .styles import QUIET, RED, one_line

# Characters of a call's line, and of its arguments and result when it is unfolded.
_LONGEST_CALL, _LONGEST_RESULT, _LONGEST_PART = 120, 80, 2_000
_PART = "white-space:pre-wrap;overflow-wrap:anywhere;margin:2px 0 2px 14px;font-size:95%"


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
