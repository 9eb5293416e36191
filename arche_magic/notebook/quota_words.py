"""The quota of routes in words: for the text of the table, and for what its meters say."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime

from arche_magic.llm_providers.types import Standing, in_seconds

from .costs import Name

_SHORT = {"minute": "min", "second": "s"}
_BAR_SIGNS = 10

Limits = Sequence[Standing]
"""The limits of one route."""


def as_text(routes: Sequence[Limits], now: float, fold: bool, paid: Mapping[Name, str]) -> str:
    """The quota table as text; with `fold`, each route shows its tightest limit alone."""
    if fold:
        end = "Each with its tightest limit; the DataFrame has them all."
        return "\n".join([*lines(routes, now, paid), end])
    text = []
    for limits in routes:
        state = textwrap.shorten(state_words(limits, now), 64, placeholder=" …")
        text += [f"{limits[0].route} · {state}", *_cost(limits, paid)]
        text += [_text_meter(row, now) for row in limits]
    return "\n".join(text)


def lines(
    routes: Sequence[Limits], now: float, paid: Mapping[Name, str], *, reasons: bool = False
) -> list[str]:
    """A line per route, with its tightest limit; with `reasons`, another one if it is not open."""
    text = []
    for limits in routes:
        worst = tightest(limits)
        used = f"{count(worst.used_units)} of {count(worst.allowed_units)}"
        _, words, why = state_of(limits, now)
        name = str(worst.route)
        text.append(
            f"{name:<32}  {words:<15}  {label_of(worst):<16}  {_text_bar(worst)}  {used:>18}"
        )
        text += [f"  {why}"] if why and reasons else []
        text += _cost(limits, paid)
    return text


def _cost(limits: Limits, paid: Mapping[Name, str]) -> list[str]:
    return [f"  {words}"] if (words := paid_words(limits, paid)) else []


def _text_meter(row: Standing, now: float) -> str:
    used = f"{count(row.used_units)} of {count(row.allowed_units)}"
    full = f"full {clock(row.resets_at, now)}" if row.used > 1e-6 else ""
    line = f"  {label_of(row):<16}  {_text_bar(row)}  {used:>18}  {full:<16}  {_evidence(row, now)}"
    return line.rstrip()


def _text_bar(row: Standing) -> str:
    filled = round(share_of(row) * _BAR_SIGNS)
    return "█" * filled + "░" * (_BAR_SIGNS - filled)


def state_of(limits: Limits, now: float) -> tuple[str, str, str]:
    """A sign, whether or when the route opens, and what keeps it closed."""
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

    Without `ticking` it is a time, however soon it comes.
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


def sign_of(row: Standing, now: float, ticking: bool) -> str:
    """A short sign for where the figure comes from; none for the published table."""
    if row.evidence == "published":
        return ""
    return "yours" if row.evidence == "configured" else f"✓ {_age(row, now, ticking)}".rstrip()


def in_full(row: Standing, now: float, ticking: bool) -> str:
    """What a meter shows, in words."""
    used = (
        f"{row.limit.replace('_', ' ')}: {count(row.used_units)} of {count(row.allowed_units)} used"
    )
    full = f", full again {clock(row.resets_at, now, ticking)}" if row.used > 1e-6 else ""
    where = row.source.partition(";")[0]
    source = f" ({where})" if row.evidence == "published" and where else ""
    return f"{used}{full}; known from: {_evidence(row, now, ticking)}{source}"


def _evidence(row: Standing, now: float, ticking: bool = True) -> str:
    """Where a figure comes from, and how old it is if a provider said so: `header 12 s ago`."""
    age = _age(row, now, ticking)
    if row.evidence in ("published", "configured") or not age:
        return row.evidence
    return f"{row.evidence} {age} ago"


def _age(row: Standing, now: float, ticking: bool) -> str:
    seconds = max(0.0, now - row.evidence_at)
    return in_seconds(seconds).removeprefix("in ") if ticking or seconds >= 100 else ""


def label_of(row: Standing) -> str:
    """The limit in short: `requests/min`."""
    metric, period = row.metric.replace("_", " "), row.period
    return f"{metric}/{_SHORT.get(period, period)}"


def share_of(row: Standing) -> float:
    """The share of a limit that is used, 0 to 1."""
    return min(1.0, row.used / row.amount) if row.amount else 1.0


def tightest(limits: Limits) -> Standing:
    """The limit that stands most in the way: of those that shut the route, or the fullest."""
    return max(limits, key=lambda row: (row.opens_at, share_of(row)))


def state_words(limits: Limits, now: float) -> str:
    """Whether or when the route opens, and why: `opens in 42 s: 30 requests per day are spent`."""
    _, words, why = state_of(limits, now)
    return f"{words}: {why}" if why else words


def paid_words(limits: Limits, paid: Mapping[Name, str]) -> str:
    """What a route costs, if it does."""
    return paid.get(limits[0].route, "")
