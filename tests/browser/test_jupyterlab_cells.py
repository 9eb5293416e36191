"""Columns and offered code in JupyterLab, in both themes.

Pictures are saved in `build/screens/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import nbformat
import pytest
from lab_session import Lab, Screen, open_notebook, too_wide

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

SANDBOX = """%load_ext arche_magic
import os
from arche_magic.sandbox import Sandbox
def answer(model, messages):
    if "code" in messages[-1]["content"]:
        return "Here:\\n\\n```python\\nran = True\\n```"
    return f"I am **{model}**, and here is\\n\\n- a list\\n\\n```python\\n{'x = 1; ' * 40}\\n```"
os.environ.update(Sandbox(reply=answer).start().environment(), ARCHE_QUOTA_STORE="memory://cells")
ran = False"""
CELLS = (
    SANDBOX,
    "%%llm --compare groq,mistral,google\nWho are you?",
    "%%llm -f code\nWrite code.",
    "print('ran is', ran)",
)
COLUMNS = ".jp-RenderedHTML div[style*='flex: 1 1'], .jp-RenderedHTML div[style*='flex:1 1']"
NUMBERED = """count => [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")]
  .filter(prompt => /^\\[\\d+\\]:$/.test(prompt.textContent.trim())).length >= count"""


@pytest.fixture(scope="module")
def page(lab: Lab, browser: Browser) -> Iterator[Screen]:
    """The cells, after Run All."""
    lab.write("cells.ipynb", CELLS)
    with open_notebook(browser, lab, "cells.ipynb") as opened:
        # The offered cell has no number, so not every cell gets one.
        opened.start_all()
        opened.page.wait_for_function(NUMBERED, arg=len(CELLS), timeout=120_000)
        yield opened


@pytest.fixture(scope="module")
def screen(page: Screen, theme: str) -> Screen:
    """The cells in one theme."""
    page.use_theme(theme)
    return page


def columns(screen: Screen) -> list[Locator]:
    return screen.cell("--compare").locator(COLUMNS).all()


def places(screen: Screen) -> list[tuple[float, float]]:
    """Left and top of each column."""
    boxes = [column.bounding_box() for column in columns(screen)]
    return [(box["x"], box["y"]) for box in boxes if box is not None]


def test_code_is_offered_in_a_new_cell_and_not_run(screen: Screen) -> None:
    """The new cell is below the one that asked and has no number; the output has the code."""
    sources = screen.page.locator(".jp-CodeCell .jp-InputArea-editor").all_inner_texts()
    assert [source.strip() for source in sources][3] == "ran = True"
    assert len(sources) == len(CELLS) + 1
    assert "ran is False" in screen.cell("print(").inner_text()
    assert "ran = True" in screen.cell("-f code").locator(".jp-RenderedMarkdown").inner_text()


def test_columns_are_side_by_side_and_wrap(screen: Screen, theme: str) -> None:
    """A wide page shows three columns; on a narrow page they wrap. None is clipped."""
    screen.photograph(f"columns-{theme.lower()}", 1200)
    wide = places(screen)
    assert len({top for _, top in wide}) == 1
    assert len({left for left, _ in wide}) == 3
    screen.photograph(f"columns-{theme.lower()}-narrow", 700)
    assert len({top for _, top in places(screen)}) == 2
    # A long line of code scrolls within its block.
    assert [too_wide(column) for column in columns(screen)] == [0, 0, 0]
    assert screen.cell("--compare").locator("b", has_text="mistral-small-latest").count() == 1


def test_an_untrusted_notebook_shows_the_columns(page: Screen, lab: Lab, browser: Browser) -> None:
    """An untrusted notebook keeps the layout."""
    page.save()
    saved = nbformat.read(lab.notebooks / "cells.ipynb", as_version=4)
    # With another cell, it is a different notebook, which nobody on this server has trusted.
    lab.write("others-cells.ipynb", [*saved.cells, nbformat.v4.new_markdown_cell("End")])
    with open_notebook(browser, lab, "others-cells.ipynb") as other:
        other.photograph("columns-untrusted", 1200)
        assert len({left for left, _ in places(other)}) == 3
        assert other.hosts() == {"127.0.0.1"}
