"""Tables for people: quota and statistics as HTML with inline styles, and as aligned text."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

from arche_magic.llm_providers.types import Standing, in_seconds, route_name

if TYPE_CHECKING:
    import pandas as pd

# No var() here: untrusted notebooks lose such styles.
_EDGE = "border:none;border-bottom:1px solid rgba(128,128,128,.35)"
_CELL = f"padding:3px 12px 3px 0;{_EDGE};vertical-align:middle"
_NOTE = "margin-top:4px;font-size:90%"
_GREEN, _AMBER, _RED = "#2e9e5b", "#c98a1b", "#d0493b"


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and how HTML shows it if that differs.

    In HTML it spans `rows` rows; 0: the cell above covers its place.
    """

    text: str
    html: str = ""
    right: bool = False
    rows: int = 1


def quota_bundle(
    standings: Sequence[Standing], now: float, notes: Sequence[str] = ()
) -> dict[str, str]:
    """The quota of every route: a row per limit, the bar and its number side by side.

    `notes` are lines below it: what the present pace leads to, and keys that add no quota.
    """
    if not standings:
        return {"text/plain": "no route is configured", "text/html": "no route is configured"}
    rows = []
    for _, limits in itertools.groupby(standings, key=lambda row: (row.key, row.model)):
        first, *others = limits
        opening = max([first, *others], key=lambda row: row.opens_at)
        route = route_name(first.provider, first.key, first.model)
        span = 1 + len(others)
        heading = (
            Cell(route, _in_two_lines(route), rows=span),
            Cell(_opens(opening, now, 40), escape(_opens(opening, now)), rows=span),
        )
        rows.append((*heading, *_limit_cells(first, now)))
        rows.extend((*[Cell("", rows=0)] * 2, *_limit_cells(row, now)) for row in others)
    heads = ("route", "next request", "limit", "", "used", "full again", "known from")
    return table_bundle(heads, rows, notes)


def stats_bundle(frame: pd.DataFrame) -> dict[str, str]:
    """A row per provider, key and model: what was served, refused, failed and skipped."""
    if frame.empty:
        return {"text/plain": "no attempts yet", "text/html": "no attempts yet"}
    rows = []
    for (provider, key, model), group in frame.groupby(["provider", "key", "model"], sort=False):
        outcomes = group["outcome"].value_counts()
        served = group[group["outcome"] == "served"]
        tokens = int(group["input_tokens"].sum() + group["output_tokens"].sum())
        median = f"{served['seconds'].median():.2f} s" if len(served) else "–"
        rows.append(
            (
                Cell(route_name(str(provider), str(key), str(model))),
                *(
                    Cell(str(outcomes.get(outcome, 0)), right=True)
                    for outcome in ("served", "skipped", "refused", "failed", "interrupted")
                ),
                Cell(f"{tokens:,}", right=True),
                Cell(median, right=True),
            )
        )
    heads = (
        "route", "served", "skipped", "refused", "failed", "interrupted", "tokens", "median time"
    )  # fmt: skip
    return table_bundle(heads, rows)


def _limit_cells(row: Standing, now: float) -> tuple[Cell, ...]:
    return (
        Cell(row.limit.replace("_", " ")),
        _bar(min(1.0, row.used / row.amount) if row.amount else 1.0),
        Cell(f"{_count(row.used)} of {_count(row.amount)}", right=True),
        Cell("" if row.used <= 1e-6 else _at(row.resets_at, now)),
        Cell(row.evidence),
    )


def table_bundle(
    heads: Sequence[str], rows: Sequence[Sequence[Cell]], notes: Sequence[str] = ()
) -> dict[str, str]:
    """A table, and below it a line per note, as text and as HTML."""
    below = "".join(f'<div style="{_NOTE}">{escape(note)}</div>' for note in notes)
    return {
        "text/plain": "\n".join([_text_table(heads, rows), *notes]),
        "text/html": _html_table(heads, rows) + below,
    }


def _text_table(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    rows = list(rows)
    widths = [
        max([len(head), *(len(row[column].text) for row in rows)])
        for column, head in enumerate(heads)
    ]
    lines = ["  ".join(head.ljust(width) for head, width in zip(heads, widths, strict=True))]
    for row in rows:
        cells = (
            cell.text.rjust(width) if cell.right else cell.text.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        )
        lines.append("  ".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    right = [cell.right for cell in rows[0]]
    head = "".join(
        f'<th style="{_CELL};text-align:{"right" if is_right else "left"};white-space:nowrap;'
        f'font-weight:600">{escape(text)}</th>'
        for text, is_right in zip(heads, right, strict=True)
    )
    body = "".join(
        '<tr style="background:none">'
        + "".join(_html_cell(cell) for cell in row if cell.rows)
        + "</tr>"
        for row in rows
    )
    return (
        f'<table style="border-collapse:collapse;border:none;font-size:90%"><thead><tr style="'
        f'background:none">{head}</tr></thead><tbody>{body}</tbody></table>'
    )


def _html_cell(cell: Cell) -> str:
    # What spans rows has room to wrap; all else stays on one line, so that rows stay even.
    side = "right" if cell.right else "left"
    style = f"{_CELL};text-align:{side};font-variant-numeric:tabular-nums"
    if cell.rows == 1:
        return f'<td style="{style};white-space:nowrap">{cell.html or escape(cell.text)}</td>'
    style += ";vertical-align:top;white-space:normal;max-width:220px"
    return f'<td rowspan="{cell.rows}" style="{style}">{cell.html or escape(cell.text)}</td>'


def _in_two_lines(route: str) -> str:
    # The model below its key: the table's other columns need the width.
    key, _, model = route.rpartition(" · ")
    return f'<span style="white-space:nowrap">{escape(key)}<br>{escape(model)}</span>'


def _bar(share: float) -> Cell:
    color = _GREEN if share < 0.7 else _AMBER if share < 0.95 else _RED
    filled = round(share * 10)
    width = max(2, round(share * 100)) if share > 0 else 0
    html = (
        '<div style="width:80px;height:8px;border-radius:4px;background:rgba(128,128,128,.3);'
        f'overflow:hidden"><div style="width:{width}%;height:8px;background:{color}"></div></div>'
    )
    return Cell("█" * filled + "░" * (10 - filled), html)


def _count(amount: float) -> str:
    """A count, rounded up; from ten million on in millions, so that columns stay narrow."""
    whole = math.ceil(amount - 1e-6)
    if whole < 10_000_000:
        return f"{whole:,}"
    return f"{whole / 1e6:,.0f} M" if whole < 10_000_000_000 else f"{whole / 1e9:,.0f} G"


def _opens(row: Standing, now: float, longest: int = 400) -> str:
    """When the route takes the next request, and what shuts it, in so many characters."""
    why = f": {textwrap.shorten(row.shut_by, longest, placeholder=' …')}" if row.shut_by else ""
    if row.opens_at <= now:
        return "now"
    if not math.isfinite(row.opens_at):
        return f"closed{why}"
    return _at(row.opens_at, now) + why


def _at(moment: float, now: float) -> str:
    """`in 42 s`, or for longer waits the local time as well."""
    seconds = moment - now
    if seconds < 100:
        return in_seconds(seconds)
    local = datetime.fromtimestamp(moment).astimezone()
    time = f"{local:%d %b %H:%M}" if seconds > 86_400 / 2 else f"{local:%H:%M}"
    return f"{in_seconds(seconds)}, {time}"
