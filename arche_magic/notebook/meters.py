"""What every route has left: a row per route, a meter per limit; as HTML and as text.

`%llm_quota` shows all of it at once; the panel shows the meters of one route at a time, live.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from types import MappingProxyType

from arche_magic.llm_providers.types import Route, RouteId, Standing

from .quota_words import (
    Limits,
    Soon,
    as_of,
    as_text,
    in_full,
    label_of,
    lines,
    paid_words,
    share_left,
    sign_of,
    state_of,
    tightest,
)
from .quota_words import clock as clock
from .quota_words import count as count
from .route_groups import by_provider, summary
from .styles import AMBER, GREEN, RED, STATES, TRACK
from .tables import notes_html

# With more routes than these, those of a provider fold together, and each shows its tightest limit
# and unfolds to the others.
_ROUTES_IN_FULL = 9
# With more routes than these, the groups are folded at first.
ROUTES_UNFOLDED = 20
# With more routes than these, each is one line of text: the HTML of 500 meters is too large to save
# in a notebook.
_ROUTES_WITH_METERS = 60
# Short, because it is part of every meter; opacity suits light and dark pages.
_FAINT = "opacity:.65;font-size:85%"
# Rows wrap: on a narrow page the meters go below the name and the state of their route.
_TABLE = "display:block;width:100%;border-collapse:collapse;border:none;font-size:90%;margin:0"
_ROW = (
    "display:flex;flex-wrap:wrap;padding:0;background:none;"
    "border:none;border-bottom:1px solid rgba(128,128,128,.25)"
)
_CELL = (
    "display:block;box-sizing:border-box;min-width:0;border:none;text-align:left;line-height:1.35;"
    "white-space:normal;overflow-wrap:anywhere"
)
# The widths of a row's cells, where it has one line per route or several.
_WIDTHS = ("flex:0 1 140px", "flex:0 1 140px", "flex:1 1 200px")
_SLIM_WIDTHS = ("flex:0 1 250px", "flex:0 1 140px", "flex:1 1 180px")
_METERS = "display:flex;flex-wrap:wrap;white-space:nowrap;font-variant:tabular-nums"
_METER = "flex:1 1 130px;max-width:210px;margin:0 10px 4px 0"
_BAR = "height:5px;border-radius:3px;margin:2px 0;overflow:hidden"
# Behind the bar of a limit with nothing left: red, fainter than a bar.
_EMPTY = "rgba(208,73,59,.45)"


def quota_bundle(
    standings: Sequence[Standing],
    now: float,
    notes: Sequence[str] = (),
    none: str = "no route can take prompts",
    paid: Mapping[RouteId, str] = MappingProxyType({}),
) -> dict[str, str]:
    """The quota of every route, as text of at most 100 columns and as HTML.

    `notes` are lines below it: what the present pace leads to, and keys that add no quota. `none`
    is said where there is no limit to show. `paid` says which routes cost money, and what. The
    table is saved, so all times in it are absolute, and the line below it is its moment.
    """
    notes = [as_of(now), *notes]
    if not standings:
        return {"text/plain": "\n".join([none, *notes]), "text/html": none + notes_html(notes)}
    routes = by_route(standings)
    fold = len(routes) > _ROUTES_IN_FULL
    if fold:
        html = "".join(
            _group(provider, group, now, paid, len(routes))
            for provider, group in by_provider(routes).items()
        )
    else:
        html = _table(
            _row(limits, _meters(limits, now, "seconds"), now, paid=paid_words(limits, paid))
            for limits in routes
        )
    return {
        "text/plain": "\n".join([as_text(routes, now, fold, paid), *notes]),
        "text/html": html + notes_html(notes),
    }


def is_folded(standings: Iterable[Standing]) -> bool:
    """Whether there are so many routes that those of a provider fold together."""
    return len({row.route for row in standings}) > _ROUTES_IN_FULL


def live_table(
    routes: Iterable[Limits],
    now: float,
    is_on: Callable[[Limits], bool],
    paid: Mapping[RouteId, str],
    every_limit: bool = True,
) -> str:
    """The same table, to be shown again and again.

    Nothing in it unfolds, and only times less than 100 seconds away count down, so that it rarely
    changes. A route for which `is_on` is false is shown as off. Without `every_limit` each route is
    one line, with its tightest limit.
    """
    meters, slim = (_meters, False) if every_limit else (_tightest, True)
    rows = (
        _row(
            limits, meters(limits, now, soon="minutes"), now,
            paid=paid_words(limits, paid), on=is_on(limits), slim=slim,
        )
        for limits in routes
    )  # fmt: skip
    return _table(rows, slim=slim)


def shared_notes(shared: Mapping[str, str], provider: str | None = None) -> list[str]:
    """A line per key that adds no quota, of this provider if one is named."""
    return [
        f"{label} shares its account with {first}: adds no quota"
        for label, first in shared.items()
        if provider is None or label.startswith(f"{provider}_key_")
    ]


def switched_off(off: Iterable[str]) -> list[str]:
    """A line that names the keys and models that are off, if any are."""
    names = ", ".join(sorted(off))
    return [f"Switched off in this session: {names}"] if names else []


def budget_notes(left: Iterable[str]) -> list[str]:
    """A line on what is left of each budget of paid routes, if there is one."""
    words = ", ".join(left)
    return [f"Budget of paid routes: {words} (UTC)"] if words else []


def without_limits(
    routes: Iterable[Route], standings: Iterable[Standing], paid: Mapping[RouteId, str]
) -> list[str]:
    """A line per route without a known limit; `paid` says which of them cost money, and what."""
    limited = {row.route for row in standings}
    names = {route.id: route for route in routes}
    return [
        f"{route}: no limit is known" + (f" · {paid[name]}" if name in paid else "")
        for name, route in names.items()
        if name not in limited
    ]


def by_route(standings: Iterable[Standing]) -> list[tuple[Standing, ...]]:
    """The limits grouped by route, in their order."""
    groups = itertools.groupby(standings, key=lambda row: row.route)
    return [tuple(limits) for _, limits in groups]


def _state_html(limits: Limits, now: float, soon: Soon) -> str:
    """Whether the route takes the next request, or when; a sign, a word and a colour."""
    sign, words, why = state_of(limits, now, soon)
    reason = f'<div style="{_FAINT}">{escape(why)}</div>' if why else ""
    return (
        f'<span style="white-space:nowrap"><span style="color:{STATES[sign]}">{sign}</span> '
        f"{escape(words)}</span>{reason}"
    )


def _group(
    provider: str,
    routes: Sequence[Limits],
    now: float,
    paid: Mapping[RouteId, str],
    all_routes: int,
) -> str:
    """The state of a provider's routes in one line, which unfolds to the routes."""
    if all_routes > _ROUTES_WITH_METERS:
        inside = (
            '<div tabindex="0" style="white-space:pre;overflow-x:auto;font-family:monospace;'
            'font-size:85%">'
            f"{escape(chr(10).join(lines(routes, now, paid, reasons=True)))}</div>"
        )
    else:
        rows = (
            _row(
                limits, _folded(limits, now, "seconds"), now,
                paid=paid_words(limits, paid), slim=True,
            )
            for limits in routes
        )  # fmt: skip
        inside = _table(rows, slim=True)
    unfolded = "" if all_routes > ROUTES_UNFOLDED else " open"
    return (
        f'<details{unfolded}><summary style="cursor:pointer"><b>{escape(provider)}</b> · '
        f"{summary(routes, now)}</summary>{inside}</details>"
    )


