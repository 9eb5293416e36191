"""Lines that end in a question mark: `%llm What is a token bucket?` is sent, not looked up.

In IPython a question mark at the end of a line asks for help on the word before it, also in the
line of a magic. After a prompt it is part of the prompt; `%llm?` alone still shows the help.
"""

from __future__ import annotations

import tokenize
from typing import TYPE_CHECKING, Any, Self

from IPython.core.inputtransformer2 import EscapedCommand, HelpEnd, MagicAssign

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_ASKING = ("llm", "llm_explain")
_LAYOUT = (tokenize.INDENT, tokenize.DEDENT)


class _Question(EscapedCommand):
    """Recognises `%llm TEXT?` as a magic before IPython takes it for a request for help."""

    priority = HelpEnd.priority - 1

    @classmethod
    def find(cls, tokens_by_line: list[list[Any]]) -> Self | None:
        """The first such line of a cell."""
        for line in tokens_by_line:
            start = next((n for n, token in enumerate(line) if token.type not in _LAYOUT), 0)
            if _asks(line, start):
                return cls(line[start].start)
        return None


class _AssignedQuestion(MagicAssign):
    """Recognises `name = %llm TEXT?` in the same way."""

    priority = HelpEnd.priority - 1

    @classmethod
    def find(cls, tokens_by_line: list[list[Any]]) -> Self | None:
        """The first such line of a cell."""
        for line in tokens_by_line:
            equals = next((n for n, token in enumerate(line) if token.string == "="), None)
            if equals is not None and _asks(line, equals + 1):
                return cls(line[equals + 1].start)
        return None

    def __init__(self, start: tuple[int, int]) -> None:
        super().__init__(start)
        # IPython takes the transformer that starts first; help starts at the line's beginning.
        self._magic_column, self.start_col = self.start_col, 0

    def transform(self, lines: list[str]) -> list[str]:
        """The cell's lines with the call in place of the magic."""
        self.start_col = self._magic_column
        transformed: list[str] = super().transform(lines)
        return transformed


def register(shell: InteractiveShell) -> None:
    """Let lines of our magics end in a question mark."""
    shell.input_transformer_manager.token_transformers += [_Question, _AssignedQuestion]


def unregister(shell: InteractiveShell) -> None:
    """Undo `register`."""
    transformers = shell.input_transformer_manager.token_transformers
    transformers[:] = [one for one in transformers if one not in (_Question, _AssignedQuestion)]


def _asks(line: list[Any], start: int) -> bool:
    """Whether one of our magics starts there, followed by a text that ends in a question mark."""
    words = [token.string for token in line[start : start + 3]]
    if len(words) < 3 or words[0] != "%" or words[1] not in _ASKING or words[2].startswith("?"):
        return False
    # The last token is the end of the line.
    return bool(line[-2].string == "?")
