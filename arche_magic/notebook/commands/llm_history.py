"""`%llm_history`: earlier prompts of this session, found in IPython's own history of its cells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..arguments import parse_line
from ..command import Session, Shown, Typed, command
from .llm import llm

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from arche_magic.llm_providers.types import RouteId

_TYPES = {
    "cell": "int64", "prompt": "str", "provider": "object", "key": "object", "model": "object",
}  # fmt: skip
_LONGEST_PROMPT = 80
_CELL = re.compile(r"\s*%%llm\b([^\n]*)\n(.*)", re.DOTALL)
_LINE = re.compile(r"^[ \t]*(?:[^%#\n'\"]*=[ \t]*)?%llm[ \t]+(\S.*)$", re.MULTILINE)


@command()
def llm_history(session: Session, typed: Typed) -> Shown:
    """Find earlier prompts of this session, and return them as a DataFrame.

    It searches the cells that ran since the kernel started, which IPython keeps; nothing else is
    stored. It knows the route only if the reply is the result of the cell (`Out`).

    Usage:
      %llm_history [TEXT]    a part of the prompt; without it, all prompts

    Examples:
      %llm_history
      %llm_history token bucket
    """
    from ..frames import typed_frame
    from ..keys import without_keys
    from ..styles import one_line, table_bundle

    words = typed.text.strip()
    found = [
        (cell, without_keys(prompt), route) for cell, prompt, route in _find(session.shell, words)
    ]
    rows = [
        (
            f"{cell}",
            one_line(prompt.strip().partition("\n")[0], _LONGEST_PROMPT),
            str(route or ""),
        )
        for cell, prompt, route in found
    ]
    none = "no prompt yet"
    if words:
        none = without_keys(f"no prompt of this session contains {words!r}")
    heads = ("cell", "prompt", "answered by")
    shown = table_bundle(heads, rows, right=["cell"], long=["prompt"]) if rows else none
    values = [(cell, prompt, *(route or (None, None, None))) for cell, prompt, route in found]
    return shown, typed_frame(_TYPES, values)


def _find(shell: InteractiveShell, text: str) -> Iterator[tuple[int, str, RouteId | None]]:
    """The prompts of this session that contain the text, oldest first; case does not matter.

    Each comes with the number of its cell, and with the route of its reply if that is known.
    """
    from arche_magic.llm_providers import PendingReply
    from arche_magic.llm_providers.reply import Reply

    history: Any = shell.history_manager
    results = shell.user_ns.get("_oh", {})
    for number, source in enumerate(history.input_hist_raw):
        prompts = list(_prompts(source))
        result = results.get(number)
        if isinstance(result, PendingReply):
            result = result.wait(0) if result.replied else None
        # A cell with several prompts has the result of its last line.
        route = result.route if isinstance(result, Reply) and len(prompts) == 1 else None
        for prompt in prompts:
            if text.lower() in prompt.lower():
                yield number, prompt, route


def _prompts(source: str) -> Iterator[str]:
    """The prompts of a cell, without their options."""
    from arche_magic.llm_providers.errors import InvalidRequest

    if cell := _CELL.match(source):
        if cell[2].strip():
            yield cell[2].strip("\n")
        return
    # A backslash at its end continues a line.
    for line in _LINE.findall(re.sub(r"\\\n\s*", " ", source)):
        try:
            parsed = parse_line(llm, line)
        except InvalidRequest:
            continue
        if parsed is not None and parsed[1].strip():
            yield parsed[1]