def _table(rows: Iterable[str], *, slim: bool = False) -> str:
    heads = (
        "route",
        "next request",
        "left of each limit · ↻ full again · ✓ stated by the provider",
    )
    head = "".join(
        f'<th style="{_CELL};{width};padding:3px 14px 3px 0;font-weight:normal">'
        f'<span style="{_FAINT}">{text}</span></th>'
        for text, width in zip(heads, _SLIM_WIDTHS if slim else _WIDTHS, strict=True)
    )
    block = "display:block"
    return (
        f'<table style="{_TABLE}">'
        f'<thead style="{block}"><tr style="{_ROW}">{head}</tr></thead>'
        f'<tbody style="{block}">{"".join(rows)}</tbody></table>'
    )


def _row(
    limits: Limits,
    meters: str,
    now: float,
    *,
    paid: str,
    on: bool | None = None,
    slim: bool = False,
) -> str:
    first = limits[0]
    key, _, model = str(first.route).rpartition(" · ")
    if paid and slim:
        model += f" · {paid}"
    name = (
        f'<span style="font-weight:600;white-space:nowrap">{escape(key)}</span>'
        f'{" " if slim else "<br>"}<span style="{_FAINT}">{escape(model)}</span>'
    )
    if paid and not slim:
        name += f'<div style="{_FAINT}">{escape(paid)}</div>'
    soon: Soon = "seconds" if on is None else "countdown"
    on = on is not False
    state = _state_html(limits, now, soon) if on else '<span style="opacity:.65">○ off</span>'
    padding = f"padding:{3 if slim else 7}px 14px {3 if slim else 7}px 0"
    faded = "" if on else ";opacity:.45"
    cells = "".join(
        f'<td style="{_CELL};{width};{padding}{fade}">{cell}</td>'
        for cell, width, fade in zip(
            (name, state, meters),
            _SLIM_WIDTHS if slim else _WIDTHS,
            (faded, "", faded),
            strict=True,
        )
    )
    return f'<tr style="{_ROW}">{cells}</tr>'


