"""Earlier prompts of this session, found in IPython's own history of its cells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import PendingReply
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.types import RouteId

from .arguments import HelpWanted, parse_line
from .styles import one_line
from .tables import Cell, table_bundle

if TYPE_CHECKING:
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

_TYPES = {
    "cell": "int64", "prompt": "str", "provider": "object", "key": "object", "model": "object",
}  # fmt: skip
_LONGEST_PROMPT = 80
_CELL = re.compile(r"\s*%%llm\b([^\n]*)\n(.*)", re.DOTALL)
_LINE = re.compile(r"^[ \t]*(?:[^%#\n'\"]*=[ \t]*)?%llm[ \t]+(\S.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Asked:
    """A prompt, the number of its cell, and its reply if the cell's result is one."""

    cell: int
    prompt: str
    reply: Reply | None

    @property
    def route(self) -> RouteId | None:
        """The provider, key and model that answered."""
        return self.reply.route if self.reply is not None else None


def find(shell: InteractiveShell, magic: Any, text: str) -> list[Asked]:
    """The prompts of this session that contain the text, oldest first; case does not matter.

    `magic` is `%llm`, which reads the options before a prompt. The reply is known where it is the
    result of its cell, and has come.
    """
    history: Any = shell.history_manager
    results = shell.user_ns.get("_oh", {})
    found = []
    for number, source in enumerate(history.input_hist_raw):
        prompts = list(_prompts(magic, source))
        result = results.get(number)
        if isinstance(result, PendingReply):
            result = result.wait(0) if result.replied else None
        # A cell with several prompts has the result of its last line.
        reply = result if isinstance(result, Reply) and len(prompts) == 1 else None
        found += [Asked(number, p, reply) for p in prompts if text.lower() in p.lower()]
    return found


def _prompts(magic: Any, source: str) -> Iterator[str]:
    """The prompts of a cell, without their options."""
    if cell := _CELL.match(source):
        yield cell[2].strip("\n")
        return
    for line in _LINE.findall(source):
        try:
            _, text = parse_line(magic, line)
        except (HelpWanted, InvalidRequest):
            continue
        if text.strip():
            yield text


def history_bundle(found: list[Asked]) -> dict[str, str] | str:
    """A row per prompt: its cell, its first line, and the route that answered."""
    if not found:
        return "no prompt of this session contains that"
    rows = [
        (
            Cell(f"{one.cell}", right=True),
            Cell(one_line(one.prompt.strip().partition("\n")[0], _LONGEST_PROMPT), long=True),
            Cell(str(one.route or "")),
        )
        for one in found
    ]
    return table_bundle(("cell", "prompt", "answered by"), rows)


def history_frame(found: list[Asked]) -> pd.DataFrame:
    """A row per prompt, with all its lines: `cell, prompt, provider, key, model`."""
    from .frames import typed_frame

    rows = [(one.cell, one.prompt, *(one.route or (None, None, None))) for one in found]
    return typed_frame(_TYPES, rows)
