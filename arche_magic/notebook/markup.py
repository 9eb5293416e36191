"""Replies as HTML: in cards side by side, with the most common marks of Markdown.

Everything is escaped first and only fixed tags are added, so whatever a model wrote is harmless;
unknown marks stay as they were written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from html import escape, unescape
from itertools import groupby

from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.text.code_blocks import CodeBlock, parts_of
from arche_magic.llm_providers.text.markdown import (
    CODE_SPAN,
    FORMULA,
    harmless_formula,
    harmless_markdown,
    with_dollar_formulas,
)

from .styles import QUIET

_HEADING = re.compile(r"#{1,6}[ \t]+(.+)")
_RULE = re.compile(r" {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$")
_ITEM = re.compile(r"([ \t]*)([-*+•]|\d{1,3}[.)])[ \t]+(.+)")
_QUOTE = re.compile(r"[ \t]*>[ \t]?")
# A character after a backslash and a character reference are text, never a mark.
_ESCAPED = re.compile(r"\\(?P<sign>[!-/:-@\[-`{-~])|&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|\w{1,31});")
_LINK = re.compile(r"(!?)\[([^\[\]]{1,300})\]\((https?://[^\s()<>]{1,1000})\)")
_DELETED = re.compile(r"~~(?=\S)((?:(?!~~).)+)(?<=\S)~~")
_BOLD = re.compile(r"\*\*(?=\S)((?:(?!\*\*).)+)(?<=\S)\*\*")
_ITALIC = re.compile(r"(?<![\w*])\*(?=[^\s*])([^*]+?)(?<=[^\s*])\*(?![\w*])")
_BLOCK = (
    "margin:6px 0;padding:6px 8px;border-radius:4px;background:rgba(128,128,128,.14);"
    "white-space:pre;overflow-x:auto;font-family:monospace;font-size:90%;color:inherit"
)
_LINE = "margin:8px 0;border-top:1px solid rgba(128,128,128,.5)"
_QUOTED = "margin:6px 0;padding-left:10px;border-left:3px solid rgba(128,128,128,.5)"
_MOST_QUOTES = 4
# Code in other languages and longer code has one colour, because the model determines its size, and
# it is drawn repeatedly while it grows.
_LANGUAGES = {
    "python": "python", "py": "python", "json": "json", "sql": "sql", "bash": "bash", "sh": "bash",
    "javascript": "javascript", "js": "javascript", "r": "r", "yaml": "yaml", "toml": "toml",
}  # fmt: skip
_LONGEST_IN_COLOUR = 5_000
# Legible on light and dark pages.
_COLOURS = {
    "Comment": "#808080",
    "Keyword": "#9a6dd7",
    "Literal.String": "#2e9e5b",
    "Literal.Number": "#c98a1b",
    "Name.Function": "#3f87c9",
    "Name.Class": "#3f87c9",
    "Name.Tag": "#3f87c9",
}
# MathJax ignores our HTML, so that prices stay prices, except for elements with these classes.
_MATH = "mathjax_process tex2jax_process"
_CELL = "padding:2px 8px;border:1px solid rgba(128,128,128,.4);text-align:left;vertical-align:top"
_MARK = (
    "padding:0 3px;border-radius:3px;background:rgba(128,128,128,.18);font-family:monospace;"
    "color:inherit"
)


_CARDS = "display:flex;flex-wrap:wrap;gap:10px;align-items:stretch;margin:4px 0"
# Cards share the width of the page; cards that would be narrower than this wrap.
_CARD = (
    "flex:1 1 250px;min-width:0;max-width:100%;box-sizing:border-box;padding:8px 12px;"
    "border:1px solid rgba(128,128,128,.4);border-radius:6px;display:flex;flex-direction:column;"
    "overflow-wrap:break-word"
)
_CARD_HEAD = "padding-bottom:4px;border-bottom:1px solid rgba(128,128,128,.4)"


def as_html(text: str) -> str:
    """Paragraphs, headings, lists, tables, quotes, coloured code, emphasis, links and formulas."""
    html: list[str] = []
    for part in parts_of(without_controls(text)):
        if isinstance(part, CodeBlock):
            code = _coloured(chr(10).join(part.code), part.language)
            html.append(f'<pre tabindex="0" style="{_BLOCK}">{code}</pre>')
        else:
            html.append(_prose_blocks(part))
    return "".join(html)


def _prose_blocks(text: str, quotes: int = 0) -> str:
    html: list[str] = []
    held: list[str] = []
    kind = ""

    def end() -> None:
        """Add a block with the lines collected so far."""
        if held and kind == "table":
            html.append(_table(held))
        elif held and kind == "quote":
            inside = _prose_blocks("\n".join(held), quotes + 1)
            html.append(f'<div style="{_QUOTED}">{inside}</div>')
        elif held:
            html.append(f'<div style="margin:6px 0">{_inline(" ".join(held))}</div>')
        held.clear()

    for whole in text.split("\n"):
        sign = _QUOTE.match(whole) if quotes < _MOST_QUOTES else None
        line = whole[sign.end() :] if sign else whole
        now = "quote" if sign else "table" if line.lstrip().startswith("|") else "text"
        if now != kind:
            end()
            kind = now
        if kind in ("table", "quote"):
            held.append(line)
        elif not line.strip():
            end()
        elif _RULE.match(line):
            end()
            html.append(f'<div style="{_LINE}"></div>')
        elif heading := _HEADING.match(line):
            end()
            html.append(
                '<div style="margin:8px 0 4px;font-weight:600">'
                f"{_inline(_without_closing_signs(heading[1]))}</div>"
            )
        elif item := _ITEM.match(line):
            end()
            html.append(_item(item))
        else:
            held.append(line.strip())
    end()
    return "".join(html)


def _without_closing_signs(title: str) -> str:
    """`Title` of `Title ##`; the sign in `C#` stays."""
    words = title.rstrip()
    bare = words.rstrip("#")
    return bare.rstrip() if bare[-1:] in ("", " ", "\t") else words


def _item(item: re.Match[str]) -> str:
    sign = item[2] if item[2][0].isdigit() else "•"
    depth = 0.4 + len(item[1].expandtabs(4)) * 0.4
    return (
        f'<div style="display:flex;gap:.5em;margin:2px 0 2px {depth:.1f}em"><div>{sign}</div>'
        f'<div style="min-width:0">{_inline(item[3])}</div></div>'
    )


def _table(lines: list[str]) -> str:
    rows = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not all(re.fullmatch(":?-+:?", cell) for cell in cells):
            rows.append("".join(f'<td style="{_CELL}">{_inline(cell)}</td>' for cell in cells))
    body = "".join(f'<tr style="background:none">{row}</tr>' for row in rows)
    style = "border-collapse:collapse;margin:6px 0;font-size:90%;color:inherit"
    return f'<div tabindex="0" style="overflow-x:auto"><table style="{style}">{body}</table></div>'


def _inline(text: str) -> str:
    def code(found: re.Match[str]) -> str:
        return f'<code style="{_MARK}">{escape(found[2])}</code>'

    return _apart(CODE_SPAN, text, code, _prose)


def _prose(text: str) -> str:
    def formula(found: re.Match[str]) -> str:
        return f'<span class="{_MATH}">{escape(harmless_formula(found[0]))}</span>'

    return _apart(FORMULA, with_dollar_formulas(text), formula, _linked)


def _apart(
    pattern: re.Pattern[str],
    text: str,
    matched: Callable[[re.Match[str]], str],
    between: Callable[[str], str],
) -> str:
    """The HTML of what the pattern matches, and of the text between the matches."""
    html, end = [], 0
    for found in pattern.finditer(text):
        html += [between(text[end : found.start()]), matched(found)]
        end = found.end()
    return "".join([*html, between(text[end:])])


def _linked(text: str) -> str:
    """Links, images as links, and emphasis; emphasis may reach across a link."""
    links: list[str] = []
    signs: list[str] = []

    def put_sign_aside(found: re.Match[str]) -> str:
        signs.append(escape(without_controls(found["sign"] or unescape(found[0]))))
        return f"\1{len(signs) - 1}\1"

    def put_aside(link: re.Match[str]) -> str:
        is_image, words, address = link.groups()
        if is_image:
            words = f"image: {words} ({address.split('/')[2]})"
        links.append(
            f'<a href="{escape(address)}" rel="noopener noreferrer">{_emphasis(words)}</a>'
        )
        return f"\0{len(links) - 1}\0"

    # The text has no such control characters: `without_controls` has replaced them.
    text = _emphasis(_LINK.sub(put_aside, _ESCAPED.sub(put_sign_aside, text)))
    text = re.sub("\0(\\d+)\0", lambda place: links[int(place[1])], text)
    return re.sub("\1(\\d+)\1", lambda place: signs[int(place[1])], text)


def _emphasis(text: str) -> str:
    text = _DELETED.sub(r"<del>\1</del>", escape(text))
    return _ITALIC.sub(r"<i>\1</i>", _BOLD.sub(r"<b>\1</b>", text))


def _coloured(code: str, language: str) -> str:
    """The code as escaped HTML; its text stays the same."""
    name = _LANGUAGES.get(language.lower())
    if name is None or len(code) > _LONGEST_IN_COLOUR:
        return escape(code)
    # IPython requires this package.
    from pygments.lexers import get_lexer_by_name
    from pygments.token import string_to_tokentype

    kinds = [(string_to_tokentype(kind), colour) for kind, colour in _COLOURS.items()]

    def colour_of(token: tuple[object, str]) -> str:
        return next((colour for kind, colour in kinds if token[0] in kind), "")

    tokens = get_lexer_by_name(name, stripnl=False, ensurenl=False).get_tokens(code)
    shown = []
    for colour, group in groupby(tokens, colour_of):
        text = escape("".join(word for _, word in group))
        shown.append(f'<span style="color:{colour}">{text}</span>' if colour else text)
    return "".join(shown)


def row_html(cards: Iterable[str]) -> str:
    """Cards side by side."""
    return f'<div style="{_CARDS}">{"".join(cards)}</div>'


def card_html(name: str, body: str, foot: str) -> str:
    """A card with its name, and two parts of HTML, one below the other.

    The part before the first ` · ` of the name, such as the provider, has its own line, because
    names of models vary in length.
    """
    first, _, rest = without_controls(name).partition(" · ")
    return (
        f'<div style="{_CARD}"><div style="{_CARD_HEAD}"><b>{escape(first)}</b>'
        f'<div style="{QUIET}">{escape(rest) or "&nbsp;"}</div></div>'
        f'<div style="flex:1">{body}</div>'
        f'<div style="margin-top:4px">{foot}</div></div>'
    )


def beside(
    route: str,
    old: Mapping[str, str],
    old_receipt: Mapping[str, str],
    new: Mapping[str, str],
    new_receipt: Mapping[str, str] | None,
) -> dict[str, str]:
    """A reply beside an older reply to the same prompt, each with its receipt."""
    foot = new_receipt or {"text/plain": "", "text/html": ""}
    cards = [
        card_html(f"before · {route}", _html_of(old), old_receipt["text/html"]),
        card_html("now · asked again", _html_of(new), foot["text/html"]),
    ]
    before = f"── before ──\n{old['text/plain']}\n{old_receipt['text/plain']}"
    now = f"── now ──\n{new['text/plain']}\n{foot['text/plain']}"
    return {"text/plain": f"{before}\n\n{now}".rstrip("\n"), "text/html": row_html(cards)}


def _html_of(bundle: Mapping[str, str]) -> str:
    """The HTML of a bundle, or of its Markdown, which `as_html` makes harmless."""
    text = bundle["text/plain"]
    shown = bundle.get("text/markdown", text)
    return bundle.get("text/html") or as_html(text if shown == harmless_markdown(text) else shown)
