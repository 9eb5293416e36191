"""A model's Markdown made harmless: no HTML, no images, no links but to the web."""

from __future__ import annotations

import re

# Terminal escapes, and controls that reorder the text around them.
_CONTROLS = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)
_LINE_ENDS = re.compile(r"\r\n?|[\u2028\u2029]")
# A line that opens a fenced block: its quotes, indentation and list markers; fence; language.
_OPENING = re.compile(r"((?:[ \t>]|[-*+][ \t]|\d{1,9}[.)][ \t])*)(`{3,}|~{3,})(.*)")
_CODE_SPAN = re.compile(r"(?<![`\\])(`+)(?!`)([^\n]*?[^`\n])\1(?!`)")
# The start of a link's address, unless that is plainly on the web, an e-mail or in this page.
_ADDRESS = re.compile(r"(\]\s*+)([(:])(?!\s*+(?:https?://|mailto:|#))", re.IGNORECASE)
_MATH = re.compile(r"\$\$|\\begin\{|\\\\\[")
# Bounded, so that openings without an end cost no more than their number.
_FORMULA = re.compile(
    r"(?<!\\)\$\$.{1,1000}?(?<!\\)\$\$"
    r"|(?<![\\$\w])\$(?![\s$])[^$\n]{1,500}?(?<![\s\\])\$(?![\w$])"
    r"|\\\\\(.{1,500}?\\\\\)|\\\\\[.{1,1000}?\\\\\]"
    r"|\\begin\{(\w+\*?)\}.{1,1000}?\\end\{\1\}",
    re.DOTALL,
)
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")


def without_controls(text: str) -> str:
    """Text without terminal escapes, control characters and marks that reorder it."""
    return _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))


def harmless_markdown(text: str) -> str:
    r"""Markdown that shows HTML as text and images as links, code as it is written.

    Markdown dialects disagree on where code begins and ends, so nothing rests on guessing it: a
    code span, or a block inside a list or quote, becomes `<code>` with every sign spelled as an
    entity. Only a fenced block at the start of a line stays one, for its colours, set off so that
    no dialect disputes it. Display math can swallow such fences (`$$` in nbconvert); in a text
    that has any, these blocks are spelled out too.
    """
    if _plain(text) == text:
        return text
    parts = _parts(text)
    colours = not any(_MATH.search(part) for part in parts if isinstance(part, str))
    return "\n".join(
        _inline(part) if isinstance(part, str) else part.markdown(colours) for part in parts
    )


class _Block:
    """A fenced block: what stands before its fence on a line, its language, its lines."""

    def __init__(self, prefix: str, fence: str, info: str) -> None:
        self.prefix = prefix
        self.fence = fence
        word = re.match(r"\s*([\w+#.-]*)", info, re.ASCII)
        self.language = word[1] if word else ""
        self.lines: list[str] = []

    def closes(self, line: str) -> bool:
        """Whether the line ends the block in any dialect."""
        mark = line.strip(" \t>")
        return len(mark) >= len(self.fence) and not mark.strip(self.fence[0])

    def markdown(self, colours: bool) -> str:
        """The block again, as a fence with room around it or spelled out."""
        if not self.prefix and colours:
            longest = max((len(run) for run in re.findall("`+", "\n".join(self.lines))), default=0)
            fence = "`" * max(3, longest + 1)
            return "\n".join(["", fence + self.language, *self.lines, fence, ""])
        # Later lines of a list item are indented where the first has its marker.
        margin = re.sub(r"[^>\s]", " ", self.prefix)
        depth = len(margin)
        code = [
            margin + _spelled(line[depth:] if not line[:depth].strip(" \t>") else line.lstrip())
            for line in self.lines
        ]
        first = code[0][depth:] if code else ""
        rest = "".join("\n" + line for line in code[1:])
        return f"{self.prefix}<pre><code>{first}{rest}\n{margin}</code></pre>"


def _parts(text: str) -> list[str | _Block]:
    """The text cut into fenced blocks and what stands between them."""
    parts: list[str | _Block] = []
    between: list[str] = []
    block: _Block | None = None
    for line in text.split("\n"):
        opening = _OPENING.match(line)
        if block is not None:
            if block.closes(line):
                block = None
            else:
                block.lines.append(line)
        elif opening and "`" not in opening[3]:
            block = _Block(opening[1], opening[2], opening[3])
            parts += ["\n".join(between), block] if between else [block]
            between = []
        elif opening:
            # No dialect's fence has backticks behind it, but one may differ: leave it no fence.
            between.append(opening[1] + _spelled(line[len(opening[1]) :]))
        else:
            between.append(line)
    return [*parts, "\n".join(between)] if between else parts


def _inline(text: str) -> str:
    """Text outside fenced blocks."""
    pieces: list[str] = []
    end = 0
    for span in _CODE_SPAN.finditer(text):
        pieces.append(_plain(text[end : span.start()]))
        harmless = _plain(span[0]) == span[0]
        pieces.append(span[0] if harmless else f"<code>{_spelled(span[2].strip(' '))}</code>")
        end = span.end()
    pieces.append(_plain(text[end:]))
    return "".join(pieces)


def _plain(text: str) -> str:
    """Text without HTML, images and links that are not to the web."""
    text = _FORMULA.sub(_formula, text)
    text = text.replace("<", "&lt;").replace("![", "&#33;[")
    return _ADDRESS.sub(_spell_address, text)


def _formula(match: re.Match[str]) -> str:
    # TeX knows no entities, but a name for the sign, and groups with nothing in them.
    text = match[0].replace("<", "\\lt ").replace("![", "!{}[")
    return _ADDRESS.sub(r"\1{}\2", text)


def _spell_address(match: re.Match[str]) -> str:
    return f"{match[1]}&#{ord(match[2])};"


def _spelled(code: str) -> str:
    """Code in which every sign is an entity, so that no Markdown is left in it."""
    return _PUNCTUATION.sub(lambda sign: f"&#{ord(sign[0])};", code)
