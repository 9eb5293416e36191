"""The code in a reply: its fenced blocks, or all of it if it is a program."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from .reasoning import without_reasoning

# A line that opens a fenced block: quotes, indentation and list markers; fence; language.
OPENING = re.compile(r"((?:[ \t>]|[-*+][ \t]|\d{1,9}[.)][ \t])*)(`{3,}|~{3,})(.*)")
_PYTHON = {"python", "python3", "py", "ipython", "ipython3"}


class CodeBlock:
    """A fenced block of a reply: its language, and its code by lines.

    Args:
        prefix: the text before its fence: indentation, list markers, quote signs.
        fence: the backticks or tildes that open it.
        info: the rest of that line, which names the language.
    """

    def __init__(self, prefix: str, fence: str, info: str) -> None:
        self.prefix = prefix
        # Later lines of a list item have spaces in place of the marker.
        self.margin = re.sub(r"[^>\s]", " ", prefix)
        self.fence = fence
        word = re.match(r"\s*([\w+#.-]*)(?=[\s{,:]|$)", info, re.ASCII)
        self.language = word[1] if word else ""
        # JupyterLab draws Mermaid diagrams and loads the pictures they name.
        self.is_diagram = "mermaid" in info.lower()
        self.lines: list[str] = []

    def closes(self, line: str) -> bool:
        """Return whether the line ends the block."""
        # In CommonMark, a fence that is indented by four columns or more, as in a docstring, does
        # not end it (spec.commonmark.org/0.31.2, section 4.5).
        mark = self._inner(line).expandtabs(4)
        indentation = len(mark) - len(mark.lstrip(" "))
        mark = mark.strip()
        return indentation < 4 and len(mark) >= len(self.fence) and not mark.strip(self.fence[0])

    @property
    def code(self) -> list[str]:
        """Its lines without the indentation and quote signs of a list or quote around it."""
        return [self._inner(line) for line in self.lines]

    def _inner(self, line: str) -> str:
        depth = len(self.margin)
        return line[depth:] if not line[:depth].strip(" \t>") else line.lstrip()


def parts_of(text: str) -> list[str | CodeBlock]:
    """Return the text, split into fenced blocks and the text between them."""
    parts: list[str | CodeBlock] = []
    between: list[str] = []
    block: CodeBlock | None = None
    for line in text.split("\n"):
        opening = OPENING.match(line)
        if block is not None:
            if block.closes(line):
                block = None
            else:
                block.lines.append(line)
        elif opening and "`" not in opening[3]:
            block = CodeBlock(opening[1], opening[2], opening[3])
            parts += ["\n".join(between), block] if between else [block]
            between = []
        else:
            between.append(line)
    return [*parts, "\n".join(between)] if between else parts


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """Return the language (in lower case, or "") and the code of each fenced block of a reply."""
    blocks = (part for part in parts_of(text) if isinstance(part, CodeBlock))
    return [(block.language.lower(), "\n".join(block.code).strip("\n")) for block in blocks]


def blocks_of(text: str) -> list[tuple[str, str]]:
    """Return language (in lower case, or "") and code of each fenced block that is not empty.

    Blocks in the model's reasoning do not count.
    """
    return [block for block in fenced_blocks(without_reasoning(text)) if block[1].strip()]


def code_of(text: str) -> tuple[str, str]:
    """Language and source of the code in a reply: its Python if it has any, else its first block's.

    Blocks of the same language are joined; a block without a language may be output of the code. A
    reply without blocks is code if it parses as a Python program; otherwise it has no code. Code in
    the model's reasoning does not count.
    """
    answer, blocks = without_reasoning(text), blocks_of(text)
    if not blocks:
        return ("python", answer.strip("\n")) if _is_python(answer) else ("", "")
    chosen = {language for language, _ in blocks} & _PYTHON or {blocks[0][0]}
    code = "\n\n".join(code for language, code in blocks if language in chosen)
    return "python" if chosen & {"", *_PYTHON} else blocks[0][0], code


_BACKSLASH = re.compile(r"(\\[\\'\"\r\n])|\\")
# "Hello, world", "yes or no" and "Note: this" also parse as Python, but contain only names.
_PROGRAM = (
    ast.Assign, ast.AugAssign, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef,
    ast.ClassDef, ast.For, ast.While, ast.If, ast.With, ast.Try, ast.Assert, ast.Raise, ast.Delete,
    ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Await,
)  # fmt: skip


def _is_python(text: str) -> bool:
    # Python warns about unknown escapes ("\d"), and a filter for warnings would affect all threads.
    text = _BACKSLASH.sub(lambda found: found[1] or r"\\", text)
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    lines = text.encode().splitlines()
    return any(isinstance(node, _PROGRAM) or _is_use(node, lines) for node in nodes)


def _is_use(node: ast.AST, lines: Sequence[bytes]) -> bool:
    """Return whether the node is a call or an index written without a space before the bracket."""
    if isinstance(node, ast.AnnAssign):
        return node.value is not None
    if isinstance(node, ast.Call):
        used: ast.expr = node.func
    elif isinstance(node, ast.Subscript):
        used = node.value
    else:
        return False
    end = used.end_col_offset or 0
    return lines[(used.end_lineno or 1) - 1][end : end + 1] in (b"(", b"[")


def fence_around(text: str) -> str:
    """Return a fence of backticks that no run of backticks in the text can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)
