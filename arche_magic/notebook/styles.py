"""The styles that displays share: colours, quiet text, and details that unfold.

All are inline, because untrusted notebooks lose ids and `<style>`, which pandas' Styler uses.
"""

from __future__ import annotations

import html

from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.text.wording import shortened

# An untrusted notebook loses styles with var(); the grey before it reads on white and on black.
QUIET = "color:#797979;color:var(--jp-content-font-color2,#797979);font-size:90%"
GREEN, AMBER, RED = "#2e9e5b", "#c98a1b", "#d0493b"
TRACK = "rgba(128,128,128,.25)"
EDGE = "border:none;border-bottom:1px solid rgba(128,128,128,.35)"


def escape(text: str) -> str:
    """The text for HTML, without control characters.

    They are removed before the text joins others: the start of a terminal escape in one text and
    its end in another would remove the HTML between them.
    """
    return html.escape(without_controls(text))


def quiet_line(line: str) -> dict[str, str]:
    """A line in small grey type, as text and as HTML."""
    return {"text/plain": line, "text/html": f'<span style="{QUIET}">{escape(line)}</span>'}


def red_line(line: str) -> dict[str, str]:
    """A line in red, as text and as HTML."""
    return {"text/plain": line, "text/html": f'<span style="color:{RED}">{escape(line)}</span>'}


def details(summary: str, inside: str, *, is_open: bool = False, style: str = "") -> str:
    """A line that unfolds to the HTML inside."""
    attributes = f' style="{style}"' if style else ""
    return (
        f"<details{' open' if is_open else ''}{attributes}>"
        f'<summary style="cursor:pointer">{summary}</summary>{inside}</details>'
    )


def one_line(text: str, longest: int) -> str:
    """The text in one line without controls, cut to at most `longest` characters."""
    return shortened(" ".join(without_controls(text).split()), longest)
