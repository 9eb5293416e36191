"""Plots of usage and attempts that are saved in the notebook: `--plot`.

The images are transparent with medium colours, so that they are legible on light and dark pages.
They are drawn without pyplot, so that the user's figures and styles are not affected.
"""

from __future__ import annotations

import base64
import io
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from itertools import accumulate, groupby
from typing import Any

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.types import Standing

from .styles import AMBER, GREEN, RED, escape

# CSS pixels: two or three plots fit side by side on a page of usual width.
_WIDE, _NARROW, _HEIGHT = 440, 316, 230
_DOTS_PER_PIXEL = 2
_GREY, _LINES = "#808080", "#80808055"
_FEWEST_BARS, _MOST_BARS = 12, 24
_BAR_SECONDS = (60, 300, 900, 1_800, 3_600, 10_800, 21_600, 86_400, 7 * 86_400)
_COLORS = {"groq": "#dd7d3a", "mistral": "#4f8fe0", "google": "#2fa37c", "openai": "#a86fd0"}
_OTHERS = ("#c9a227", "#3fa7b5", "#cc6188", "#8d9a3f")
# How requests ended, each with its colour and its pattern.
_OUTCOMES = (
    ("at once", GREEN, ""), ("after a fallback", AMBER, "////"), ("no reply", RED, "xxxx")
)  # fmt: skip
_MOST_POINTS, _FEWEST_FOR_A_BOX = 100, 5
_NOT_SERVED = {"skipped", "refused", "failed"}

Series = tuple[str, str, str, Sequence[tuple[float, float]]]
"""A series of bars: its name, colour and pattern, and amounts with their times."""


@dataclass(frozen=True)
class Picture:
    """A PNG and its content in words; `width` is in CSS pixels."""

    png: bytes
    words: str
    width: int


def can_draw() -> bool:
    """Whether matplotlib is installed: loads it, or prints how to install it."""
    if find_spec("matplotlib") is None:
        print("Plots need matplotlib: pip install 'arche_magic[plot]'")
        return False
    for name in ("figure", "backends.backend_agg", "dates", "ticker"):
        library(f"matplotlib.{name}")
    library("PIL.Image")
    return True


def pictures_bundle(pictures: Sequence[Picture]) -> dict[str, str]:
    """Pictures side by side, wrapping on a narrow page; as text, their words."""
    images = "".join(
        f'<img src="data:image/png;base64,{base64.b64encode(picture.png).decode()}" '
        f'alt="{escape(picture.words)}" width="{picture.width}" style="display:inline-block;'
        'max-width:100%;height:auto;margin:0 12px 8px 0;background:none">'
        for picture in pictures
    )
    return {
        "text/plain": "\n".join(picture.words for picture in pictures) or "nothing to plot yet",
        "text/html": f"<div>{images or 'nothing to plot yet'}</div>",
    }


def usage_pictures(
    attempts: Sequence[Attempt], standings: Sequence[Standing], since: float, now: float
) -> list[Picture]:
    """Running totals of requests and tokens per provider, between two times (epoch seconds).

    The attempts are those of all kernels. Keys of one account count once in the limits per day.
    """
    spent = sorted((a for a in attempts if a.outcome != "skipped"), key=lambda a: a.at)
    pictures = []
    for metric in ("requests", "tokens"):
        lines = {
            name: [(a.at, 1 if metric == "requests" else _tokens(a)) for a in group]
            for name, group in _by_provider(spent).items()
        }
        sums = {name: sum(amount for _, amount in line) for name, line in lines.items()}
        allowed = {name: _allowed(standings, name, f"{metric}_per_day") for name in lines}
        labels = {
            name: f"{name} {sums[name]:,}" + (f" of {allowed[name]:,.0f}" if allowed[name] else "")
            for name in lines
        }
        title = f"{metric.capitalize()} since midnight"
        words = f"{title}: {', '.join(labels.values()) or 'none'}"
        data = (lines, labels, since, now)
        pictures.append(_picture(title, words, _draw_totals, *data, width=_WIDE))
    return pictures


def last_midnight(now: float) -> float:
    """When today began on this machine's clock, in epoch seconds."""
    # Computed without a zone, so that a day on which clocks change starts at its own midnight.
    day = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)
    return day.timestamp()


def attempt_pictures(attempts: Sequence[Attempt]) -> list[Picture]:
    """Tokens over time, seconds per reply, and how often another route had to answer."""
    asked = sorted((a for a in attempts if a.outcome != "skipped"), key=lambda a: a.at)
    if not asked:
        return []
    pictures = [_tokens_over_time(asked), _seconds_per_reply(asked)]
    ended = list(_outcomes(attempts))
    return [*pictures, _fallbacks_over_time(ended)] if ended else pictures


