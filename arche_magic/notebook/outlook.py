"""A forecast at the current pace, in words: the lines below the quota table."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from arche_magic.llm_providers.quota import forecast
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.types import Standing, Usage, in_seconds, utc

from .quota_words import clock

_LINES = 4


@dataclass(frozen=True)
class Outlook:
    """A forecast for some routes.

    Attributes:
        runs_out: limits that will run out before they reset, each with the epoch seconds of that,
            the earliest first; a limit that several keys share appears once.
        prompt_tokens: tokens of the last prompt and its reply; None if there was none.
        fit_now: how many prompts of that size fit now.
        fit_until_midnight: how many fit until local midnight.
        free: whether they were counted on free routes.
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
            lines.append(f"and {len(self.runs_out) - _LINES} more limits")
        if self.prompt_tokens is not None:
            routes = "the free routes" if self.free else "the paid routes"
            lines.append(
                f"Prompts like the last one ({self.prompt_tokens:,} tokens) that {routes} take: "
                f"{self.fit_now:,} now, {self.fit_until_midnight:,} until midnight"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The forecast as plain values; times as ISO text in UTC."""
        return {
            "runs_out": [
                {
                    "route": str(row.route),
                    "limit": _words(row.limit),
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


def look_ahead(
    standings: Sequence[Standing],
    attempts: Sequence[Attempt],
    now: float,
    paid: Collection[str] = (),
) -> Outlook:
    """The forecast from earlier attempts: the pace is that of the last hour.

    Prompts that fit are counted on free routes, or on paid ones if all providers are `paid`.
    """
    served = [attempt for attempt in attempts if attempt.outcome == "served"]
    last = served[-1] if served else None
    free = [row for row in standings if row.provider not in paid]
    counted = free or standings
    usage = Usage(last.input_tokens, last.output_tokens) if last else Usage()
    need = forecast.prompt_units(usage)
    return Outlook(
        runs_out=_runs_out(standings, attempts, now),
        prompt_tokens=last.input_tokens + last.output_tokens if last else None,
        fit_now=forecast.prompts_that_fit(counted, need, now, now),
        fit_until_midnight=forecast.prompts_that_fit(counted, need, now, forecast.midnight(now)),
        free=bool(free),
        now=now,
    )


def _runs_out(
    standings: Sequence[Standing], attempts: Sequence[Attempt], now: float
) -> tuple[tuple[Standing, float], ...]:
    ends: dict[tuple[forecast.Account, str], tuple[Standing, float]] = {}
    paces = forecast.paces(attempts, standings, now)
    for row, pace in zip(standings, paces, strict=True):
        moment = forecast.runs_out_at(row, pace, now)
        if row.remaining > 0 and math.isfinite(moment):
            ends.setdefault((forecast.account_of(row), row.limit), (row, moment))
    return tuple(sorted(ends.values(), key=lambda end: end[1]))


def _runs_out_line(row: Standing, at: float, now: float) -> str:
    starts = f" and reset at {clock(row.resets_at, now)}" if row.window == "calendar" else ""
    return (
        f"At the pace of the last hour, {row.route}: {_words(row.limit)} run out "
        f"{in_seconds(at - now)}, {clock(at, now)}{starts}"
    )


def _words(limit: str) -> str:
    """`requests per day`."""
    return limit.replace("_", " ")
