"""The code in a reply: its fenced blocks, or all of it if it is a program."""

from __future__ import annotations

import ast

from .markdown import fenced_blocks
from .reasoning import without_reasoning

_PYTHON = {"python", "python3", "py", "ipython", "ipython3"}


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


# "Hello, world", "yes or no" and "Note: this" parse as Python too, but only have names.
_PROGRAM = (
    ast.Assign, ast.AugAssign, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef,
    ast.ClassDef, ast.For, ast.While, ast.If, ast.With, ast.Try, ast.Assert, ast.Raise, ast.Delete,
    ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Await,
)  # fmt: skip


def _is_python(text: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, _PROGRAM) or _is_use(node, text) for node in nodes)


def _is_use(node: ast.AST, text: str) -> bool:
    """Return whether the node is a call or an index written without a space before the bracket."""
    if isinstance(node, ast.AnnAssign):
        return node.value is not None
    if isinstance(node, ast.Call):
        used: ast.expr = node.func
    elif isinstance(node, ast.Subscript):
        used = node.value
    else:
        return False
    source = ast.get_source_segment(text, node) or ""
    name = ast.get_source_segment(text, used) or ""
    return source[len(name) : len(name) + 1] in ("(", "[")
