"""The quota of all routes at one moment, and a forecast from the recent pace."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from arche_magic.llm_providers import get_quota_tracker
from arche_magic.llm_providers.attempt_log import Spent, attempt_log
from arche_magic.llm_providers.config import Configuration, get_configuration
from arche_magic.llm_providers.quota.forecast import (
    PACE_SECONDS,
    Account,
    account_of,
    midnight,
    paces,
    prompt_units,
    prompts_that_fit,
    runs_out_at,
)
from arche_magic.llm_providers.quota_tracker import QuotaTracker
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.text.wording import plural
from arche_magic.llm_providers.types import (
    Route,
    RouteId,
    Standing,
    Usage,
    in_seconds,
    name_in_words,
    utc,
)

from .quota_table import quota_bundle
from .words import RouteQuota, by_route, clock_time, in_words, price_text, state_at, sum_text

_ATTEMPTS = 6
_LINES = 4


@dataclass(frozen=True)
class QuotaView:
    """The state of the engine at one moment.

    Attributes:
        configuration: the configuration in use, including the session's choices.
        provider: the only provider shown; None for all.
        standings: every limit of every route, including routes that are off.
        unlimited: routes without a known limit, also those that are off, each with the reason if
            it is not open.
        shared: labels of keys that add no quota, each with the key whose account it shares.
        budget: what is left of each budget of paid routes, in words.
        attempts: the last ones of this kernel, newest first.
        paid: what each paid route has cost in this session, in words.
        now: epoch seconds.
    """

    configuration: Configuration
    provider: str | None
    standings: Sequence[Standing]
    unlimited: Mapping[RouteId, str]
    shared: Mapping[str, str]
    budget: Sequence[str]
    attempts: Sequence[Attempt]
    paid: Mapping[RouteId, str]
    now: float

    def is_on(self, route: RouteId) -> bool:
        """Whether the route is switched on."""
        return self.configuration.off.isdisjoint((route.key, f"{route.provider}/{route.model}"))

    @property
    def on(self) -> list[Standing]:
        """The limits of the routes that are on."""
        return [row for row in self.standings if self.is_on(row.route)]

    @property
    def routes(self) -> list[RouteQuota]:
        """The limits by route, for a display that is redrawn."""
        return by_route(self.standings, self.now, self.paid, self.is_on)


@dataclass(frozen=True)
class Forecast:
    """A forecast for some routes.

    Attributes:
        runs_out: limits that will run out before they reset, each with that time (epoch seconds),
            the earliest first. A limit that several keys share appears once.
        prompt_tokens: tokens of the last prompt and its reply; None if there was none.
        fit_now: the number of prompts of that size that fit now.
        fit_until_midnight: the number that fit until local midnight.
        free: whether these numbers are for free routes.
        now: epoch seconds.
    """

    runs_out: tuple[tuple[Standing, float], ...]
    prompt_tokens: int | None
    fit_now: int
    fit_until_midnight: int
    free: bool
    now: float

    def notes(self) -> list[str]:
        """Lines to show below the table."""
        lines = [_runs_out_line(*end, self.now) for end in self.runs_out[:_LINES]]
        if len(self.runs_out) > _LINES:
            lines.append(f"and {plural(len(self.runs_out) - _LINES, 'more limit')}")
        if self.prompt_tokens is not None:
            kind = "free" if self.free else "paid"
            lines.append(
                f"Room on the {kind} routes for prompts like the last one ({self.prompt_tokens:,} "
                f"tokens): {self.fit_now:,} now, {self.fit_until_midnight:,} until midnight"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The forecast as plain values; times as ISO text in UTC."""
        return {
            "runs_out": [
                {
                    "route": str(row.route),
                    "limit": in_words(row.limit),
                    "at": utc(at).isoformat(),
                    "resets_at": utc(row.resets_at).isoformat(),
                }
                for row, at in self.runs_out
            ],
            "prompt_tokens": self.prompt_tokens,
            "fit_now": self.fit_now,
            "fit_until_midnight": self.fit_until_midnight,
            "free": self.free,
        }


def current_quota(provider: str | None = None) -> QuotaView:
    """The current state of the engine, or of one provider.

    Raises:
        LLMProviderError: the settings are wrong, or the ledger cannot be read.
    """
    configuration = get_configuration()
    everything = replace(configuration, off=frozenset()) if configuration.off else configuration
    now = configuration.clock.time()
    tracker = get_quota_tracker(everything)
    standings = tracker.standings(provider, now)
    limited = {row.route for row in standings}
    routes = [r for r in everything.routes() if provider in (None, r.provider)]
    log = attempt_log(configuration.store)
    recent = log.recent
    return QuotaView(
        configuration,
        provider,
        standings,
        _unlimited(tracker, [route for route in routes if route.id not in limited], now),
        tracker.shared_keys(),
        [use.left for use in tracker.budget()],
        # Read from the end, because there may be ten thousand, and other threads append more.
        [recent[-1 - n] for n in range(min(_ATTEMPTS, len(recent)))],
        _paid_routes(routes, log.spent()),
        now,
    )


