"""The formats of a reply: `-f markdown`, `text`, `code`, `json`, `html-source`, `math`."""

from __future__ import annotations

import json
import re

from arche_magic.llm_providers.text.characters import whole_characters, without_controls
from arche_magic.llm_providers.text.code_blocks import (
    code_of,
    fence_around,
    fenced_blocks,
    parts_of,
)
from arche_magic.llm_providers.text.json_values import json_in
from arche_magic.llm_providers.text.markdown import harmless_markdown, has_formula
from arche_magic.llm_providers.text.reasoning import without_reasoning

# The form of a reply to a prompt with a schema, which `-f` does not take.
STRUCTURED = "structured"
# These patterns take linear time.
_DISPLAY = re.compile(r"(?<!\\)\\\[((?:(?!\\\[).)+?)\\\]", re.DOTALL)
# Four words in a row without a sign of TeX: a sentence.
_SENTENCE = re.compile(r"(?<![^\W\d_])(?:[^\W\d_]{2,}[,;:]?[ \n]+){3}[^\W\d_]{2,}")
_TEX_SIGN = re.compile(r"[\\^_=<>]")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")


def reply_bundle(text: str, form: str = "markdown", complete: bool = True) -> dict[str, str]:
    """A reply for every frontend, harmless whatever the model has written.

    `text/plain` is for frontends without Markdown. A reply that is not `complete` yet is shown as
    Markdown until its code block starts.
    """
    clean = without_controls(text)
    if form in ("text", STRUCTURED):
        return {"text/plain": clean}
    if form == "math":
        return {"text/plain": clean, "text/markdown": harmless_markdown(_in_dollars(clean))}
    if form == "markdown" or (not complete and not fenced_blocks(without_reasoning(clean))):
        return {"text/plain": clean, "text/markdown": harmless_markdown(clean)}
    if form == "code":
        language, code = code_of(clean)
        if not code:
            return reply_bundle(clean)
    else:
        language, code = form.removesuffix("-source"), _inner(without_reasoning(clean))
        if form == "json" and complete:
            code = _json_in(clean) or code
    fence = fence_around(code)
    block = harmless_markdown(f"{fence}{language}\n{code}\n{fence}")
    return {"text/plain": code, "text/markdown": block}


def is_prose(text: str) -> bool:
    """Whether a reply that should be a formula has sentences and nothing that looks like TeX."""
    answer = without_reasoning(text)
    return not (_TEX_SIGN.search(answer) or has_formula(answer)) and bool(_SENTENCE.search(answer))


def is_json(text: str) -> bool:
    """Whether there is JSON in the reply."""
    return _json_in(text) is not None


def _json_in(text: str) -> str | None:
    """The JSON in a reply, indented: all of it, a block, or the object at its end; else None."""
    answer = without_reasoning(text)
    blocks = sorted(fenced_blocks(answer), key=lambda block: not block[0].startswith("json"))
    readings = [(json.loads, answer), *((json.loads, code) for _, code in blocks), (json_in, text)]
    for read, candidate in readings:
        try:
            value = read(candidate)
        except (ValueError, RecursionError):
            continue
        return whole_characters(json.dumps(value, indent=2, ensure_ascii=False))
    return None


def _in_dollars(text: str) -> str:
    """The reply with dollar signs around its formulas.

    A reply without any is one formula, except a sentence.
    """
    answer = without_reasoning(text)
    if has_formula("\n".join(part for part in parts_of(answer) if isinstance(part, str))):
        return answer
    # In this format brackets always enclose formulas.
    inner = _DISPLAY.sub(lambda match: f"$${match[1]}$$", _inner(answer)).strip()
    if has_formula(inner):
        return inner
    if is_prose(answer):
        return answer
    # A blank line ends a formula.
    return "\n\n".join(f"$$\n{part.strip()}\n$$" for part in _BLANK_LINES.split(inner))


def _inner(text: str) -> str:
    """The content of the first block, or the text itself if it has no block."""
    return next((code for _, code in fenced_blocks(text) if code), text.strip())
