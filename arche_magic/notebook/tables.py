"""Tables for people: quota and statistics as HTML with inline styles, and as aligned text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

from arche_magic.llm_providers.orchestrator import in_seconds
from arche_magic.llm_providers.types import Standing, route_name

if TYPE_CHECKING:
    import pandas as pd

_EDGE = "border:none;border-bottom:1px solid var(--jp-border-color2,rgba(128,128,128,.35))"
_CELL = f"padding:3px 14px 3px 0;{_EDGE};vertical-align:middle"
_GREEN, _AMBER, _RED = "#2e9e5b", "#c98a1b", "#d0493b"


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and how HTML shows it if that differs."""

    text: str
    html: str = ""
    right: bool = False


def quota_bundle(standings: Sequence[Standing], now: float) -> dict[str, str]:
    """The quota of every route: a row per limit, the bar and its number side by side."""
    if not standings:
        return {"text/plain": "no route is configured", "text/html": "no route is configured"}
    rows = []
    shown = ""
    for row in standings:
        route = route_name(row.provider, row.key, row.model)
        share = min(1.0, row.used / row.amount) if row.amount else 1.0
        rows.append(
            (
                Cell(route if route != shown else ""),
                Cell(row.limit.replace("_", " ")),
                _bar(share),
                Cell(f"{_count(row.used)} of {_count(row.amount)}", right=True),
                Cell(_opens(row, now)),
                Cell(_back(row, now)),
                Cell(row.evidence),
            )
        )
        shown = route
    return _bundle(("route", "limit", "used", "", "next request", "full again", "known from"), rows)


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
    return _bundle(heads, rows)


def _bundle(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> dict[str, str]:
    return {"text/plain": _text_table(heads, rows), "text/html": _html_table(heads, rows)}


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
        f'<th style="{_CELL};text-align:{"right" if is_right else "left"};font-weight:600">'
        f"{escape(text)}</th>"
        for text, is_right in zip(heads, right, strict=True)
    )
    body = "".join(
        '<tr style="background:none">'
        + "".join(
            f'<td style="{_CELL};text-align:{"right" if cell.right else "left"};white-space:nowrap;'
            f'font-variant-numeric:tabular-nums">{cell.html or escape(cell.text)}</td>'
            for cell in row
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<table style="border-collapse:collapse;border:none;font-size:90%"><thead><tr style="'
        f'background:none">{head}</tr></thead><tbody>{body}</tbody></table>'
    )


def _bar(share: float) -> Cell:
    color = _GREEN if share < 0.7 else _AMBER if share < 0.95 else _RED
    filled = round(share * 10)
    width = max(2, round(share * 100)) if share > 0 else 0
    html = (
        '<div style="width:96px;height:8px;border-radius:4px;background:rgba(128,128,128,.25);'
        f'overflow:hidden"><div style="width:{width}%;height:8px;background:{color}"></div></div>'
    )
    return Cell("█" * filled + "░" * (10 - filled), html)


def _count(amount: float) -> str:
    return f"{math.ceil(amount - 1e-6):,}"


def _opens(row: Standing, now: float) -> str:
    if row.opens_at <= now:
        return "now"
    if not math.isfinite(row.opens_at):
        return "closed"
    return _at(row.opens_at, now)


def _back(row: Standing, now: float) -> str:
    return "is full" if row.used <= 1e-6 else _at(row.resets_at, now)


def _at(moment: float, now: float) -> str:
    """`in 42 s`, or for longer waits the local time as well."""
    seconds = moment - now
    if seconds < 100:
        return in_seconds(seconds)
    local = datetime.fromtimestamp(moment).astimezone()
    far = seconds > 86_400 / 2
    return f"{in_seconds(seconds)}, {local:%d %b %H:%M}" if far else f"{in_seconds(seconds)}, {local:%H:%M}"
