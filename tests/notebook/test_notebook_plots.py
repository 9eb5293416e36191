"""`%llm_quota --plot` and `%llm_stats --plot`: plots that are saved in the notebook."""

from __future__ import annotations

import base64
import html
import io
import random
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from PIL import Image

from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.types import Standing
from arche_magic.notebook.frames import attempts_frame
from arche_magic.notebook.plots import (
    Picture,
    _clock_axis,
    attempt_pictures,
    last_midnight,
    pictures_bundle,
    usage_pictures,
)
from arche_magic.notebook.stats import sums_frame

if TYPE_CHECKING:
    from notebook_kernel import Kernel

NOW = 1_795_514_400.0
IMAGE = re.compile(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]*)" width="(\d+)"')


def images(shown: str) -> list[tuple[Image.Image, str, int]]:
    """Each image of an output, its description, and its displayed width."""
    return [
        (Image.open(io.BytesIO(base64.b64decode(data))), html.unescape(alt), int(width))
        for data, alt, width in IMAGE.findall(shown)
    ]


def attempts(count: int) -> list[Attempt]:
    """A working day: a fifth of the requests are refused once, and some get no reply."""
    draw = random.Random(1)
    made = []
    for number in range(count):
        at = NOW - 8 * 3600 * (count - number) / count
        provider = draw.choices(["groq", "mistral", "google", "openai"], [8, 3, 2, 1])[0]
        name = (provider, f"{provider}_key_1", "model")
        if number % 5 == 4:
            made.append(Attempt("groq", "groq_key_2", "model", "refused", request=f"{number}"))
            made[-1] = Attempt(**{**made[-1].to_dict(), "at": at})
        made.append(
            Attempt(
                *name,
                "failed" if number % 25 == 24 else "served",
                input_tokens=100,
                output_tokens=draw.randint(20, 800),
                seconds=draw.lognormvariate(0, 0.6),
                at=at,
                request=f"{number}",
            )
        )
    return made


def allowed(provider: str, limit: str, amount: float, key: int, account: str) -> Standing:
    return Standing(
        provider, f"{provider}_key_{key}", account, "model", limit, amount, 0, NOW, NOW,
        "published", NOW,
    )  # fmt: skip


def test_plots_are_saved_in_the_notebook(kernel: Kernel, sandboxed) -> None:
    """PNGs of double density in the cell's output, without background; a frame is returned."""
    sandboxed(keys={"groq": 2, "mistral": 1})
    kernel.run("%llm -q one")
    kernel.run("%llm -q -p mistral two")
    for magic, many in (("%llm_quota --plot", 2), ("%llm_stats --plot", 3)):
        cell = kernel.run(f"frame = {magic}")
        assert (cell.status, len(cell.displays), cell.results, cell.printed) == ("ok", 1, [], "")
        found = images(cell.data("text/html")[0])
        assert len(found) == many
        for image, words, width in found:
            assert image.width == 2 * width
            assert image.convert("RGBA").getpixel((0, 0))[3] == 0
            assert words in cell.data()[0].splitlines()
        assert "groq" in cell.data()[0]
        assert kernel.value("type(frame).__name__") == "DataFrame"


def test_the_users_matplotlib_settings_do_not_change(kernel: Kernel, sandboxed) -> None:
    """No figure is opened, no setting changes, and an unusual style does not affect the plots."""
    sandboxed(keys={"groq": 1})
    kernel.run("%llm -q one")
    kernel.run(
        "import matplotlib, matplotlib.pyplot as plt\n"
        "plt.style.use('dark_background')\n"
        "plt.rcParams.update({'text.usetex': True, 'font.size': 40})\n"
        "before, backend = dict(plt.rcParams), matplotlib.get_backend()"
    )
    shown = kernel.run("%llm_stats --plot\nprint(plt.get_fignums())")
    assert shown.status == "ok"
    assert shown.printed == "[]\n"
    assert images(shown.data("text/html")[0])
    assert kernel.value("dict(plt.rcParams) == before and matplotlib.get_backend() == backend")
    kernel.run("plt.rcdefaults()")


def test_without_matplotlib_the_table_is_shown(kernel: Kernel, sandboxed) -> None:
    """A line says what to install, and the frame is returned."""
    sandboxed(keys={"groq": 1})
    kernel.run(
        "%llm -q one\nimport sys\n"
        "kept = sys.modules.get('matplotlib')\nsys.modules['matplotlib'] = None"
    )
    try:
        for magic in ("%llm_quota --plot", "%llm_stats --plot"):
            cell = kernel.run(f"frame = {magic}")
            assert cell.status == "ok"
            assert cell.printed == "Plots need matplotlib: pip install 'arche_magic[plot]'\n"
            assert "<table" in cell.data("text/html")[0]
    finally:
        # If its parts are loaded, they are the only ones.
        kernel.run("del sys.modules['matplotlib']\nif kept: sys.modules['matplotlib'] = kept")


