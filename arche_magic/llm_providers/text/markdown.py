"""Makes a model's Markdown harmless: no HTML, no images, and only links to the web."""

from __future__ import annotations

import html
import re

from .code_blocks import OPENING, CodeBlock, fence_around, parts_of

# A block whose language needs a check: a diagram, or a disguised name.
_ODD_LANGUAGE = re.compile(
    r"^[ \t>*+\-\d.)]*(?:`{3,}+|~{3,}+)[^\n]*?(?:mermaid|[&\\])", re.IGNORECASE | re.MULTILINE
)
CODE_SPAN = re.compile(r"(?<![`\\])(`+)(?!`)([^\n]*?[^`\n])\1(?!`)")
# The start of a link's address, unless it is clearly on the web, an e-mail or in this page.
_ADDRESS = re.compile(r"(\]\s*+)([(:])(?!\s*+(?:https?://|mailto:|#))", re.IGNORECASE)
_IMAGE = re.compile(
    r"!\[([^\[\]\n]{0,300})\]\([ \t]*(https?://([\w.-]{1,100}(?::\d{1,5})?)(?:[/?#][^\s()<>]{0,2000})?)"
    r"(?:[ \t]+(?:\"[^\"\n]{0,300}\"|'[^'\n]{0,300}'))?[ \t]*\)",
    re.ASCII | re.IGNORECASE,
)
# A TeX command. Frontends look for them after they have resolved entities.
_COMMAND = re.compile(
    r"(\\|&(?:#0*92|#x0*5c|bsol);?)((?:[a-z]|&#(?:\d+|x[0-9a-f]+);?)+)", re.IGNORECASE
)
# Links, styles and extensions of MathJax, and definitions. Definitions apply to the whole page, so
# one reply could change the formulas of another.
_ACTING_COMMANDS = {
    "href", "url", "require", "includegraphics", "class", "cssId", "style", "data", "bbox",
    "mmlToken", "unicode", "tooltip", "texttip", "mathtip", "toggle", "setOptions", "htmlClass",
    "htmlId", "htmlStyle", "htmlData", "input", "include", "def", "gdef", "edef", "xdef", "let",
    "futurelet", "newcommand", "renewcommand", "providecommand", "newenvironment",
    "renewenvironment", "DeclareMathOperator", "DeclarePairedDelimiter",
    "DeclarePairedDelimiters", "newtagform", "renewtagform", "csname", "catcode",
}  # fmt: skip
# Frontends need quadratic time for these, per paragraph and per text, if they are not closed.
_EMPHASIS = re.compile(r"\*+|_+|~+")
_MOST_EMPHASIS, _MOST_ENVIRONMENTS = 500, 100
_BLANK_LINE = re.compile(r"(\n[ \t>]*\n)")
_LONGEST = 200_000
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
# A sign, with the backslash before it that escapes it. A backslash may be escaped itself.
_ESCAPE = r"(?<!\\)((?:\\\\)*)\\?"
_TAG = re.compile(_ESCAPE + "<")
_ESCAPED_IMAGE = re.compile(r"(?<!\\)((?:\\\\)*)\\!\[")
_MARKS = re.compile(_ESCAPE + "([*_~])")
# JupyterLab compares each part of each run of backticks with the rest of the line.
_BACKTICKS = re.compile("`+")
_MOST_STEPS = 100_000_000

