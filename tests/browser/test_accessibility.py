"""Accessibility: axe finds no problems in the outputs, and narrow pages cut nothing off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe
from lab_session import Lab, Screen, open_notebook

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SANDBOX = """\
import os
from arche_magic.sandbox import Sandbox
code = "```python\\n" + "x = 1; " * 40 + "\\n```"
reply = f"A **list**:\\n\\n- one\\n\\n{code}\\n\\n|a|b|\\n|-|-|\\n|1|2|"
keys = {"groq": 6, "mistral": 3, "google": 2, "openai": 1}
spent = {"groq_key_1": {"requests_per_day": 1}}
sandbox = Sandbox(keys=keys, left=spent, reply=lambda *_: reply).start()
os.environ.update(sandbox.environment(), ARCHE_QUOTA_STORE="memory://")
%load_ext arche_magic
texts = ["good", "bad"]"""
LONG_WORD = f"""\
def length(word: str) -> int:
    return len(word)
%llm_sandbox --keys groq=1
%llm --tools length Call length word={"long" * 25}
%llm_sandbox stop"""
CELLS = (
    SANDBOX,
    "%llm Hello",
    LONG_WORD,
    "%llm_retry",
    "%llm --compare groq,mistral,google Hello",
    "%llm_quota",
    "%llm_quota mistral",
    "%llm_why",
    "%llm_stats",
    "%llm_models",
    "%llm_services",
    "%llm_doctor",
    "%llm_keys",
    "%%llm -b --over texts --into later\nIs it {{prompt}}?",
    "later.wait();",
    "%llm_jobs",
    "%%llm --over texts --plan\nIs it {{prompt}}?",
    "%llm_history Hello",
    f"%llm --compare google,google/{'long' * 14} Hello",
    "%llm_panel",
)
OUTPUTS = ".jp-Notebook .jp-OutputArea"
UNFOLD = "() => document.querySelectorAll('details').forEach(one => { one.open = true; })"
CUT_OFF = """() => [...document.querySelectorAll('.jp-OutputArea-output')]
  .filter(output => output.scrollWidth > output.clientWidth)
  .map(output => output.closest('.jp-CodeCell').querySelector('.cm-content').innerText)"""


@pytest.fixture(scope="module")
def screen(lab: Lab, browser: Browser) -> Iterator[Screen]:
    """The cells, after Run All, with the file browser beside them."""
    lab.write("outputs.ipynb", CELLS)
    with open_notebook(browser, replace(lab, path="lab/tree/"), "outputs.ipynb") as opened:
        opened.run_all()
        opened.cell("%llm_panel").get_by_text("The next prompt goes to").wait_for()
        yield opened


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_axe_finds_no_problem_in_the_outputs(screen: Screen, theme: str) -> None:
    """Names, contrast, table headings and keyboard scrolling of unfolded outputs in both themes."""
    screen.use_theme(theme)
    screen.page.set_viewport_size({"width": 1280, "height": 900})
    screen.page.evaluate(UNFOLD)
    found = Axe().run(screen.page, context=OUTPUTS)
    assert found.violations_count == 0, found.generate_report()
    assert len(found.response["passes"]) > 10


def test_a_narrow_page_cuts_nothing_off(screen: Screen) -> None:
    """At 700 pixels with the file browser open, 330 are left: rows of tables wrap."""
    screen.page.evaluate(UNFOLD)
    for width in (1280, 700):
        screen.photograph(f"outputs-{width}", width)
        assert screen.page.evaluate(CUT_OFF) == []
    state = screen.cell("%llm_panel").get_by_text("opens in").first.bounding_box()
    assert state is not None
    assert state["x"] + state["width"] < 700