def _meters(limits: Limits, now: float, soon: Soon) -> str:
    """Side by side; on a narrow page they wrap."""
    return f'<div style="{_METERS}">{"".join(_meter(row, now, soon) for row in limits)}</div>'


def _tightest(limits: Limits, now: float, soon: Soon) -> str:
    """The meter of the tightest limit in one line, and how many more there are."""
    row = tightest(limits)
    full = f"↻ {clock(row.resets_at, now, soon)}" if row.used > 1e-6 else ""
    more = f"{len(limits) - 1} more" if len(limits) > 1 else ""
    faint = " · ".join(filter(None, (full, sign_of(row, now, soon), more)))
    return (
        f'<div title="{escape(in_full(row, now, soon))}" style="{_METERS};'
        'display:inline-flex;align-items:center">'
        f'<div style="{_FAINT};min-width:104px">{escape(label_of(row))}</div>'
        f'<div style="width:90px;margin-right:10px">{_bar(row)}</div>'
        f'<div style="min-width:120px">{_numbers(row)}</div> <div style="{_FAINT}">{faint}</div>'
        "</div>"
    )


def _folded(limits: Limits, now: float, soon: Soon) -> str:
    """The meter of the tightest limit, which unfolds to the others."""
    worst = tightest(limits)
    others = [row for row in limits if row is not worst]
    if not others:
        return _meters(limits, now, soon)
    return (
        f'<details><summary style="cursor:pointer">{_tightest(limits, now, soon)}</summary>'
        f"{_meters(others, now, soon)}</details>"
    )


def _meter(row: Standing, now: float, soon: Soon) -> str:
    full = f"↻ {clock(row.resets_at, now, soon)}" if row.used > 1e-6 else ""
    sign = sign_of(row, now, soon)
    sign = f'<span style="{_FAINT}">{sign}</span>' if sign else ""
    return (
        f'<div title="{escape(in_full(row, now, soon))}" style="{_METER}">'
        f'<div style="{_FAINT}">{_two_sides(escape(label_of(row)), full)}</div>'
        f"{_bar(row)}{_two_sides(_numbers(row), sign)}</div>"
    )


def _bar(row: Standing) -> str:
    """A bar as long as what is left, before a grey track, or a red one if nothing is."""
    share = share_left(row)
    color = GREEN if share > 0.3 else AMBER if share > 0.05 else RED
    width = max(2, round(100 * share)) if share > 0 else 0
    filled = f'<div style="width:{width}%;height:5px;background:{color}"></div>'
    track = TRACK if row.remaining_units else _EMPTY
    return f'<div style="{_BAR};background:{track}">{filled}</div>'


def _numbers(row: Standing) -> str:
    return f"{count(row.remaining_units)} of {count(row.allowed_units)}"


def _two_sides(left: str, right: str) -> str:
    if not right:
        return f"<div>{left}</div>"
    return (
        '<div style="display:flex;justify-content:space-between;gap:6px">'
        f"<span>{left}</span> <span>{right}</span></div>"
    )