def test_before_the_first_prompt_there_is_nothing_to_plot(kernel: Kernel, sandboxed) -> None:
    """The plots of attempts say so; those of usage are empty."""
    sandboxed(keys={"groq": 1})
    kernel.run("%load_ext arche_magic")
    assert kernel.run("s = %llm_stats --plot").data() == ["nothing to plot yet"]
    assert kernel.run("q = %llm_quota --plot").data()[0].splitlines()[0] == (
        "Requests since midnight: none"
    )


@pytest.mark.parametrize("count", [1, 40, 10_000])
def test_plots_are_small_for_any_number_of_attempts(count: int) -> None:
    """One or ten thousand attempts give five images of less than 60 kB each."""
    tried = attempts(count)
    pictures = usage_pictures(tried, [], last_midnight(NOW), NOW) + attempt_pictures(tried)
    assert len(pictures) == 5
    assert all(len(picture.png) < 60_000 for picture in pictures)
    # There is something in the plot: more dots than a title has.
    for picture in pictures:
        alpha = Image.open(io.BytesIO(picture.png)).convert("RGBA").getchannel("A")
        assert sum(alpha.histogram()[32:]) > 3_000


def test_requests_that_were_all_interrupted_have_no_outcomes() -> None:
    """There are two pictures: tokens and seconds."""
    stopped = Attempt("groq", "groq_key_1", "model", "interrupted", input_tokens=9, at=NOW)
    over_time, seconds = attempt_pictures([stopped])
    assert over_time.words == "Tokens per minute: groq 9"
    assert seconds.words == "Seconds per reply: –"


def test_descriptions_say_what_the_plots_show() -> None:
    """Sums, medians and outcomes, and the daily limit of all accounts together."""
    tried = attempts(100)
    standings = [
        allowed("groq", "requests_per_day", 1_000, 1, "a"),
        allowed("groq", "requests_per_day", 1_000, 2, "a"),
        allowed("groq", "requests_per_day", 1_000, 3, "b"),
    ]
    requests, tokens, *_ = usage_pictures(tried, standings, NOW - 86_400, NOW)
    on_groq = [a for a in tried if a.provider == "groq"]
    assert f"groq {len(on_groq)} of 2,000" in requests.words
    spent = sum(a.input_tokens + a.output_tokens for a in on_groq)
    assert f"groq {spent:,}," in tokens.words
    over_time, seconds, outcomes = attempt_pictures(tried)
    assert over_time.words.startswith("Tokens per 30 minutes: groq ")
    assert re.search(r"mistral [\d.]+ s \(median of \d+, slowest [\d.]+ s\)", seconds.words)
    assert outcomes.words == "Answered: at once 80, after a fallback 16, no reply 4"


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local time is that of Berlin."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_berlin")
def test_a_days_usage_begins_at_local_midnight() -> None:
    """This holds even on days when clocks change."""
    for day in ("2026-03-29", "2026-03-30", "2026-10-25", "2026-10-26"):
        begin = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("Europe/Berlin"))
        for hour in (1, 12, 22):
            assert last_midnight(begin.timestamp() + hour * 3600) == begin.timestamp()


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize("month", [1, 7])
def test_days_and_axes_use_the_zone_of_their_own_time(month: int) -> None:
    """One half of the year is in daylight saving time, whenever this is run."""
    from matplotlib.dates import date2num
    from matplotlib.figure import Figure

    midnight = datetime(2026, month, 15, tzinfo=ZoneInfo("Europe/Berlin"))
    late = Attempt("groq", "groq_key_1", "m", "served", at=midnight.timestamp() - 1)
    early = replace(late, at=midnight.timestamp())
    sums = sums_frame(attempts_frame([late, early]), "day")
    assert list(sums["day"]) == [f"2026-0{month}-14", f"2026-0{month}-15"]
    axes = Figure().add_subplot()
    _clock_axis(axes, span=3600)
    assert axes.xaxis.get_major_formatter()(date2num(midnight.astimezone(UTC))) == "00:00"


def test_descriptions_are_escaped() -> None:
    """A provider's name from a settings file is displayed as text."""
    bundle = pictures_bundle([Picture(b"", '"><script>', 10)])
    assert "<script>" not in bundle["text/html"]
