"""Tables for display, as HTML with inline styles and as aligned text."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest

from .styles import EDGE, QUIET, escape

_CELL = f"padding:3px 10px 3px 0;{EDGE};vertical-align:middle"
_NARROWEST = 8


@dataclass(frozen=True)
class Cell:
    """One cell: its text, its HTML if that differs, and whether it is right-aligned or wraps."""

    text: str
    html: str = ""
    right: bool = False
    long: bool = False


def table_bundle(
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    notes: Sequence[str] = (),
    none: str = "nothing yet",
) -> dict[str, str]:
    """A table with a line per note below it, as text and HTML; shows `none` if it has no rows."""
    if not rows:
        return {"text/plain": none, "text/html": none}
    return {
        "text/plain": "\n".join([_text_table(heads, rows), *notes]),
        "text/html": html_table(heads, rows) + notes_html(notes),
    }


def html_table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """An HTML table; on a narrow page its columns scroll, also with the keyboard."""
    right = [cell.right for cell in rows[0]]
    head = "".join(
        f'<th style="{_CELL};text-align:{"right" if is_right else "left"};'
        f'font-weight:600">{escape(text).replace("/", "/<wbr>")}</th>'
        for text, is_right in zip(heads, right, strict=True)
    )
    body = "".join(
        '<tr style="background:none">' + "".join(_html_cell(cell) for cell in row) + "</tr>"
        for row in rows
    )
    table = (
        '<table style="border-collapse:collapse;border:none;font-size:90%"><thead><tr style="'
        f'background:none">{head}</tr></thead><tbody>{body}</tbody></table>'
    )
    return f'<div tabindex="0" style="overflow-x:auto">{table}</div>'


def notes_html(notes: Iterable[str]) -> str:
    """A quiet line per note."""
    style = f"margin-top:4px;overflow-wrap:anywhere;{QUIET}"
    return "".join(f'<div style="{style}">{escape(note)}</div>' for note in notes)


def _text_table(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    rows = list(rows)
    widths = [
        max([len(head), *(len(row[column].text) for row in rows)])
        for column, head in enumerate(heads)
    ]
    if sys.stdout.isatty():
        shrinks = [not any(row[column].right for row in rows) for column in range(len(heads))]
        widths = fitting(widths, shrinks, shutil.get_terminal_size().columns)
    lines = []
    for row in ([Cell(head) for head in heads], *rows):
        columns = [_cell_lines(cell, width) for cell, width in zip(row, widths, strict=True)]
        for parts in zip_longest(*columns, fillvalue=""):
            cells = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def fitting(widths: Sequence[int], shrinks: Sequence[bool], most: int) -> list[int]:
    """Column widths; the widest columns are made narrower until a row has `most` characters.

    Columns of figures may not shrink.
    """
    fits = list(widths)
    while sum(fits) + 2 * (len(fits) - 1) > most:
        width, column = max(
            ((width, column) for column, width in enumerate(fits) if shrinks[column]),
            default=(0, 0),
        )
        if width <= _NARROWEST:
            break
        fits[column] -= 1
    return fits


def _cell_lines(cell: Cell, width: int) -> list[str]:
    """The cell's text in lines of at most this width; figures always have one."""
    if cell.right:
        return [cell.text.rjust(width)]
    return [cell.text] if len(cell.text) <= width else textwrap.wrap(cell.text, width)


def _html_cell(cell: Cell) -> str:
    side = "right" if cell.right else "left"
    space = "normal;min-width:9em;overflow-wrap:break-word" if cell.long else "nowrap"
    style = f"{_CELL};text-align:{side};font-variant-numeric:tabular-nums;white-space:{space}"
    return f'<td style="{style}">{cell.html or escape(cell.text)}</td>'


def day_and_time(moment: float, seconds: bool = False) -> str:
    """The local day and time, as `24 Nov 14:32`."""
    local = datetime.fromtimestamp(moment).astimezone()
    return f"{local:%d %b %H:%M:%S}" if seconds else f"{local:%d %b %H:%M}"
