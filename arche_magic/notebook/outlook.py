"""What the present pace leads to, in words: the lines below the quota table."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from arche_magic.llm_providers.quota import forecast
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.types import Standing, in_seconds, route_name, utc

_LINES = 4


@dataclass(frozen=True)
class Outlook:
    """A forecast for some routes.

    Attributes:
        runs_out: per limit that is spent before it resets: route, limit, seconds from now.
        prompt_tokens: tokens of the last prompt and its reply; None if there was none.
        fit_now: how many prompts like it fit at this moment.
        fit_until_midnight: how many up to local midnight.
        free: whether those are free routes.
        now: epoch seconds.
    """

    runs_out: tuple[tuple[str, str, float], ...]
    prompt_tokens: int | None
    fit_now: int
    fit_until_midnight: int
    free: bool
    now: float

    def notes(self) -> list[str]:
        """Lines to show below the table."""
        lines = [
            f"At the pace of the last hour, {route}: {limit} run out {_when(seconds, self.now)}"
            for route, limit, seconds in self.runs_out[:_LINES]
        ]
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
        """The same as plain values; times as ISO text in UTC."""
        return {
            "runs_out": [
                {"route": route, "limit": limit, "at": utc(self.now + seconds).isoformat()}
                for route, limit, seconds in self.runs_out
            ],
            "prompt_tokens": self.prompt_tokens,
            "fit_now": self.fit_now,
            "fit_until_midnight": self.fit_until_midnight,
        }


def look_ahead(
    standings: Sequence[Standing],
    attempts: Sequence[Attempt],
    now: float,
    paid: Collection[str] = (),
) -> Outlook:
    """The forecast from the attempts of the last hour.

    Prompts that fit are counted on free routes, unless all are of `paid` providers.
    """
    paces = forecast.paces(attempts, standings, now)
    ends = [
        (route_name(row.provider, row.key, row.model), row.limit.replace("_", " "), moment - now)
        for row, pace in zip(standings, paces, strict=True)
        if row.remaining > 0 and math.isfinite(moment := forecast.runs_out_at(row, pace, now))
    ]
    ends.sort(key=lambda end: end[2])
    served = [attempt for attempt in attempts if attempt.outcome == "served"]
    last = served[-1] if served else None
    free = [row for row in standings if row.provider not in paid]
    need = {"requests": 1.0}
    if last:
        need |= {
            "tokens": float(last.input_tokens + last.output_tokens),
            "input_tokens": float(last.input_tokens),
            "output_tokens": float(last.output_tokens),
        }
    return Outlook(
        runs_out=tuple(ends),
        prompt_tokens=last.input_tokens + last.output_tokens if last else None,
        fit_now=forecast.prompts_that_fit(free or standings, need, now, now),
        fit_until_midnight=forecast.prompts_that_fit(standings, need, now, forecast.midnight(now)),
        free=bool(free),
        now=now,
    )


def _when(seconds: float, now: float) -> str:
    clock = f"{datetime.fromtimestamp(now + seconds).astimezone():%H:%M}"
    return in_seconds(seconds) + (f", {clock}" if seconds >= 100 else "")