def _draw_totals(
    axes: Any,
    lines: dict[str, list[tuple[float, int]]],
    labels: dict[str, str],
    since: float,
    now: float,
) -> None:
    ends = []
    for name, line in lines.items():
        times = [since, *(at for at, _ in line), now]
        sums = [0, *accumulate(amount for _, amount in line)]
        sums.append(sums[-1])
        color = _color(name)
        moments = [_local_time(moment) for moment in times]
        axes.step(moments, sums, where="post", color=color, linewidth=1.8)
        axes.fill_between(moments, sums, step="post", color=color, alpha=0.12, linewidth=0)
        ends.append((sums[-1], name))
    # The hours before the first prompt would be empty.
    first = min((at for line in lines.values() for at, _ in line), default=since)
    begin = max(since, first - max(600.0, (now - first) / 8))
    axes.set_xlim(_local_time(begin), _local_time(max(now, begin + 600)))
    axes.set_ylim(0, max([1, *(end for end, _ in ends)]) * 1.12)
    if not lines:
        axes.text(0.5, 0.5, "none yet", transform=axes.transAxes, color=_GREY, ha="center")
    for place, (_, name) in zip(_spread([end for end, _ in ends], axes), ends, strict=True):
        axes.annotate(
            labels[name], (1.01, place), xycoords="axes fraction",
            color=_color(name), fontsize=8, fontweight="bold", va="center",
        )  # fmt: skip
    _clock_axis(axes, now - begin)
    _whole_numbers(axes)


def _tokens_over_time(asked: Sequence[Attempt]) -> Picture:
    spent = {name: [(a.at, _tokens(a)) for a in g] for name, g in _by_provider(asked).items()}
    edges = _edges([a.at for a in asked])
    title = f"Tokens per {_span(edges)}"
    sums = (f"{name} {sum(tokens for _, tokens in line):,}" for name, line in spent.items())
    series = [(name, _color(name), "", line) for name, line in spent.items()]
    return _picture(title, f"{title}: {', '.join(sums)}", _draw_bars, series, edges)


def _fallbacks_over_time(ended: Sequence[tuple[float, int]]) -> Picture:
    edges = _edges([at for at, _ in ended])
    totals = Counter(outcome for _, outcome in ended)
    words = ", ".join(f"{label} {totals[n]:,}" for n, (label, _, _) in enumerate(_OUTCOMES))
    series = [
        (*_OUTCOMES[number], [(at, 1) for at, outcome in ended if outcome == number])
        for number in sorted(totals)
    ]
    title = f"Requests per {_span(edges)}"
    return _picture(title, f"Answered: {words}", _draw_bars, series, edges)


def _seconds_per_reply(asked: Sequence[Attempt]) -> Picture:
    served = [a for a in asked if a.outcome == "served"]
    seconds = {name: sorted(a.seconds for a in g) for name, g in _by_provider(served).items()}
    figures = (
        f"{name} {statistics.median(values):.2g} s (median of {len(values):,}, slowest "
        f"{values[-1]:.2g} s)"
        for name, values in seconds.items()
    )
    words = f"Seconds per reply: {', '.join(figures) or '–'}"
    return _picture("Seconds per reply", words, _draw_seconds, seconds)


def _draw_seconds(axes: Any, seconds: dict[str, list[float]]) -> None:
    for row, (name, values) in enumerate(reversed(seconds.items())):
        color = _color(name)
        low, quarter, half, most, high = (
            values[round((len(values) - 1) * share)] for share in (0, 0.25, 0.5, 0.75, 1)
        )
        axes.plot([low, high], [row, row], color=color, linewidth=1, alpha=0.6)
        if len(values) >= _FEWEST_FOR_A_BOX:
            axes.barh(row, most - quarter, 0.5, quarter, color=color, alpha=0.45)
        axes.plot([half, half], [row - 0.25, row + 0.25], color=color, linewidth=2.4)
        step = max(1, math.ceil(len(values) / _MOST_POINTS))
        shown = values[::step]
        # Points are spread over the row by the golden ratio, which is even and reproducible.
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
    axes.xaxis.grid(visible=True, color=_LINES, linewidth=0.6)
    axes.set_xlabel("seconds", color=_GREY, fontsize=7.5)


def _outcomes(attempts: Sequence[Attempt]) -> Iterator[tuple[float, int]]:
    """When each request ended, and its index in `_OUTCOMES`; interrupted requests are left out."""
    ordered = sorted(attempts, key=lambda a: a.request)
    for _, group in groupby(ordered, key=lambda a: a.request):
        tried = list(group)
        outcomes = {attempt.outcome for attempt in tried}
        if "interrupted" not in outcomes:
            end = max(attempt.at for attempt in tried)
            yield end, 2 if "served" not in outcomes else int(bool(outcomes & _NOT_SERVED))


