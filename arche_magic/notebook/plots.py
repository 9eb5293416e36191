"""Usage and attempts as pictures that stay in the notebook: `--plot`."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import accumulate, groupby
from typing import Any

from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.types import Standing

from .drawing import (
    GREY,
    LINES,
    WIDE,
    Draw,
    Picture,
    bar_length,
    bar_of,
    bars,
    clock_axis,
    draw_picture,
    legend,
    local_time,
    spread,
    stack,
    whole_numbers,
)
from .styles import AMBER, GREEN, RED

_COLORS = {"groq": "#dd7d3a", "mistral": "#4f8fe0", "google": "#2fa37c", "openai": "#a86fd0"}
_OTHERS = ("#c9a227", "#3fa7b5", "#cc6188", "#8d9a3f")
_OUTCOMES = (
    ("at once", GREEN), ("after a fallback", AMBER), ("no reply", RED)
)  # fmt: skip
_MOST_POINTS, _FEWEST_FOR_A_BOX = 100, 5
_PASSED_OVER = {"skipped", "refused", "failed"}


def usage_pictures(
    attempts: Sequence[Attempt], standings: Sequence[Standing], since: float, now: float
) -> list[Picture]:
    """Running totals of requests and tokens per provider, from `since` to `now`.

    Args:
        attempts: attempts of all kernels; skipped ones are left out.
        standings: the limits per day; keys of one account count once.
        since: epoch seconds.
        now: epoch seconds.
    """
    spent = sorted((a for a in attempts if a.outcome != "skipped"), key=lambda a: a.at)
    pictures = []
    for metric in ("requests", "tokens"):
        lines = {
            name: [(a.at, 1 if metric == "requests" else _tokens(a)) for a in spent if _on(a, name)]
            for name in _providers(spent)
        }
        sums = {name: sum(amount for _, amount in line) for name, line in lines.items()}
        allowed = {name: _allowed(standings, name, f"{metric}_per_day") for name in lines}
        labels = {
            name: f"{name} {sums[name]:,}" + (f" of {allowed[name]:,.0f}" if allowed[name] else "")
            for name in lines
        }
        title = f"{metric.capitalize()} since midnight"
        words = f"{title}: {', '.join(labels.values()) or 'none'}"
        pictures.append(draw_picture(title, words, _adding_up(lines, labels, since, now), WIDE))
    return pictures


def last_midnight(now: float) -> float:
    """When today began on this machine's clock, in epoch seconds."""
    # Without a zone, so that a day with a clock change starts at its own midnight.
    day = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)
    return day.timestamp()


def attempt_pictures(attempts: Sequence[Attempt]) -> list[Picture]:
    """Tokens over time, seconds per reply, and how often another route had to answer."""
    asked = sorted((a for a in attempts if a.outcome != "skipped"), key=lambda a: a.at)
    if not asked:
        return []
    return [_tokens_over_time(asked), _seconds_per_reply(asked), _fallbacks_over_time(attempts)]


def _adding_up(
    lines: dict[str, list[tuple[float, int]]], labels: dict[str, str], since: float, now: float
) -> Draw:
    def draw(axes: Any) -> None:
        ends = []
        for name, line in lines.items():
            times = [since, *(at for at, _ in line), now]
            sums = [0, *accumulate(amount for _, amount in line)]
            sums.append(sums[-1])
            color = _color(name)
            axes.step(
                [local_time(t) for t in times], sums, where="post", color=color, linewidth=1.8
            )
            axes.fill_between(
                [local_time(t) for t in times],
                sums,
                step="post",
                color=color,
                alpha=0.12,
                linewidth=0,
            )
            ends.append((sums[-1], name))
        # The hours before the first prompt would be empty.
        first = min((at for line in lines.values() for at, _ in line), default=since)
        begin = max(since, first - max(600.0, (now - first) / 8))
        axes.set_xlim(local_time(begin), local_time(max(now, begin + 600)))
        axes.set_ylim(0, max([1, *(end for end, _ in ends)]) * 1.12)
        if not lines:
            axes.text(0.5, 0.5, "none yet", transform=axes.transAxes, color=GREY, ha="center")
        for place, (_, name) in zip(spread([end for end, _ in ends], axes), ends, strict=True):
            axes.annotate(
                labels[name], (1.01, place), xycoords="axes fraction",
                color=_color(name), fontsize=8, fontweight="bold", va="center",
            )  # fmt: skip
        clock_axis(axes, now - begin)
        whole_numbers(axes)

    return draw


def _tokens_over_time(asked: Sequence[Attempt]) -> Picture:
    starts, width = bars([a.at for a in asked])
    names = _providers(asked)
    sums = {name: sum(_tokens(a) for a in asked if _on(a, name)) for name in names}

    def draw(axes: Any) -> None:
        heights = [0.0] * len(starts)
        for name in names:
            tokens: Counter[int] = Counter()
            for attempt in asked:
                if _on(attempt, name):
                    tokens[bar_of(attempt.at, starts, width)] += _tokens(attempt)
            stack(axes, starts, width, heights, tokens, _color(name), name)
        clock_axis(axes, starts[-1] + width - starts[0])
        whole_numbers(axes)
        legend(axes)

    words = f"Tokens per {bar_length(width)}: " + ", ".join(f"{n} {s:,}" for n, s in sums.items())
    return draw_picture(f"Tokens per {bar_length(width)}", words, draw)


