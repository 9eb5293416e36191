"""Replies side by side, each in a card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.text.characters import without_controls

from .markup import as_html
from .styles import QUIET

_ROW = "display:flex;flex-wrap:wrap;gap:10px;align-items:stretch;margin:4px 0"
# Cards share the width; a card that would be narrower than this wraps.
_CARD = (
    "flex:1 1 250px;min-width:0;max-width:100%;box-sizing:border-box;padding:8px 12px;"
    "border:1px solid rgba(128,128,128,.4);border-radius:6px;display:flex;flex-direction:column"
)
_HEAD = "padding-bottom:4px;border-bottom:1px solid rgba(128,128,128,.4)"


def row_html(cards: Iterable[str]) -> str:
    """Cards side by side."""
    return f'<div style="{_ROW}">{"".join(cards)}</div>'


def card_html(name: str, body: str, foot: str) -> str:
    """A card with its name, HTML, and a line below.

    What comes before the first ` · ` of the name, such as the provider, has its own line, since
    names of models vary in length.
    """
    first, _, rest = name.partition(" · ")
    return (
        f'<div style="{_CARD}"><div style="{_HEAD}"><b>{escape(first)}</b>'
        f'<div style="{QUIET}">{escape(rest) or "&nbsp;"}</div></div>'
        f'<div style="flex:1;overflow-wrap:break-word">{body}</div>'
        f'<div style="{QUIET};margin-top:4px">{escape(foot)}</div></div>'
    )


def beside(old: Reply, receipt: str, new: Mapping[str, str]) -> dict[str, str]:
    """The bundle of a reply, with an older reply to the same prompt and its receipt before it."""
    text = without_controls(str(old))
    body = new.get("text/html") or as_html(new.get("text/markdown", new["text/plain"]))
    route = str(old.route)
    cards = [
        card_html(f"before · {route}", as_html(text), receipt),
        card_html("now · asked again", body, ""),
    ]
    return {
        "text/plain": f"── before ──\n{text}\n{receipt}\n\n── now ──\n{new['text/plain']}",
        "text/html": row_html(cards),
    }