# Frontends treat any two dollar signs in a paragraph as a formula, so "It costs $5 to $10" becomes
# unreadable. This follows Pandoc's rule (pandoc.org/MANUAL.html, extension `tex_math_dollars`): no
# space inside the dollar signs, and no digit after the second one. Models also write formulas as
# `\(…\)` and `\[…\]`, which Markdown reads as escaped brackets.
# Lengths are bounded, so that unclosed openings cost linear time.
_FORMULA = (
    r"(?<!\\)\$\$.{1,1000}?(?<!\\)\$\$"
    # "$5 and 6$" starts like a price and continues with a word.
    r"|(?<![\\$\w])\$(?![\s$]|\d[\d.,]*\s[A-Za-z]{2})(?:\\\$|[^$\n]){1,500}?(?<![\s\\])\$"
    # "the $n$th" ends with a suffix. "$a/$b" are shell variables.
    r"(?=(?:th|st|nd|rd|s)\b|[^\w$]|\Z)"
    r"|\\\\\(.{1,500}?\\\\\)|\\\\\[.{1,1000}?\\\\\]"
    r"|\\begin\{(?P<name>\w+\*?)\}.{1,1000}?\\end\{(?P=name)\}"
)
FORMULA = re.compile(_FORMULA, re.DOTALL)
_BRACKETS = re.compile(
    r"(?<!\\)\\\((?P<inline>(?:[^$\n\\]|\\[^)\n]|\n(?![ \t]*\n)){1,500}?)\\\)"
    r"|(?<!\\)\\\[(?P<display>(?:[^$\n\\]|\\[^\]\n]|\n(?![ \t]*\n)){1,1000}?)\\\](?!\s*[(\[:])"
)
# A formula, the address of a link, or a dollar sign with an optional backslash before it.
_DOLLAR = re.compile(rf"{_FORMULA}|\]\([^\s()]*\)|https?://\S+|(?P<dollar>\\?\$)", re.DOTALL)
# What opens a formula in some frontends. If it stays open, it swallows the rest.
_OPENING = re.compile(r"\$\$|\\begin\{|\\\\\[")
# The element hides the sign from MathJax, which reads the page. The entity hides it from frontends
# that search the Markdown for formulas.
_PLAIN_DOLLAR = "<span>&#36;</span>"


def harmless_markdown(text: str) -> str:
    r"""Markdown that shows HTML as text, images as links, and code unchanged.

    Markdown dialects disagree on where code begins and ends, so this does not rely on one of them.
    A code span, or a block inside a list or quote, becomes `<code>` with every sign written as an
    entity. Only a fenced block at the start of a line stays a fenced block, which keeps its
    colours; it is separated so that all dialects agree on it. Display math can swallow such fences
    (`$$` in nbconvert), so in a text with display math, these blocks become `<code>` too.

    Text that would slow down a frontend is shown as source: hundreds of emphasis marks in one
    paragraph, or a whole text with more than 200,000 characters or too many runs of backticks.
    """
    if _tangled(text):
        return f"<pre><code>{_spelled(text)}\n</code></pre>"
    if len(text) > _LONGEST:
        return _fenced("", "", text.split("\n"))
    dollars = text.count("$") > 1
    if not dollars and _plain(text) == text == _calm(text) and not _ODD_LANGUAGE.search(text):
        return text
    parts = parts_of(text)
    colours = not any(has_open_formula(part) for part in parts if isinstance(part, str))
    return "\n".join(
        _inline(_calm(_without_fences(part)), dollars)
        if isinstance(part, str)
        else _shown_block(part, colours)
        for part in parts
    )


def _tangled(text: str) -> bool:
    """Return whether it would take long to find out which backticks belong together."""
    if "`" not in text:
        return False
    lines = text.split("\n")
    steps = (len(line) * sum(len(run) ** 2 for run in _BACKTICKS.findall(line)) for line in lines)
    return sum(steps) > _MOST_STEPS


def _fenced(prefix: str, language: str, lines: list[str]) -> str:
    """Return a fenced block, separated so that all dialects agree on its lines."""
    fence = fence_around("\n".join(lines))
    margin = " " * len(prefix)
    inner = [margin + line for line in (*lines, fence)]
    return "\n".join(["", prefix + fence + language, *inner, ""])


def _shown_block(block: CodeBlock, colours: bool) -> str:
    """Return a block as a separate fence, or as `<code>`."""
    if not block.prefix.strip(" -*+.)0123456789") and colours:
        return _fenced(block.prefix, "" if block.is_diagram else block.language, block.code)
    depth = len(block.margin)
    code = [block.margin + _spelled(line) for line in block.code]
    first = code[0][depth:] if code else ""
    rest = "".join("\n" + line for line in code[1:])
    return f"{block.prefix}<pre><code>{first}{rest}\n{block.margin}</code></pre>"


