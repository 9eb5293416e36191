"""What displays are made of, as text and as HTML: colours, lines, details that unfold, tables.

All styles are inline, because untrusted notebooks lose ids and `<style>`, which pandas' Styler
uses.
"""

from __future__ import annotations

import html
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import TypeAlias

from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.text.wording import shortened

Cell: TypeAlias = str | tuple[str, str]
"""The text of a table's cell; or the text and its HTML, if that is more than the escaped text."""

# An untrusted notebook loses styles with var(); the grey before it reads on white and on black.
QUIET = "color:#797979;color:var(--jp-content-font-color2,#797979);font-size:90%"
GREEN, AMBER, RED = "#2e9e5b", "#c98a1b", "#d0493b"
TRACK = "rgba(128,128,128,.25)"
EDGE = "border:none;border-bottom:1px solid rgba(128,128,128,.35)"
_CELL = f"padding:3px 10px 3px 0;{EDGE};vertical-align:middle"
_NARROWEST = 8


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


def day_and_time(moment: float, seconds: bool = False) -> str:
    """The local day and time, as `24 Nov 14:32`."""
    local = datetime.fromtimestamp(moment).astimezone()
    return f"{local:%d %b %H:%M:%S}" if seconds else f"{local:%d %b %H:%M}"


def table_bundle(
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    notes: Sequence[str] = (),
    *,
    right: Collection[str] = (),
    long: Collection[str] = (),
    none: str = "nothing yet",
) -> dict[str, str]:
    """A table with a line per note below it, as text and as HTML; `none` if it has no rows.

    `right` has the heads of columns that are right-aligned, and `long` those of columns whose HTML
    wraps.
    """
    if not rows:
        return {"text/plain": none, "text/html": none}
    return {
        "text/plain": "\n".join([_text_table(heads, rows, right), *notes]),
        "text/html": html_table(heads, rows, right=right, long=long) + notes_html(notes),
    }


def html_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    right: Collection[str] = (),
    long: Collection[str] = (),
) -> str:
    """An HTML table; on a narrow page its columns scroll, also with the keyboard."""
    sides = ["right" if head in right else "left" for head in heads]
    styles = []
    for head, side in zip(heads, sides, strict=True):
        space = "normal;min-width:9em;overflow-wrap:break-word" if head in long else "nowrap"
        numeric = "font-variant-numeric:tabular-nums"
        styles.append(f"{_CELL};text-align:{side};{numeric};white-space:{space}")
    top = "".join(
        f'<th style="{_CELL};text-align:{side};font-weight:600">'
        f"{escape(head).replace('/', '/<wbr>')}</th>"
        for head, side in zip(heads, sides, strict=True)
    )
    body = ""
    for row in rows:
        shown = [escape(cell) if isinstance(cell, str) else cell[1] for cell in row]
        cells = (f'<td style="{s}">{cell}</td>' for s, cell in zip(styles, shown, strict=True))
        body += f'<tr style="background:none">{"".join(cells)}</tr>'
    table = (
        '<table style="border-collapse:collapse;border:none;font-size:90%"><thead><tr style="'
        f'background:none">{top}</tr></thead><tbody>{body}</tbody></table>'
    )
    return f'<div tabindex="0" style="overflow-x:auto">{table}</div>'


def notes_html(notes: Iterable[str]) -> str:
    """A quiet line per note."""
    style = f"margin-top:4px;overflow-wrap:anywhere;{QUIET}"
    return "".join(f'<div style="{style}">{escape(note)}</div>' for note in notes)


def _text_table(
    heads: Sequence[str], rows: Iterable[Sequence[Cell]], right: Collection[str]
) -> str:
    texts = [[cell if isinstance(cell, str) else cell[0] for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]
    figures = [head in right for head in heads]
    if sys.stdout.isatty():
        _shrink(widths, figures, shutil.get_terminal_size().columns)
    lines = []
    for number, row in enumerate([heads, *texts]):
        columns = [
            [text.rjust(width)] if is_figure and number else _wrapped(text, width)
            for text, width, is_figure in zip(row, widths, figures, strict=True)
        ]
        for parts in zip_longest(*columns, fillvalue=""):
            cells = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _shrink(widths: list[int], figures: Sequence[bool], most: int) -> None:
    """Make the widest columns narrower until a row has `most` characters, except figures."""
    while sum(widths) + 2 * (len(widths) - 1) > most:
        width, column = max(
            ((width, column) for column, width in enumerate(widths) if not figures[column]),
            default=(0, 0),
        )
        if width <= _NARROWEST:
            break
        widths[column] -= 1


def _wrapped(text: str, width: int) -> list[str]:
    return [text] if len(text) <= width else textwrap.wrap(text, width)
