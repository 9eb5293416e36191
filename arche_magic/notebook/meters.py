"""What every route has left: a row per route, a meter per limit; as HTML and as text.

`%llm_quota` shows all of it at once; the panel shows the meters of one route at a time, live.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from types import MappingProxyType

from arche_magic.llm_providers.types import Route, Standing, in_seconds, route_name

from .costs import Name
from .tables import notes_html

# With more routes than these, each shows its tightest limit, and unfolds to the others.
_ROUTES_IN_FULL = 9
_GREEN, _AMBER, _RED, _TRACK = "#2e9e5b", "#c98a1b", "#d0493b", "rgba(128,128,128,.25)"
# Short, for it stands in every meter; opacity suits any page.
_FAINT = "opacity:.65;font-size:85%"
_SHORT = {"minute": "min", "second": "s"}
_LINE = "border:none;border-bottom:1px solid rgba(128,128,128,.25);vertical-align:top"
_CELL = f"{_LINE};padding:7px 14px 7px 0;text-align:left;line-height:1.35"
_METERS = "display:flex;flex-wrap:wrap;white-space:nowrap;font-variant:tabular-nums"
_METER = "min-width:150px;margin:0 10px 4px 0"
_BAR = f"height:5px;border-radius:3px;margin:2px 0;background:{_TRACK};overflow:hidden"
_BAR_SIGNS = 10

Limits = Sequence[Standing]


def quota_bundle(
    standings: Sequence[Standing],
    now: float,
    notes: Sequence[str] = (),
    none: str = "no route is open to prompts",
    paid: Mapping[Name, str] = MappingProxyType({}),
) -> dict[str, str]:
    """The quota of every route, as text of at most 100 columns and as HTML.

    `notes` are lines below it: what the present pace leads to, and keys that add no quota. `none`
    is said where there is no limit to show. `paid` says which routes cost money, and what.
    """
    if not standings:
        return {"text/plain": "\n".join([none, *notes]), "text/html": none + notes_html(notes)}
    routes = by_route(standings)
    fold = len(routes) > _ROUTES_IN_FULL
    rows = (
        _row(
            limits,
            (_folded if fold else _meters)(limits, now),
            now,
            paid=_paid(limits, paid),
            slim=fold,
        )
        for limits in routes
    )
    return {
        "text/plain": "\n".join([_text(routes, now, fold, paid), *notes]),
        "text/html": _table(rows) + notes_html(notes),
    }


def live_table(
    standings: Sequence[Standing],
    now: float,
    is_on: Callable[[Limits], bool],
    paid: Mapping[Name, str],
) -> str:
    """The same table for showing again and again.

    Nothing in it unfolds, and only what opens soon counts down, so that most of the time it stays
    the same. A route for which `is_on` is false says so.
    """
    routes = by_route(standings)
    fold = len(routes) > _ROUTES_IN_FULL
    return _table(
        _row(
            limits,
            (_tightest if fold else _meters)(limits, now, ticking=False),
            now,
            paid=_paid(limits, paid),
            on=is_on(limits),
            slim=fold,
        )
        for limits in routes
    )


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


def budget_notes(uses: Iterable[object]) -> list[str]:
    """A line on what paid routes have cost of their budget, if there is one."""
    words = ", ".join(map(str, uses))
    return [f"Budget of paid routes: {words} (UTC)"] if words else []


def without_limits(
    routes: Iterable[Route], standings: Iterable[Standing], paid: Mapping[Name, str]
) -> list[str]:
    """A line per route without a known limit; `paid` says which of them cost money, and what."""
    limited = {(row.provider, row.key, row.model) for row in standings}
    names = {(route.provider, route.key.label, route.model): route for route in routes}
    return [
        f"{route}: no limit is known" + (f" · {paid[name]}" if name in paid else "")
        for name, route in names.items()
        if name not in limited
    ]


def by_route(standings: Iterable[Standing]) -> list[tuple[Standing, ...]]:
    """The limits of each route together, in the order they came."""
    groups = itertools.groupby(standings, key=lambda row: (row.provider, row.key, row.model))
    return [tuple(limits) for _, limits in groups]


def _paid(limits: Limits, paid: Mapping[Name, str]) -> str:
    return paid.get((limits[0].provider, limits[0].key, limits[0].model), "")


def tightest(limits: Limits) -> Standing:
    """The limit that stands most in the way: of those that shut the route, or the fullest."""
    return max(limits, key=lambda row: (row.opens_at, _share(row)))


def _state_html(limits: Limits, now: float) -> str:
    """Whether the route takes the next request, or when; a sign, a word and a colour."""
    sign, words, why = _state(limits, now)
    color = {"●": _GREEN, "◐": _AMBER, "○": _RED}[sign]
    reason = f'<div style="{_FAINT}">{escape(why)}</div>' if why else ""
    return (
        f'<span style="white-space:nowrap"><span style="color:{color}">{sign}</span> '
        f"{escape(words)}</span>{reason}"
    )


def state_words(limits: Limits, now: float) -> str:
    """The same in words, with the reason: `opens in 42 s: 30 requests per minute are spent`."""
    _, words, why = _state(limits, now)
    return f"{words}: {why}" if why else words


def _table(rows: Iterable[str]) -> str:
    heads = ("route", "next request", "used of each limit · ↻ full again · ✓ the provider said so")
    head = "".join(
        f'<th style="{_CELL};padding-bottom:3px;font-weight:normal">'
        f'<span style="{_FAINT}">{text}</span></th>'
        for text in heads
    )
    return (
        '<table style="border-collapse:collapse;border:none;font-size:90%;margin:0">'
        f'<thead><tr style="background:none">{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _row(
    limits: Limits, meters: str, now: float, *, paid: str, on: bool = True, slim: bool = False
) -> str:
    first = limits[0]
    key, _, model = route_name(first.provider, first.key, first.model).rpartition(" · ")
    if paid and slim:
        model += f" · {paid}"
    name = (
        f'<span style="white-space:nowrap"><span style="font-weight:600">{escape(key)}</span>'
        f'{" " if slim else "<br>"}<span style="{_FAINT}">{escape(model)}</span></span>'
    )
    if paid and not slim:
        name += f'<div style="{_FAINT}">{escape(paid)}</div>'
    state = _state_html(limits, now) if on else '<span style="opacity:.65">○ off</span>'
    padding = "padding-top:3px;padding-bottom:3px" if slim else ""
    widths = ("", ";min-width:108px;max-width:230px", ";padding-right:0;width:100%")
    faded = "" if on else ";opacity:.45"
    return (
        '<tr style="background:none">'
        + "".join(
            f'<td style="{_CELL}{width};white-space:normal{fade};{padding}">{cell}</td>'
            for cell, width, fade in zip(
                (name, state, meters), widths, (faded, "", faded), strict=True
            )
        )
        + "</tr>"
    )


def _meters(limits: Limits, now: float, ticking: bool = True) -> str:
    """Side by side; on a narrow page they wrap."""
    return f'<div style="{_METERS}">{"".join(_meter(row, now, ticking) for row in limits)}</div>'


def _tightest(limits: Limits, now: float, ticking: bool = True) -> str:
    """The meter of the tightest limit in one line, and how many more there are."""
    row = tightest(limits)
    full = f"↻ {clock(row.resets_at, now, ticking)}" if row.used > 1e-6 else ""
    more = f"{len(limits) - 1} more" if len(limits) > 1 else ""
    faint = " · ".join(filter(None, (full, _sign(row, now, ticking), more)))
    return (
        f'<div title="{escape(_in_full(row, now, ticking))}" style="{_METERS};'
        'display:inline-flex;align-items:center">'
        f'<div style="{_FAINT};min-width:104px">{escape(_label(row))}</div>'
        f'<div style="width:90px;margin-right:10px">{_bar(row)}</div>'
        f'<div style="min-width:120px">{_numbers(row)}</div> <div style="{_FAINT}">{faint}</div>'
        "</div>"
    )


def _folded(limits: Limits, now: float) -> str:
    """The meter of the tightest limit, which unfolds to the others."""
    worst = tightest(limits)
    others = [row for row in limits if row is not worst]
    if not others:
        return _meters(limits, now)
    return (
        f'<details><summary style="cursor:pointer">{_tightest(limits, now)}</summary>'
        f"{_meters(others, now)}</details>"
    )


def _meter(row: Standing, now: float, ticking: bool = True) -> str:
    full = f"↻ {clock(row.resets_at, now, ticking)}" if row.used > 1e-6 else ""
    sign = _sign(row, now, ticking)
    sign = f'<span style="{_FAINT}">{sign}</span>' if sign else ""
    return (
        f'<div title="{escape(_in_full(row, now, ticking))}" style="{_METER}">'
        f'<div style="{_FAINT}">{_two_sides(escape(_label(row)), full)}</div>'
        f"{_bar(row)}{_two_sides(_numbers(row), sign)}</div>"
    )


def _bar(row: Standing) -> str:
    share = _share(row)
    color = _GREEN if share < 0.7 else _AMBER if share < 0.95 else _RED
    width = max(2, round(100 * share)) if share > 0 else 0
    filled = f'<div style="width:{width}%;height:5px;background:{color}"></div>'
    return f'<div style="{_BAR}">{filled}</div>'


def _numbers(row: Standing) -> str:
    return f"{count(row.used_units)} of {count(row.allowed_units)}"


def _two_sides(left: str, right: str) -> str:
    if not right:
        return f"<div>{left}</div>"
    return (
        '<div style="display:flex;justify-content:space-between;gap:6px">'
        f"<span>{left}</span> <span>{right}</span></div>"
    )


def _text(routes: Sequence[Limits], now: float, fold: bool, paid: Mapping[Name, str]) -> str:
    lines = []
    for limits in routes:
        first = limits[0]
        name = route_name(first.provider, first.key, first.model)
        cost = [f"  {words}"] if (words := _paid(limits, paid)) else []
        if fold:
            worst = tightest(limits)
            used = f"{count(worst.used_units)} of {count(worst.allowed_units)}"
            _, words, _ = _state(limits, now)
            lines.append(
                f"{name:<32}  {words:<15}  {_label(worst):<16}  {_text_bar(worst)}  {used:>18}"
            )
            lines += cost
        else:
            state = textwrap.shorten(state_words(limits, now), 64, placeholder=" …")
            lines += [f"{name} · {state}", *cost, *(_text_meter(row, now) for row in limits)]
    if fold:
        lines.append("Each with its tightest limit; the DataFrame has them all.")
    return "\n".join(lines)


def _text_meter(row: Standing, now: float) -> str:
    used = f"{count(row.used_units)} of {count(row.allowed_units)}"
    full = f"full {clock(row.resets_at, now)}" if row.used > 1e-6 else ""
    line = f"  {_label(row):<16}  {_text_bar(row)}  {used:>18}  {full:<16}  {_evidence(row, now)}"
    return line.rstrip()


def _text_bar(row: Standing) -> str:
    filled = round(_share(row) * _BAR_SIGNS)
    return "█" * filled + "░" * (_BAR_SIGNS - filled)


def _state(limits: Limits, now: float) -> tuple[str, str, str]:
    """A sign, whether or when it opens, and what shuts it."""
    last = tightest(limits)
    if last.opens_at <= now:
        return "●", "open", ""
    why = last.shut_by or last.reason
    if last.amount <= 0:
        why = f"the plan has no {last.limit.replace('_', ' ')}"
    elif not last.shut_by and last.used_units >= last.allowed_units:
        why = f"{count(last.amount)} {last.limit.replace('_', ' ')} are spent"
    why = textwrap.shorten(why, 160, placeholder=" …")
    if not math.isfinite(last.opens_at):
        return "○", "closed", why
    return "◐", f"opens {clock(last.opens_at, now)}", why


def clock(moment: float, now: float, ticking: bool = True) -> str:
    """`in 42 s`; from 100 seconds on the local time, `14:32`, `Tue 20:08` or `1 Dec`.

    One that is not `ticking` is a time however soon it comes.
    """
    if ticking and moment - now < 100:
        return in_seconds(max(0.0, moment - now))
    # Rounded up, since early is too early.
    local = datetime.fromtimestamp(math.ceil(moment / 60) * 60).astimezone()
    days = (local.date() - datetime.fromtimestamp(now).astimezone().date()).days
    if days >= 7:
        return f"{local.day} {local:%b}"
    return f"{local:%a %H:%M}" if days else f"{local:%H:%M}"


def count(amount: float) -> str:
    """A count, rounded up; from ten million on in millions, so that columns stay narrow."""
    whole = math.ceil(amount - 1e-6)
    if whole < 10_000_000:
        return f"{whole:,}"
    return f"{whole / 1e6:,.0f} M" if whole < 10_000_000_000 else f"{whole / 1e9:,.0f} G"


def _sign(row: Standing, now: float, ticking: bool) -> str:
    """A short sign for what the figure rests on; none for the published table."""
    if row.evidence == "published":
        return ""
    return "yours" if row.evidence == "configured" else f"✓ {_age(row, now, ticking)}".rstrip()


def _in_full(row: Standing, now: float, ticking: bool) -> str:
    """What a meter shows, in words."""
    used = (
        f"{row.limit.replace('_', ' ')}: {count(row.used_units)} of {count(row.allowed_units)} used"
    )
    full = f", full again {clock(row.resets_at, now, ticking)}" if row.used > 1e-6 else ""
    where = row.source.partition(";")[0]
    source = f" ({where})" if row.evidence == "published" and where else ""
    return f"{used}{full}; known from: {_evidence(row, now, ticking)}{source}"


def _evidence(row: Standing, now: float, ticking: bool = True) -> str:
    """What a figure rests on and, for what a provider said, how old it is: `header 12 s ago`."""
    age = _age(row, now, ticking)
    if row.evidence in ("published", "configured") or not age:
        return row.evidence
    return f"{row.evidence} {age} ago"


def _age(row: Standing, now: float, ticking: bool) -> str:
    seconds = max(0.0, now - row.evidence_at)
    return in_seconds(seconds).removeprefix("in ") if ticking or seconds >= 100 else ""


def _label(row: Standing) -> str:
    metric, period = row.metric.replace("_", " "), row.period
    return f"{metric}/{_SHORT.get(period, period)}"


def _share(row: Standing) -> float:
    return min(1.0, row.used / row.amount) if row.amount else 1.0