def _without_fences(text: str) -> str:
    """Return text outside fenced blocks, in which everything that looks like a fence is escaped."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if opening := OPENING.match(line):
            lines[number] = opening[1] + _spelled(line[len(opening[1]) :])
    return "\n".join(lines)


def _inline(text: str, dollars: bool) -> str:
    """Clean text outside fenced blocks; `dollars`: whether the reply has enough for a formula."""
    pieces: list[str] = []

    def add(prose: str) -> None:
        plain = _plain(prose)
        if dollars:
            # Dollar signs that do not delimit a formula.
            plain = _DOLLAR.sub(lambda sign: _PLAIN_DOLLAR if sign["dollar"] else sign[0], plain)
        pieces.append(plain)

    end = 0
    for span in CODE_SPAN.finditer(text):
        add(text[end : span.start()])
        harmless = _plain(span[0]) == span[0]
        pieces.append(span[0] if harmless else f"<code>{_spelled(span[2].strip(' '))}</code>")
        end = span.end()
    add(text[end:])
    return "".join(pieces)


def _plain(text: str) -> str:
    """Return text without HTML, images, active TeX, and links that do not lead to the web."""
    text = FORMULA.sub(_formula, with_dollar_formulas(text))
    text = harmless_formula(text)
    text = _ESCAPED_IMAGE.sub(r"\1&#33;[", _TAG.sub(r"\1&lt;", text))
    text = _IMAGE.sub(
        lambda image: f"[image: {image[1] or 'without a title'} ({image[3]})]({image[2]})", text
    )
    text = text.replace("![", "&#33;[")
    return _ADDRESS.sub(_as_entity, text)


def _shown_command(match: re.Match[str]) -> str:
    # A backslash and a space is a harmless command, and the name stays readable.
    disguised = len(match[1]) > 1 or "&" in match[2]
    shown = disguised or html.unescape(match[2]) in _ACTING_COMMANDS
    return f"{match[1]} {match[2]}" if shown else match[0]


def _calm(text: str) -> str:
    """Return the text, in which signs that cost frontends quadratic time are escaped."""
    if text.count("\\begin") > _MOST_ENVIRONMENTS:
        text = text.replace("\\begin", "\\ begin")
    paragraphs = _BLANK_LINE.split(text)
    for number, paragraph in enumerate(paragraphs):
        if len(_EMPHASIS.findall(paragraph)) > _MOST_EMPHASIS:
            paragraphs[number] = _MARKS.sub(_as_entity, paragraph)
    return "".join(paragraphs)


def _as_entity(match: re.Match[str]) -> str:
    return f"{match[1]}&#{ord(match[2])};"


def harmless_formula(tex: str) -> str:
    """Return a formula without active commands. The caller has to escape HTML in it."""
    return _COMMAND.sub(_shown_command, tex)


def _formula(match: re.Match[str]) -> str:
    # TeX has no entities, but it has a name for the sign, and empty groups.
    text = _TAG.sub(r"\1\\lt ", match[0]).replace("![", "!{}[")
    return _ADDRESS.sub(r"\1{}\2", text)


def _spelled(code: str) -> str:
    """Code with every sign written as an entity, so that no Markdown is left."""
    return _PUNCTUATION.sub(lambda sign: f"&#{ord(sign[0])};", code)


def with_dollar_formulas(text: str) -> str:
    r"""Write `\(…\)` as `$…$` and `\[…\]` as `$$…$$`, which every frontend reads."""
    return _BRACKETS.sub(_in_dollars, text) if "\\" in text else text


def _in_dollars(match: re.Match[str]) -> str:
    if (display := match["display"]) is not None:
        # \[1\], \[x\] and \[sic\] are escaped brackets.
        is_formula = "\n" in display or re.search(r"[\\^_=<>+*/-]", display)
        return f"$${display}$$" if is_formula else match[0]
    formula = " ".join(match["inline"].split())
    return f"${formula}$" if formula else match[0]


def has_formula(text: str) -> bool:
    """Return whether a reply contains a formula."""
    return FORMULA.search(with_dollar_formulas(text)) is not None


def has_open_formula(text: str) -> bool:
    """Return whether a display formula is opened and not closed in its paragraph."""
    rest = FORMULA.sub(lambda match: match[0] if _BLANK_LINE.search(match[0]) else "", text)
    return _OPENING.search(rest) is not None