def _by_provider(attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
    found = {attempt.provider for attempt in attempts}
    names = [*(name for name in _COLORS if name in found), *sorted(found - set(_COLORS))]
    return {name: [a for a in attempts if a.provider == name] for name in names}


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
    return _COLORS.get(provider) or _OTHERS[sum(map(ord, provider)) % len(_OTHERS)]


def _picture(
    title: str, words: str, draw: Callable[..., None], *data: Any, width: int = _NARROW
) -> Picture:
    """A plot with a title; `draw` draws the data on its axes, and `words` describe it."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The user's own style is restored afterwards.
    with mpl.rc_context():
        # Without pyplot, no backend is selected, and the user's backend does not change.
        mpl.rcdefaults()
        figure = Figure(
            figsize=(width / 100, _HEIGHT / 100), dpi=100 * _DOTS_PER_PIXEL, facecolor="none",
            layout="constrained",
        )  # fmt: skip
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot(facecolor="none")
        for name, spine in axes.spines.items():
            spine.set_visible(name == "bottom")
            spine.set_color(_LINES)
        axes.tick_params(colors=_GREY, labelsize=7.5, length=0, which="both")
        axes.set_title(title, loc="left", color=_GREY, fontsize=9, fontweight="bold", pad=8)
        draw(axes, *data)
        canvas.draw()
        return Picture(_png(canvas.buffer_rgba()), words, width)


def _png(dots: Any) -> bytes:
    """The picture in 256 colours: a third of the size without a visible difference."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(np.asarray(dots))
    file = io.BytesIO()
    image.quantize(256, method=Image.Quantize.FASTOCTREE).save(file, "png", optimize=True)
    return file.getvalue()


def _edges(times: Sequence[float]) -> list[float]:
    """The edges of bars that cover these times, on full minutes, hours or days; epoch seconds."""
    first, last = min(times), max(times)
    longest = math.ceil((last - first) / _MOST_BARS / 86_400) * 86_400
    width = next((s for s in _BAR_SECONDS if (last - first) / s < _MOST_BARS - 1), longest)
    ahead = time.localtime(first).tm_gmtoff
    begin = math.floor((first + ahead) / width) * width - ahead
    count = int((last - begin) // width) + 1
    # A single bar would fill the plot, so there is empty space before it.
    begin -= max(0, _FEWEST_BARS - count) * width
    return [begin + n * width for n in range(max(count, _FEWEST_BARS) + 1)]


def _span(edges: Sequence[float]) -> str:
    """The span of a bar in words: `minute`, `15 minutes`, `hour`, `day`."""
    seconds = edges[1] - edges[0]
    units = (("day", 86_400), ("hour", 3_600), ("minute", 60))
    unit, size = next((unit, size) for unit, size in units if seconds >= size)
    many = round(seconds / size)
    return unit if many == 1 else f"{many} {unit}s"


def _draw_bars(axes: Any, series: Sequence[Series], edges: Sequence[float]) -> None:
    labels, colors, patterns, amounts = zip(*series, strict=True)
    *_, drawn = axes.hist(
        [[_local_time(at) for at, _ in line] for line in amounts],
        [_local_time(edge) for edge in edges],
        weights=[[amount for _, amount in line] for line in amounts], stacked=True, rwidth=0.82,
        color=colors, alpha=0.85, label=labels, edgecolor="#ffffff70", linewidth=0,
    )  # fmt: skip
    for bars, pattern in zip(drawn if len(series) > 1 else [drawn], patterns, strict=True):
        for bar in bars:
            bar.set_hatch(pattern)
    _clock_axis(axes, edges[-1] - edges[0])
    _whole_numbers(axes)
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles, labels, loc="outside lower left", ncols=4, frameon=False, fontsize=7.5,
        labelcolor=_GREY, handlelength=0.9, handleheight=0.9, columnspacing=1,
        borderpad=0.2, handletextpad=0.4,
    )  # fmt: skip


def _spread(values: Sequence[float], axes: Any) -> list[float]:
    """Heights of labels beside these values, as shares of the axes, spread to be legible."""
    top, gap, ceiling = axes.get_ylim()[1], 0.1, 1.0
    places = [0.0] * len(values)
    ascending = sorted(range(len(values)), key=lambda n: values[n])
    for rank, index in enumerate(ascending):
        floor = places[ascending[rank - 1]] + gap if rank else 0.0
        places[index] = max(values[index] / top, floor)
    for index in reversed(ascending):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    return places


def _clock_axis(axes: Any, span: float) -> None:
    from dateutil.tz import tzlocal  # type: ignore[import-untyped]
    from matplotlib.dates import AutoDateLocator, DateFormatter

    zone = tzlocal()
    axes.xaxis.set_major_locator(AutoDateLocator(tz=zone, minticks=2, maxticks=6))
    pattern = "%H:%M" if span <= 2 * 86_400 else "%d %b"
    axes.xaxis.set_major_formatter(DateFormatter(pattern, tz=zone))


def _whole_numbers(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.grid(visible=True, color=_LINES, linewidth=0.6)
    axes.set_axisbelow(True)


def _local_time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds).astimezone()
