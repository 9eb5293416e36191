"""A reply's Markdown as HTML, for where it stands inside HTML of ours: the commonest signs alone.

Everything is escaped first and only fixed tags are added, so whatever a model wrote is harmless;
what is not understood is left as it was written.
"""

from __future__ import annotations

import re
from html import escape

from arche_magic.llm_providers.markdown import without_controls

_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
_HEADING = re.compile(r"#{1,6}[ \t]+(.+?)[ \t#]*$")
_ITEM = re.compile(r"([ \t]*)([-*+•]|\d{1,3}[.)])[ \t]+(.+)")
_CODE = re.compile(r"(`+)(.+?)\1")
_BOLD = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")
_ITALIC = re.compile(r"(?<![\w*])\*(?=[^\s*])([^*]+?)(?<=[^\s*])\*(?![\w*])")
_BLOCK = (
    "margin:6px 0;padding:6px 8px;border-radius:4px;background:rgba(128,128,128,.14);"
    "white-space:pre-wrap;overflow-wrap:anywhere;font-size:90%;color:inherit"
)
_MARK = "padding:0 3px;border-radius:3px;background:rgba(128,128,128,.18);color:inherit"


def as_html(text: str) -> str:
    """Paragraphs, headings, list items, fenced code, tables (as they are typed), and emphasis."""
    html: list[str] = []
    paragraph: list[str] = []
    verbatim: list[str] = []
    fence = ""

    def end_paragraph() -> None:
        if paragraph:
            html.append(f'<div style="margin:6px 0">{_inline(" ".join(paragraph))}</div>')
            paragraph.clear()

    def end_verbatim() -> None:
        if verbatim:
            html.append(f'<pre style="{_BLOCK}">{escape(chr(10).join(verbatim))}</pre>')
            verbatim.clear()

    for line in without_controls(text).split("\n"):
        mark = _FENCE.match(line)
        if fence:
            if mark and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
                end_verbatim()
            else:
                verbatim.append(line)
            continue
        if line.lstrip().startswith("|"):
            end_paragraph()
            verbatim.append(line)
            continue
        end_verbatim()
        if mark:
            end_paragraph()
            fence = mark[1]
        elif not line.strip():
            end_paragraph()
        elif heading := _HEADING.match(line):
            end_paragraph()
            html.append(
                f'<div style="margin:8px 0 4px;font-weight:600">{_inline(heading[1])}</div>'
            )
        elif item := _ITEM.match(line):
            end_paragraph()
            sign = item[2] if item[2][0].isdigit() else "•"
            depth = 1.3 + len(item[1].expandtabs(4)) * 0.4
            html.append(
                f'<div style="margin:2px 0 2px {depth:.1f}em;text-indent:-1.1em">'
                f"{sign} {_inline(item[3])}</div>"
            )
        else:
            paragraph.append(line.strip())
    end_verbatim()
    end_paragraph()
    return "".join(html)


def _inline(text: str) -> str:
    pieces = []
    end = 0
    for code in _CODE.finditer(text):
        pieces += [
            _emphasis(text[end : code.start()]),
            f'<code style="{_MARK}">{escape(code[2])}</code>',
        ]
        end = code.end()
    return "".join([*pieces, _emphasis(text[end:])])


def _emphasis(text: str) -> str:
    return _ITALIC.sub(r"<i>\1</i>", _BOLD.sub(r"<b>\1</b>", escape(text)))
