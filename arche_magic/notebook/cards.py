"""Replies side by side, each in a card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.text.markdown import harmless_markdown

from .markup import as_html
from .styles import QUIET

_ROW = "display:flex;flex-wrap:wrap;gap:10px;align-items:stretch;margin:4px 0"
# Cards share the width; a card that would be narrower than this wraps.
_CARD = (
    "flex:1 1 250px;min-width:0;max-width:100%;box-sizing:border-box;padding:8px 12px;"
    "border:1px solid rgba(128,128,128,.4);border-radius:6px;display:flex;flex-direction:column;"
    "overflow-wrap:break-word"
)
_HEAD = "padding-bottom:4px;border-bottom:1px solid rgba(128,128,128,.4)"


def row_html(cards: Iterable[str]) -> str:
    """Cards side by side."""
    return f'<div style="{_ROW}">{"".join(cards)}</div>'


def card_html(name: str, body: str, foot: str) -> str:
    """A card with its name, and two parts of HTML, one below the other.

    What comes before the first ` · ` of the name, such as the provider, has its own line, since
    names of models vary in length.
    """
    first, _, rest = name.partition(" · ")
    return (
        f'<div style="{_CARD}"><div style="{_HEAD}"><b>{escape(first)}</b>'
        f'<div style="{QUIET}">{escape(rest) or "&nbsp;"}</div></div>'
        f'<div style="flex:1">{body}</div>'
        f'<div style="margin-top:4px">{foot}</div></div>'
    )


def beside(
    old: Reply,
    old_receipt: Mapping[str, str],
    new: Mapping[str, str],
    new_receipt: Mapping[str, str] | None,
) -> dict[str, str]:
    """A reply with an older one to the same prompt before it, each with its receipt."""
    text = without_controls(str(old))
    body = new.get("text/html") or as_html(_source(new))
    route = str(old.route)
    foot = new_receipt or {"text/plain": "", "text/html": ""}
    cards = [
        card_html(f"before · {route}", as_html(text), old_receipt["text/html"]),
        card_html("now · asked again", body, foot["text/html"]),
    ]
    before = f"── before ──\n{text}\n{old_receipt['text/plain']}"
    now = f"── now ──\n{new['text/plain']}\n{foot['text/plain']}"
    return {"text/plain": f"{before}\n\n{now}".rstrip("\n"), "text/html": row_html(cards)}


def _source(bundle: Mapping[str, str]) -> str:
    """The Markdown as the model wrote it, if the bundle has it: `as_html` makes it harmless."""
    text = bundle["text/plain"]
    shown = bundle.get("text/markdown", text)
    return text if shown == harmless_markdown(text) else shown
