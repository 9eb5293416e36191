"""The quota table, as HTML and as text: a row per route, a meter per limit.

`quota_bundle` returns the table that is saved in a notebook, and `table` the one that a panel
redraws.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from arche_magic.llm_providers.text.wording import plural
from arche_magic.llm_providers.types import RouteId, Standing

from .styles import AMBER, GREEN, RED, TRACK, details, escape, notes_html
from .words import (
    SIGNS,
    RouteQuota,
    State,
    amounts_of,
    as_of,
    bar_length,
    by_route,
    evidence_of,
    full_again,
    in_full,
    in_short,
    left_of,
    share_left,
    sign_of,
)

# With more routes than these, the routes of a provider fold together, and each shows its tightest
# limit and unfolds to the others.
_ROUTES_IN_FULL = 9
# With more routes than these, the groups are folded at first.
ROUTES_UNFOLDED = 20
# With more routes than these, each is one line of text: the HTML of 500 meters is too large to save
# in a notebook.
_ROUTES_WITH_METERS = 60
_COLORS: Mapping[State, str] = {"open": GREEN, "waiting": AMBER, "closed": RED}
# Short, because it is part of every meter; opacity suits light and dark pages.
_FAINT = "opacity:.65;font-size:85%"
# Rows wrap: on a narrow page the meters go below the name and the state of their route.
_TABLE = "display:block;width:100%;border-collapse:collapse;border:none;font-size:90%;margin:0"
_ROW = (
    "display:flex;flex-wrap:wrap;column-gap:10px;padding:0;background:none;"
    "border:none;border-bottom:1px solid rgba(128,128,128,.25)"
)
_CELL = (
    "display:block;box-sizing:border-box;min-width:0;border:none;text-align:left;line-height:1.35;"
    "white-space:normal;overflow-wrap:anywhere"
)
# The widths of a row's cells if a route has several lines, and if it has one. On a page of 700
# pixels, two meters are side by side.
_WIDTHS = ("flex:0 1 115px", "flex:1 1 95px", "flex:30 1 200px")
_SLIM_WIDTHS = ("flex:0 1 240px", "flex:1 1 130px", "flex:1 1 360px")
_METERS = "display:flex;flex-wrap:wrap;white-space:nowrap;font-variant:tabular-nums"
_METER = "flex:1 1 150px;max-width:210px;margin:0 10px 4px 0"
_BAR = "height:5px;border-radius:3px;margin:2px 0;overflow:hidden"
_BAR_SIGNS = 10
# The background of the bar of a limit with nothing left: red, fainter than a bar.
_EMPTY = "rgba(208,73,59,.45)"


def quota_bundle(
    standings: Sequence[Standing],
    now: float,
    notes: Sequence[str] = (),
    none: str = "no route can take prompts",
    paid: Mapping[RouteId, str] = {},
) -> dict[str, str]:
    """The quota of every route, as text of at most 100 columns and as HTML.

    `notes` are lines below it, such as the forecast and keys that add no quota. `none` is shown if
    there is no limit. `paid` has the routes that cost money, with their cost in words. The table is
    saved, so all times in it are absolute, and the line below it says when it was made.
    """
    notes = [as_of(now), *notes]
    if not standings:
        return {"text/plain": "\n".join([none, *notes]), "text/html": none + notes_html(notes)}
    routes = by_route(standings, now, paid)
    fold = is_folded(routes)
    if fold:
        html = "".join(
            _group(provider, group, len(routes)) for provider, group in by_provider(routes).items()
        )
    else:
        html = table(routes)
    return {
        "text/plain": "\n".join([_table_as_text(routes, fold), *notes]),
        "text/html": html + notes_html(notes),
    }


def table(routes: Iterable[RouteQuota], slim: bool = False) -> str:
    """A row per route; in a `slim` table, one line each with the tightest limit.

    Nothing in a live table unfolds, because each change redraws it.
    """
    heads = (
        "route",
        "next request",
        "left of each limit · ↻ full again · ✓ stated by the provider",
    )
    head = "".join(
        f'<th style="{_CELL};padding:3px 0;{width};font-weight:normal">'
        f'<span style="{_FAINT}">{text}</span></th>'
        for text, width in zip(heads, _SLIM_WIDTHS if slim else _WIDTHS, strict=True)
    )
    rows = "".join(_row(route, slim) for route in routes)
    block = "display:block"
    return (
        f'<table style="{_TABLE}">'
        f'<thead style="{block}"><tr style="{_ROW}">{head}</tr></thead>'
        f'<tbody style="{block}">{rows}</tbody></table>'
    )


def _table_as_text(routes: Sequence[RouteQuota], fold: bool) -> str:
    """The quota table as text; with `fold`, each route shows only its tightest limit."""
    if fold:
        end = "Only the tightest limit of each route is shown; the DataFrame has all."
        return "\n".join([*_lines(routes), end])
    text = []
    for route in routes:
        state = f"{route.state}, opens {route.opens}" if route.opens else route.state
        words = ": ".join(filter(None, (state, route.why)))
        text += [f"{route.id} · {textwrap.shorten(words, 64, placeholder=' …')}", *_cost(route)]
        text += [_text_meter(row, route.now) for row in route.limits]
    return "\n".join(text)


def _lines(routes: Sequence[RouteQuota], *, reasons: bool = False) -> list[str]:
    """A line per route, with its tightest limit; with `reasons`, another one if it is not open."""
    text = []
    for route in routes:
        worst, words = route.tightest, f"{route.state} {route.opens}"
        meter = f"{in_short(worst.limit):<14}  {_text_bar(worst)}  {left_of(worst):>23}"
        text.append(f"{route.id!s:<28}  {words:<17}  {meter}")
        text += [f"  {route.why}"] if reasons and route.why else []
        text += _cost(route)
    return text


def _cost(route: RouteQuota) -> list[str]:
    return [f"  {route.paid}"] if route.paid else []


def _text_meter(row: Standing, now: float) -> str:
    full = f"full {when}" if (when := full_again(row, now)) else ""
    meter = f"{in_short(row.limit):<16}  {_text_bar(row)}  {left_of(row):>23}"
    return f"  {meter}  {full:<16}  {evidence_of(row, now)}".rstrip()


def _text_bar(row: Standing) -> str:
    filled = bar_length(row, _BAR_SIGNS)
    return "█" * filled + "░" * (_BAR_SIGNS - filled)


def is_folded(routes: Sequence[RouteQuota]) -> bool:
    """Whether there are so many routes that they are grouped by provider."""
    return len(routes) > _ROUTES_IN_FULL


def by_provider(routes: Iterable[RouteQuota]) -> dict[str, list[RouteQuota]]:
    """The routes of each provider, in their order."""
    groups: dict[str, list[RouteQuota]] = {}
    for route in routes:
        groups.setdefault(route.id.provider, []).append(route)
    return groups


def states_html(routes: Sequence[RouteQuota]) -> str:
    """`50 routes · ● 48 open · ◐ 2 waiting, the first opens 14:32 · requests/day 81 of 90 left`.

    Routes that are off are counted separately.
    """
    on = [route for route in routes if route.is_on]
    parts = [plural(len(routes), "route")]
    for state, sign in SIGNS.items():
        if found := [route for route in on if route.state == state]:
            words = f'<span style="color:{_COLORS[state]}">{sign}</span> {len(found)} {state}'
            if state == "waiting":
                first = min(found, key=lambda route: route.tightest.opens_at)
                words += f", the first opens {first.opens}"
            parts.append(words)
    parts += [f"○ {len(routes) - len(on)} off"] if len(on) < len(routes) else []
    if on:
        total = _tightest_total(on)
        parts.append(escape(f"{in_short(total.limit)} {left_of(total)}"))
    return " · ".join(parts)


def _tightest_total(routes: Sequence[RouteQuota]) -> Standing:
    """The sum over all routes of the limit with the least left.

    Keys of one account share their limits, which count once.
    """
    each = {(row.account, row.model, row.limit): row for route in routes for row in route.limits}
    totals: dict[str, Standing] = {}
    for row in each.values():
        if total := totals.get(row.limit):
            used, amount = total.used + row.used, total.amount + row.amount
            totals[row.limit] = replace(total, used=used, amount=amount)
        else:
            totals[row.limit] = row
    return min(totals.values(), key=share_left)


def _group(provider: str, routes: Sequence[RouteQuota], all_routes: int) -> str:
    if all_routes > _ROUTES_WITH_METERS:
        inside = (
            '<div tabindex="0" style="white-space:pre;overflow-x:auto;font-family:monospace;'
            'font-size:85%">'
            f"{escape(chr(10).join(_lines(routes, reasons=True)))}</div>"
        )
    else:
        inside = table(routes, slim=True)
    line = f"<b>{escape(provider)}</b> · {states_html(routes)}"
    return details(line, inside, is_open=all_routes <= ROUTES_UNFOLDED)


def _row(route: RouteQuota, slim: bool) -> str:
    if not slim:
        meters = _meters(route.limits, route.now)
    elif route.live:
        meters = _tightest(route)
    else:
        meters = _unfolding(route)
    state = _state(route) if route.is_on else '<span style="opacity:.65">○ off</span>'
    padding = f"padding:{3 if slim else 7}px 0"
    faded = "" if route.is_on else ";opacity:.45"
    cells = "".join(
        f'<td style="{_CELL};{padding};{width}{fade}">{cell}</td>'
        for cell, width, fade in zip(
            (_name(route, slim), state, meters),
            _SLIM_WIDTHS if slim else _WIDTHS,
            (faded, "", faded),
            strict=True,
        )
    )
    return f'<tr style="{_ROW}">{cells}</tr>'


def _name(route: RouteQuota, slim: bool) -> str:
    key, _, model = str(route.id).rpartition(" · ")
    bold = f'<span style="font-weight:600;white-space:nowrap">{escape(key)}</span>'
    if slim:
        words = " · ".join(filter(None, (model, route.paid)))
        return f'{bold} <span style="{_FAINT}">{escape(words)}</span>'
    cost = f'<div style="{_FAINT}">{escape(route.paid)}</div>' if route.paid else ""
    return f'{bold}<br><span style="{_FAINT}">{escape(model)}</span>{cost}'


def _state(route: RouteQuota) -> str:
    """Whether the route is open, or when it opens and why not now: a sign, a colour and words."""
    opens = f"opens {route.opens}" if route.opens else ""
    when = ": ".join(filter(None, (opens, route.why)))
    below = f'<div style="{_FAINT}">{escape(when)}</div>' if when else ""
    return (
        f'<span style="white-space:nowrap"><span style="color:{_COLORS[route.state]}">'
        f"{SIGNS[route.state]}</span> {route.state}</span>{below}"
    )


def _meters(limits: Iterable[Standing], now: float) -> str:
    """The meters side by side; on a narrow page they wrap."""
    return f'<div style="{_METERS}">{"".join(_meter(row, now) for row in limits)}</div>'


def _tightest(route: RouteQuota) -> str:
    """The meter of the tightest limit in one line, and how many more there are."""
    row, now = route.tightest, route.now
    more = f"{len(route.limits) - 1} more" if len(route.limits) > 1 else ""
    faint = " · ".join(filter(None, (_full_again(row, now), sign_of(row, now), more)))
    return (
        f'<div title="{escape(in_full(row, now))}" style="{_METERS};'
        'display:inline-flex;align-items:center">'
        f'<div style="{_FAINT};min-width:104px">{escape(in_short(row.limit))}</div>'
        f'<div style="width:90px;margin-right:10px">{_bar(row)}</div>'
        f'<div style="min-width:120px">{amounts_of(row)}</div> <div style="{_FAINT}">{faint}</div>'
        "</div>"
    )


def _unfolding(route: RouteQuota) -> str:
    others = [row for row in route.limits if row is not route.tightest]
    if not others:
        return _meters(route.limits, route.now)
    return details(_tightest(route), _meters(others, route.now))


def _meter(row: Standing, now: float) -> str:
    sign = sign_of(row, now)
    sign = f'<span style="{_FAINT}">{sign}</span>' if sign else ""
    head = _two_sides(escape(in_short(row.limit)), _full_again(row, now))
    return (
        f'<div title="{escape(in_full(row, now))}" style="{_METER}">'
        f'<div style="{_FAINT}">{head}</div>'
        f"{_bar(row)}{_two_sides(amounts_of(row), sign)}</div>"
    )


def _full_again(row: Standing, now: float) -> str:
    return f"↻ {when}" if (when := full_again(row, now)) else ""


def _bar(row: Standing) -> str:
    """A bar as long as the share that is left, on a grey track, or a red one if nothing is left."""
    share = share_left(row)
    color = GREEN if share > 0.3 else AMBER if share > 0.05 else RED
    filled = f'<div style="width:{bar_length(row, 100)}%;height:5px;background:{color}"></div>'
    track = TRACK if row.remaining_units else _EMPTY
    return f'<div style="{_BAR};background:{track}">{filled}</div>'


def _two_sides(left: str, right: str) -> str:
    if not right:
        return f"<div>{left}</div>"
    return (
        '<div style="display:flex;flex-wrap:wrap;justify-content:space-between;column-gap:6px">'
        f"<span>{left}</span> <span>{right}</span></div>"
    )