def _unlimited(tracker: QuotaTracker, routes: Iterable[Route], now: float) -> dict[RouteId, str]:
    """Each of the routes, with when and why it opens if it is not open."""
    state_of = tracker.states_for(Request((Message("user", "Hello"),)), now)
    words = {}
    for route in routes:
        state = state_of(route)
        name = state_at(state.opens_at, now)
        opens = f", opens {clock_time(state.opens_at, now)}" if name == "waiting" else ""
        words[route.id] = "" if name == "open" else f"{name}{opens}: {state.reason}"
    return words


def _paid_routes(routes: Iterable[Route], spent: Mapping[RouteId, Spent]) -> dict[RouteId, str]:
    words = {route.id: "paid" for route in routes if route.paid}
    for route, bill in spent.items():
        if route in words and bill.cost_usd:
            words[route] = f"paid · {sum_text(bill.cost_usd, bill.unpriced)} in this session"
        elif route in words and bill.unpriced:
            words[route] = price_text(None)
    return words


def forecast_of(view: QuotaView) -> Forecast:
    """The forecast for the routes that are on."""
    log = attempt_log(view.configuration.store)
    earlier = log.since(view.now - PACE_SECONDS) or log.session()
    paid = {entry.name for entry in view.configuration.providers.values() if entry.paid}
    return look_ahead(view.on, earlier, view.now, paid)


def view_bundle(view: QuotaView, *first: str) -> dict[str, str]:
    """The table of the routes that are on, and notes below it, beginning with `first`."""
    on, free, off = view.on, _without_limits(view), sorted(view.configuration.off)
    if not (on or free or off):
        name = f"of {view.provider} " if view.provider else ""
        return {"text/plain": f"no key {name}is configured"}
    none = "no limit is known" if free else "no route can take prompts"
    lines = [*(first if on else ()), *free]
    if view.budget:
        lines.append(f"Budget of paid routes: {', '.join(view.budget)} (UTC)")
    lines += shared_notes(view.shared, view.provider)
    if off:
        lines.append(f"Switched off in this session: {', '.join(map(name_in_words, off))}")
    return quota_bundle(on, view.now, lines, none, view.paid)


def notes(view: QuotaView) -> list[str]:
    """Lines below a panel's meters: routes without a known limit, and keys that add no quota."""
    return [*_without_limits(view), *shared_notes(view.shared)]


def shared_notes(shared: Mapping[str, str], provider: str | None = None) -> list[str]:
    """A line per key that adds no quota, of this provider if one is named."""
    return [
        f"{name_in_words(label)} adds no quota: it shares its account with {name_in_words(first)}"
        for label, first in shared.items()
        if provider is None or label.startswith(f"{provider}_key_")
    ]


def _without_limits(view: QuotaView) -> list[str]:
    """A line per route that is on and has no known limit, with its cost and its state."""
    return [
        " · ".join(filter(None, (f"{route}: no limit is known", view.paid.get(route), state)))
        for route, state in view.unlimited.items()
        if view.is_on(route)
    ]


def look_ahead(
    standings: Sequence[Standing],
    attempts: Sequence[Attempt],
    now: float,
    paid: Collection[str] = (),
) -> Forecast:
    """The forecast from earlier attempts, at the pace of the last hour.

    Prompts that fit are counted for free routes, or for paid ones if all providers are `paid`.
    """
    served = [attempt for attempt in attempts if attempt.outcome == "served"]
    last = served[-1] if served else None
    free = [row for row in standings if row.provider not in paid]
    counted = free or standings
    usage = Usage(last.input_tokens, last.output_tokens) if last else Usage()
    need = prompt_units(usage)
    ends: dict[tuple[Account, str], tuple[Standing, float]] = {}
    for row, pace in zip(standings, paces(attempts, standings, now), strict=True):
        moment = runs_out_at(row, pace, now)
        if row.remaining > 0 and math.isfinite(moment):
            ends.setdefault((account_of(row), row.limit), (row, moment))
    return Forecast(
        runs_out=tuple(sorted(ends.values(), key=lambda end: end[1])),
        prompt_tokens=last.input_tokens + last.output_tokens if last else None,
        fit_now=prompts_that_fit(counted, need, now, now),
        fit_until_midnight=prompts_that_fit(counted, need, now, midnight(now)),
        free=bool(free),
        now=now,
    )


def _runs_out_line(row: Standing, at: float, now: float) -> str:
    starts = f" and reset at {clock_time(row.resets_at, now)}" if row.window == "calendar" else ""
    return (
        f"At the pace of the last hour, {row.route}: {in_words(row.limit)} run out "
        f"{in_seconds(at - now)}, {clock_time(at, now)}{starts}"
    )
