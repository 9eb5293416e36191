"""Code in colours that read on light and on dark pages, as HTML with inline styles."""

from __future__ import annotations

from html import escape
from itertools import groupby

# Code in other languages, and longer code, has one colour: a model writes it, and it is drawn again
# and again while it grows.
_LANGUAGES = {
    "python": "python", "py": "python", "json": "json", "sql": "sql", "bash": "bash", "sh": "bash",
    "javascript": "javascript", "js": "javascript", "r": "r", "yaml": "yaml", "toml": "toml",
}  # fmt: skip
_LONGEST = 5_000
_COLOURS = {
    "Comment": "#808080",
    "Keyword": "#9a6dd7",
    "Literal.String": "#2e9e5b",
    "Literal.Number": "#c98a1b",
    "Name.Function": "#3f87c9",
    "Name.Class": "#3f87c9",
    "Name.Tag": "#3f87c9",
}


def coloured(code: str, language: str) -> str:
    """The code as escaped HTML; its text stays the same."""
    name = _LANGUAGES.get(language.lower())
    if name is None or len(code) > _LONGEST:
        return escape(code)
    # IPython brings it along.
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
