"""Drawing with matplotlib: a picture as a PNG, bars and axes over time.

The pictures are transparent and in middle tones, so that they read on light and on dark pages.
They are drawn without pyplot: no figure of the user's is touched, and no style of theirs.
"""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from importlib.util import find_spec
from typing import Any

from arche_magic.llm_providers.bounded import library

# CSS pixels: two or three plots fit side by side on a page of usual width.
WIDE, _NARROW, _HEIGHT = 440, 316, 230
_DOTS_PER_PIXEL = 2
GREY, LINES = "#808080", "#80808055"
_FEWEST_BARS, _MOST_BARS = 12, 24
_BAR_SECONDS = (60, 300, 900, 1_800, 3_600, 10_800, 21_600, 86_400, 7 * 86_400)

Draw = Callable[[Any], None]


@dataclass(frozen=True)
class Picture:
    """A PNG and its content in words; `width` is in CSS pixels."""

    png: bytes
    words: str
    width: int


def can_draw() -> bool:
    """Whether matplotlib is installed: loads it, or prints how to install it."""
    if find_spec("matplotlib") is None:
        print("Pictures need matplotlib: pip install 'arche_magic[plot]'")
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


def draw_picture(title: str, words: str, draw: Draw, width: int = _NARROW) -> Picture:
    """A plot with a title, drawn by `draw` on its axes; `words` describe it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with _plain_style():
        figure = Figure(
            figsize=(width / 100, _HEIGHT / 100), dpi=100 * _DOTS_PER_PIXEL, facecolor="none",
            layout="constrained",
        )  # fmt: skip
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot(facecolor="none")
        for name, spine in axes.spines.items():
            spine.set_visible(name == "bottom")
            spine.set_color(LINES)
        axes.tick_params(colors=GREY, labelsize=7.5, length=0, which="both")
        axes.set_title(title, loc="left", color=GREY, fontsize=9, fontweight="bold", pad=8)
        draw(axes)
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


@contextmanager
def _plain_style() -> Iterator[None]:
    """Use matplotlib's defaults while a picture is drawn, then the user's settings again."""
    import matplotlib as mpl

    with mpl.rc_context():
        # Without pyplot no backend is chosen; the user's stays as it is.
        mpl.rcdefaults()
        yield


def stack(
    axes: Any, starts: Sequence[float], width: float, heights: list[float],
    amounts: Counter[int], color: str, label: str, hatch: str = "",
) -> None:  # fmt: skip
    """Draw bars on top of earlier ones; adds their values to `heights`."""
    values = [amounts[place] for place in range(len(starts))]
    axes.bar(
        [local_time(start) for start in starts], values, timedelta(seconds=width * 0.82),
        list(heights), align="edge", color=color, alpha=0.85, label=label, hatch=hatch,
        edgecolor="#ffffff70", linewidth=0,
    )  # fmt: skip
    for place, value in enumerate(values):
        heights[place] += value


def bars(times: Sequence[float]) -> tuple[list[float], float]:
    """The starts of bars that cover these times, and the seconds that each bar spans."""
    first, last = min(times), max(times)
    width = next((s for s in _BAR_SECONDS if (last - first) / s < _MOST_BARS - 1), None)
    width = width or math.ceil((last - first) / _MOST_BARS / 86_400) * 86_400
    offset = local_time(first).utcoffset()
    ahead = offset.total_seconds() if offset else 0.0
    begin = math.floor((first + ahead) / width) * width - ahead
    count = int((last - begin) // width) + 1
    # A single bar would fill the picture, so there is empty room before it.
    begin -= max(0, _FEWEST_BARS - count) * width
    return [begin + n * width for n in range(max(count, _FEWEST_BARS))], float(width)


def bar_of(at: float, starts: Sequence[float], width: float) -> int:
    """Which bar holds this time."""
    return int((at - starts[0]) // width)


def bar_length(seconds: float) -> str:
    """The span of a bar in words: `minute`, `15 minutes`, `hour`, `day`."""
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            many = round(seconds / size)
            return unit if many == 1 else f"{many} {unit}s"
    return f"{seconds:g} seconds"


def spread(values: Sequence[float], axes: Any) -> list[float]:
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


def clock_axis(axes: Any, span: float) -> None:
    """Show local times below, or days if the axis spans more than two."""
    from matplotlib.dates import AutoDateLocator, DateFormatter

    zone = datetime.now().astimezone().tzinfo
    axes.xaxis.set_major_locator(AutoDateLocator(tz=zone, minticks=2, maxticks=6))
    pattern = "%H:%M" if span <= 2 * 86_400 else "%d %b"
    axes.xaxis.set_major_formatter(DateFormatter(pattern, tz=zone))


def whole_numbers(axes: Any) -> None:
    """Show a few whole numbers at the side, with lines across."""
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.grid(visible=True, color=LINES, linewidth=0.6)
    axes.set_axisbelow(True)


def legend(axes: Any) -> None:
    """Name the colours below the picture."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(
            handles, labels, loc="outside lower left", ncols=4, frameon=False, fontsize=7.5,
            labelcolor=GREY, handlelength=0.9, handleheight=0.9, columnspacing=1, borderpad=0.2,
            handletextpad=0.4,
        )  # fmt: skip


def local_time(seconds: float) -> datetime:
    """Epoch seconds as a time in the user's zone."""
    return datetime.fromtimestamp(seconds).astimezone()