def _seconds_per_reply(asked: Sequence[Attempt]) -> Picture:
    served = [a for a in asked if a.outcome == "served"]
    seconds = {n: sorted(a.seconds for a in served if _on(a, n)) for n in _providers(served)}

    def draw(axes: Any) -> None:
        for row, (name, values) in enumerate(reversed(seconds.items())):
            color = _color(name)
            low, quarter, half, most, high = (_at_share(values, q) for q in (0, 0.25, 0.5, 0.75, 1))
            axes.plot([low, high], [row, row], color=color, linewidth=1, alpha=0.6)
            if len(values) >= _FEWEST_FOR_A_BOX:
                axes.barh(row, most - quarter, 0.5, quarter, color=color, alpha=0.45)
            axes.plot([half, half], [row - 0.25, row + 0.25], color=color, linewidth=2.4)
            step = max(1, math.ceil(len(values) / _MOST_POINTS))
            shown = values[::step]
            # Spread over the row by the golden ratio: even, and the same each time.
            heights = [row - 0.22 + 0.44 * (n * 0.618 % 1) for n in range(len(shown))]
            axes.scatter(shown, heights, s=4, color=color, alpha=0.55, linewidths=0)
        axes.set_yticks(range(len(seconds)), list(reversed(seconds)))
        axes.set_ylim(-0.6, max(0.6, len(seconds) - 0.4))
        everything = [value for values in seconds.values() for value in values]
        if everything and max(everything) > 20 * max(min(everything), 1e-3):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            axes.set_xlim(0, max([0.1, *everything]) * 1.08)
        axes.xaxis.grid(visible=True, color=LINES, linewidth=0.6)
        axes.set_xlabel("seconds", color=GREY, fontsize=7.5)

    figures = (
        f"{name} {statistics.median(values):.2g} s (median of {len(values):,}, slowest "
        f"{values[-1]:.2g} s)"
        for name, values in seconds.items()
    )
    return draw_picture(
        "Seconds per reply", f"Seconds per reply: {', '.join(figures) or '–'}", draw
    )


def _fallbacks_over_time(attempts: Sequence[Attempt]) -> Picture:
    ended = list(_outcomes(attempts))
    starts, width = bars([at for at, _ in ended])
    totals = Counter(outcome for _, outcome in ended)

    def draw(axes: Any) -> None:
        heights = [0.0] * len(starts)
        for number, (label, color) in enumerate(_OUTCOMES):
            found = Counter(bar_of(at, starts, width) for at, which in ended if which == number)
            hatch = ("", "////", "xxxx")[number]
            if found:
                stack(axes, starts, width, heights, found, color, label, hatch)
        clock_axis(axes, starts[-1] + width - starts[0])
        whole_numbers(axes)
        legend(axes)

    words = ", ".join(f"{label} {totals[n]:,}" for n, (label, _) in enumerate(_OUTCOMES))
    return draw_picture(f"Requests per {bar_length(width)}", f"Answered: {words}", draw)


def _outcomes(attempts: Sequence[Attempt]) -> Iterator[tuple[float, int]]:
    """When each request ended, and its index in `_OUTCOMES`; interrupted requests are left out."""
    ordered = sorted(attempts, key=lambda a: a.request)
    for _, group in groupby(ordered, key=lambda a: a.request):
        tried = list(group)
        outcomes = {attempt.outcome for attempt in tried}
        if "interrupted" not in outcomes:
            end = max(attempt.at for attempt in tried)
            yield end, 2 if "served" not in outcomes else int(bool(outcomes & _PASSED_OVER))


def _at_share(values: Sequence[float], share: float) -> float:
    return values[round((len(values) - 1) * share)]


def _providers(attempts: Sequence[Attempt]) -> list[str]:
    found = {attempt.provider for attempt in attempts}
    return [*(name for name in _COLORS if name in found), *sorted(found - set(_COLORS))]


def _on(attempt: Attempt, provider: str) -> bool:
    """Whether the attempt was on that provider."""
    return attempt.provider == provider


def _tokens(attempt: Attempt) -> int:
    return attempt.input_tokens + attempt.output_tokens


def _allowed(standings: Sequence[Standing], provider: str, limit: str) -> float:
    """The sum of a limit over all accounts of a provider; 0 if it is not known."""
    amounts = {
        (row.account, row.model): row.amount
        for row in standings
        if row.provider == provider and row.limit == limit
    }
    return sum(amounts.values())


def _color(provider: str) -> str:
    known = _COLORS.get(provider)
    return known or _OTHERS[sum(map(ord, provider)) % len(_OTHERS)]
