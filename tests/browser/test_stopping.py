"""Waiting and stopping in JupyterLab: the countdown and the Stop button.

Pictures of both are saved in `build/screens/`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from lab_session import (
    Lab,
    Screen,
    open_notebook,
)
from promptness import in_time

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SLOW = """\
import os
from arche_magic.sandbox import Sandbox

words = " ".join(f"word{number}" for number in range(200))
spent = {"google": {"requests_per_minute": 0}}
keys = {"groq": 1, "google": 1}
sandbox = Sandbox(keys=keys, left=spent, seconds_per_chunk=0.1, reply=lambda *_: words).start()
os.environ.update(sandbox.environment(), ARCHE_QUOTA_STORE="memory://")
%load_ext arche_magic"""
STREAMS = "%%llm -p groq\nCount the words."
WAITS = "%%llm -p google --patience 100\nCount the words, later."


def run_all_and_stop(screen: Screen, cell: str, sight: str, picture: str) -> float:
    """Run all, press Stop when `cell` shows `sight`, and return the seconds it took."""
    screen.start_all()
    screen.cell(cell).get_by_text(sight).first.wait_for()
    screen.snap(f"{picture}-before")
    stop = screen.page.get_by_role("button", name="Interrupt the kernel")
    pressed = time.monotonic()
    stop.click()
    screen.cell(cell).get_by_text("Interrupted: the request was stopped").wait_for()
    seconds = time.monotonic() - pressed
    screen.page.get_by_text("(ipykernel) | Idle").wait_for()
    screen.snap(f"{picture}-after")
    return seconds


@pytest.mark.parametrize(
    ("name", "theme", "cell", "sight"),
    [
        ("streaming", "Light", STREAMS, "word7"),
        ("waiting", "Dark", WAITS, "waiting: google"),
    ],
    ids=["streaming", "waiting"],
)
def test_the_stop_button_stops_at_once(
    lab: Lab, browser: Browser, name: str, theme: str, cell: str, sight: str
) -> None:
    """The reply stays and is marked, the countdown ends, and the cells below do not run."""
    picture = f"stop-{name}"
    sources = [SLOW, cell, "print('this cell ran')"]
    lab.write(f"{picture}.ipynb", sources)
    lab.set_theme(f"JupyterLab {theme}")
    with open_notebook(browser, lab, f"{picture}.ipynb") as screen:
        seconds = run_all_and_stop(screen, cell.splitlines()[1], sight, picture)
        # The time includes the click, its way through the page and two servers, and the redraw.
        in_time("Stop", seconds)
        outputs = screen.cell(cell.splitlines()[1]).locator(".jp-OutputArea-output")
        shown = [output.inner_text().strip() for output in outputs.all()]
        assert shown[-1].startswith("Interrupted: the request was stopped")
        if name == "streaming":
            assert shown[0].startswith("word0 word1 ")
            assert shown[1].startswith("interrupted: the reply is not complete · ")
        else:
            assert "".join(shown[:-1]) == ""
        assert screen.page.get_by_text("this cell ran", exact=True).count() == 0
