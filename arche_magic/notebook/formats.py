"""How a reply is shown: `-f markdown`, `text`, `code`, `json`, `html-source`, `math`.

The magics take their choices from here when they load, so nothing of the engine is imported yet.
"""

from __future__ import annotations

import ast
import json
import re

# What the model is asked for in each format, said at the end of the system prompt.
ASKS = {
    "markdown": "",
    "text": "Answer in plain text, without Markdown.",
    "code": "Answer with source code only, in one fenced code block.",
    "json": "Answer with JSON only.",
    "html-source": "Answer with the source of an HTML document or fragment only.",
    "math": "Answer with LaTeX formulas only, without a document around them.",
}
FORMATS = tuple(ASKS)
_PYTHON = ("", "python", "python3", "py", "ipython", "ipython3")


def bundle(text: str, form: str = "markdown", complete: bool = True) -> dict[str, str]:
    """A reply for every frontend, harmless whatever the model wrote.

    `text/plain` holds what a reader without Markdown is to see. A reply that is not `complete` yet
    is shown as Markdown until its block begins.
    """
    from arche_magic.llm_providers.formulas import has_formula
    from arche_magic.llm_providers.markdown import (
        fenced_blocks,
        harmless_markdown,
        without_controls,
    )
    from arche_magic.llm_providers.reasoning import without_reasoning

    clean = without_controls(text)
    if form == "text":
        return {"text/plain": clean}
    if form == "math":
        formula = (
            clean if has_formula(clean) else f"$$\n{_inner(without_reasoning(clean)).strip()}\n$$"
        )
        return {"text/plain": clean, "text/markdown": harmless_markdown(formula)}
    if form == "markdown" or (not complete and not fenced_blocks(without_reasoning(clean))):
        return {"text/plain": clean, "text/markdown": harmless_markdown(clean)}
    if form == "code":
        language, code = code_of(clean)
        if not code:
            return bundle(clean)
    else:
        language, code = form.removesuffix("-source"), _inner(without_reasoning(clean))
        code = _indented(code) if form == "json" else code
    return {"text/plain": code, "text/markdown": harmless_markdown(_fenced(code, language))}


def code_of(text: str) -> tuple[str, str]:
    """Language and source of the code in a reply: its Python if it has any, else its first block's.

    Blocks of the same language are joined. A reply without any block is code itself if it reads
    as a Python program; otherwise it has none. Code in the model's reasoning does not count.
    """
    from arche_magic.llm_providers.markdown import fenced_blocks
    from arche_magic.llm_providers.reasoning import without_reasoning

    answer = without_reasoning(text)
    blocks = fenced_blocks(answer)
    if not blocks:
        return ("python", answer.strip("\n")) if _is_python(answer) else ("", "")
    languages = {language for language, _ in blocks}
    chosen = languages & set(_PYTHON) or {blocks[0][0]}
    code = "\n\n".join(code for language, code in blocks if language in chosen)
    return "python" if chosen & set(_PYTHON) else blocks[0][0], code


# "Hello, world", "yes or no" and "Note: this" are valid Python, too: names alone are no program.
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
    """Whether something is called or indexed as code writes it: no space before the bracket."""
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


def is_json(text: str) -> bool:
    """Whether the reply, out of its block, is JSON."""
    from arche_magic.llm_providers.reasoning import without_reasoning

    try:
        json.loads(_inner(without_reasoning(text)))
    except (ValueError, RecursionError):
        return False
    return True


def _inner(text: str) -> str:
    """What the first block holds; the text itself if it has none."""
    from arche_magic.llm_providers.markdown import fenced_blocks

    return next((code for _, code in fenced_blocks(text)), text.strip())


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _fenced(code: str, language: str) -> str:
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"
