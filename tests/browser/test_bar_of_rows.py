"""The plan and the progress bar of a job in JupyterLab, in both themes.

Pictures are saved in `build/screens/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from lab_session import Lab, Screen, open_notebook, too_wide

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROMPT = "Is this positive? {{text}} It got {{stars}} stars."
CELLS = (
    """%load_ext arche_magic
import os, tempfile
import pandas as pd
from arche_magic.sandbox import Sandbox
left = {"groq": {"requests_per_minute": 6}, "mistral": {"requests_per_minute": 3}}
keys = {"groq": 1, "mistral": 1, "openai": 1}
sandbox = Sandbox(keys=keys, left=left, latency=0.6).start()
os.environ.update(sandbox.environment(), ARCHE_QUOTA_STORE="memory://rows")
os.environ["ARCHE_REPLIES"] = os.path.join(tempfile.mkdtemp(), "replies.sqlite")
reviews = pd.DataFrame({"text": [f"Soup {n} was cold." for n in range(400)], "stars": 1})
some = reviews.head(120)""",
    f"%%llm --over reviews --plan --pack 1 --by 23:59\n{PROMPT}",
    f"%%llm --over some --reserve 0%\n{PROMPT}",
)
# The two parts of the bar's line, the bar with its colours, and the line below.
BAR = "div[style*='max-width:720px'], div[style*='max-width: 720px']"
TRACK = "div[style*='height:8px'], div[style*='height: 8px']"


@pytest.fixture(scope="module")
def screen(lab: Lab, browser: Browser) -> Iterator[Screen]:
    """A running job that was interrupted while it waited."""
    lab.write("rows.ipynb", CELLS)
    with open_notebook(browser, lab, "rows.ipynb", width=1000) as opened:
        page = opened.page
        opened.start_all()
        running = opened.cell("--reserve").locator(BAR)
        running.get_by_text("waiting: ").wait_for()
        opened.snap("rows-running")
        page.get_by_role("button", name="Interrupt the kernel").click()
        running.get_by_text("interrupted").wait_for()
        for theme in ("Light", "Dark"):
            opened.use_theme(theme)
            opened.photograph(f"rows-{theme.lower()}", 1000)
        yield opened


def test_the_bar_shows_what_its_words_say(screen: Screen) -> None:
    """The coloured part is the share of finished rows."""
    bar = screen.cell("--reserve").locator(BAR)
    words = bar.inner_text()
    done = int(words.split(" of ")[0])
    assert 0 < done < 120
    track = bar.locator(TRACK)
    whole = track.bounding_box()
    filled = [part.bounding_box() for part in track.locator("div").all()]
    assert whole is not None
    assert all(box is not None for box in filled)
    widths = sum(box["width"] for box in filled if box)
    assert widths / whole["width"] == pytest.approx(done / 120, abs=0.01)
    assert whole["height"] == 8


def test_an_interrupted_job_says_how_to_continue(screen: Screen) -> None:
    """It names the variable with the finished rows, and the error is one line."""
    cell = screen.cell("--reserve")
    assert "finished rows; run the cell again for the others" in cell.locator(BAR).inner_text()
    error = cell.locator('[data-mime-type="application/vnd.jupyter.stderr"], .jp-RenderedText')
    assert "Interrupted: calls in progress are counted when they end" in error.last.inner_text()


def test_the_plan_is_a_table_that_fits(screen: Screen) -> None:
    """Nothing is cut off, even on a narrow page."""
    plan = screen.cell("--plan").locator(".jp-OutputArea-output").first
    for wanted in ("400 rows", "held back by", "groq · key 1", "With paid routes as well", "By "):
        assert wanted in plan.inner_text()
    before = screen.page.viewport_size
    screen.page.set_viewport_size({"width": 720, "height": 900})
    assert too_wide(plan) <= 0
    if before:
        screen.page.set_viewport_size(before)
