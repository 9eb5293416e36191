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
# A fenced block; one that is not closed goes on to the end.
_BLOCK = re.compile(
    r"^[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[`~]*[ \t]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)
_MATH = re.compile(r"\$|\\\(|\\\[|\\begin\{")


def bundle(text: str, form: str = "markdown", complete: bool = True) -> dict[str, str]:
    """A reply for every frontend, harmless whatever the model wrote.

    `text/plain` holds what a reader without Markdown is to see. A reply that is not `complete` yet
    is shown as Markdown until its block begins.
    """
    from arche_magic.llm_providers.markdown import harmless_markdown, without_controls

    clean = without_controls(text)
    if form == "text":
        return {"text/plain": clean}
    if form == "math":
        formula = clean if _MATH.search(clean) else f"$$\n{_inner(clean).strip()}\n$$"
        return {"text/plain": clean, "text/markdown": harmless_markdown(formula)}
    if form == "markdown" or (not complete and not _BLOCK.search(clean)):
        return {"text/plain": clean, "text/markdown": harmless_markdown(clean)}
    if form == "code":
        language, code = code_of(clean)
        if not code:
            return bundle(clean)
    else:
        language, code = form.removesuffix("-source"), _inner(clean)
        code = _indented(code) if form == "json" else code
    return {"text/plain": code, "text/markdown": harmless_markdown(_fenced(code, language))}


def code_of(text: str) -> tuple[str, str]:
    """Language and source of the code in a reply: its Python if it has any, else its first block's.

    Blocks of the same language are joined. A reply without any block is code itself if Python can
    read it; otherwise it has none.
    """
    blocks = [(match[2].lower(), match[3].strip("\n")) for match in _BLOCK.finditer(text)]
    if not blocks:
        return ("python", text.strip("\n")) if _is_python(text) else ("", "")
    languages = {language for language, _ in blocks}
    chosen = languages & set(_PYTHON) or {blocks[0][0]}
    code = "\n\n".join(code for language, code in blocks if language in chosen)
    return "python" if chosen & set(_PYTHON) else blocks[0][0], code


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def is_json(text: str) -> bool:
    """Whether the reply, out of its block, is JSON."""
    try:
        json.loads(_inner(text))
    except (ValueError, RecursionError):
        return False
    return True


def _inner(text: str) -> str:
    """What the first block holds; the text itself if it has none."""
    block = _BLOCK.search(text)
    return block[3].strip("\n") if block else text.strip()


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _fenced(code: str, language: str) -> str:
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"
