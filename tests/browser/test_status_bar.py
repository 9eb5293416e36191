"""The item in JupyterLab's status bar: before, with and after the extension.

Pictures of it in both themes are saved in `build/screens/`. Ctrl+Enter is in `test_panel.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from lab_session import Lab, Screen, open_notebook, too_wide

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

PLAIN, OTHER = "print('no magic')", "print('nor here')"
SETUP = """\
import os
from arche_magic.sandbox import Sandbox

spent = {"groq": {"requests_per_day": 2}}
sandbox = Sandbox(keys={"groq": 1}, left=spent, reply=lambda *_: "Fine.").start()
os.environ.update(sandbox.environment(), ARCHE_QUOTA_STORE="memory://")"""
LOAD, UNLOAD, ASK = "%load_ext arche_magic", "%unload_ext arche_magic", "%llm Hello"
# Part of the text of that cell, by which the page finds it.
START = SETUP.splitlines()[1]
SLOW = "import time; time.sleep(60)"
OURS = re.compile("arche_magic|groq")
# JupyterLab prints this itself when a kernel restarts.
NOT_OURS = "Could not restore the debugger state"


@contextmanager
def notebook(browser: Browser, lab: Lab, name: str, *to_run: str) -> Iterator[Screen]:
    """A notebook in which these cells have run; at the end the console must have no errors."""
    sources = (PLAIN, SETUP, LOAD, ASK, SLOW, UNLOAD)
    lab.write(name, sources)
    with open_notebook(browser, lab, name) as opened:
        opened.page.set_default_timeout(20_000)
        for source in to_run:
            run(opened, source)
        yield opened
        assert [error for error in opened.errors if NOT_OURS not in error] == []


@pytest.fixture
def new_screen(browser: Browser, lab: Lab) -> Iterator[Screen]:
    """A notebook in which nothing has run."""
    with notebook(browser, lab, "new.ipynb") as opened:
        yield opened


@pytest.fixture(scope="module")
def screen(browser: Browser, lab: Lab) -> Iterator[Screen]:
    """A notebook in which one prompt was sent. Tests leave it so."""
    with notebook(browser, lab, "status.ipynb", START, LOAD, ASK) as opened:
        yield opened


def item_of(screen: Screen) -> Locator:
    """The item; hidden ones are not found."""
    return screen.page.locator("#jp-main-statusbar button:visible").filter(has_text=OURS)


@pytest.fixture
def item(screen: Screen) -> Locator:
    """The item of the notebook in which one prompt was sent."""
    return item_of(screen)


def cell(screen: Screen, source: str) -> Locator:
    """The first cell with this text, in the notebook in front."""
    editor = screen.page.locator(".jp-InputArea-editor", has_text=source)
    cells = screen.page.locator(".jp-NotebookPanel:visible .jp-CodeCell")
    return cells.filter(has=editor).first


def run(screen: Screen, source: str) -> None:
    """Run a cell to its end."""
    screen.run(cell(screen, source))


def test_it_appears_once_the_extension_is_loaded(new_screen: Screen) -> None:
    """It is absent before, and it reads no settings and no ledger before the first command."""
    item = item_of(new_screen)
    assert item.count() == 0
    run(new_screen, PLAIN)
    run(new_screen, START)
    assert item.count() == 0
    run(new_screen, LOAD)
    item.get_by_text("arche_magic: nothing asked yet").wait_for()


def test_it_shows_what_is_left_of_the_tightest_limit(screen: Screen, item: Locator) -> None:
    """After a prompt, it has the words of the receipt. Its tooltip has every limit."""
    item.get_by_text("groq 1 of 1,000 requests left today").wait_for()
    assert item.inner_text().startswith("●")
    lines = (item.get_attribute("title") or "").splitlines()
    assert lines[0] == "The next prompt goes to groq · key 1 · gpt-oss-120b."
    assert "29 of 30 requests left this minute" in lines


def test_a_click_opens_the_table(screen: Screen, item: Locator) -> None:
    """It opens even while a cell runs.

    The notebook does not change, and Escape closes the table.
    """
    screen.start(cell(screen, SLOW))
    screen.page.get_by_text("(ipykernel) | Busy").wait_for()
    count = screen.page.locator(".jp-Cell").count()
    item.click()
    table = screen.page.locator(".jp-Dialog table")
    table.get_by_text("groq · key 1").wait_for()
    assert cell(screen, SLOW).locator(".jp-InputPrompt").inner_text() == "[*]:"
    screen.page.keyboard.press("Escape")
    table.wait_for(state="detached")
    assert screen.page.locator(".jp-Cell").count() == count
    screen.page.get_by_role("button", name="Interrupt the kernel").click()
    screen.page.get_by_text("(ipykernel) | Idle").wait_for()


@pytest.mark.parametrize(("theme", "width"), [("Dark", 1200), ("Light", 700)])
def test_it_is_readable_in_both_themes(
    theme: str, width: int, screen: Screen, item: Locator
) -> None:
    """The pictures are for people. The item fits into the bar, and the table into the page.

    In a narrow window the item is shorter, to leave room for the other items of the bar.
    """
    screen.use_theme(theme)
    screen.page.set_viewport_size({"width": width, "height": 700})
    screen.page.locator("#jupyterlab-splash").wait_for(state="detached")
    screen.snap(f"status-bar-{theme.lower()}")
    item.click()
    table = screen.page.locator(".jp-Dialog table")
    table.wait_for()
    screen.snap(f"status-bar-table-{theme.lower()}")
    assert too_wide(table) <= 0
    screen.page.keyboard.press("Escape")
    bar, box = screen.page.locator("#jp-main-statusbar").bounding_box(), item.bounding_box()
    assert bar
    assert box
    assert bar["y"] <= box["y"]
    assert box["y"] + box["height"] <= bar["y"] + bar["height"]
    expected = "groq 1 of 1,000" if width < 900 else "groq 1 of 1,000 requests left today"
    assert item.inner_text().split("\n")[-1].removeprefix("●").strip() == expected
    right = screen.page.locator("#jp-main-statusbar .jp-StatusBar-Right").bounding_box()
    assert right
    # At 700 pixels JupyterLab's own items alone are too wide.
    assert right["x"] + right["width"] <= max(width, 860)
    screen.page.set_viewport_size({"width": 1200, "height": 700})


def test_it_counts_down_when_all_routes_are_closed(browser: Browser, lab: Lab) -> None:
    """A word and another sign say so, and the seconds count down without the kernel."""
    with notebook(browser, lab, "spent.ipynb", START, LOAD, ASK, ASK, ASK) as screen:
        item = item_of(screen)
        seconds = item.get_by_text(re.compile(r"^waiting: groq opens in \d+ s$"))
        seconds.wait_for()
        assert item.inner_text().startswith("◐")
        before = seconds.inner_text()
        screen.page.wait_for_function(
            "([words, before]) => words.innerText !== before",
            arg=[seconds.element_handle(), before],
        )
        number = [int(re.findall(r"\d+", words)[0]) for words in (before, seconds.inner_text())]
        assert number[1] < number[0]


def test_it_follows_the_active_notebook(lab: Lab, screen: Screen, item: Locator) -> None:
    """It is hidden in a notebook without the extension, and appears again in the first one."""
    lab.write("other.ipynb", [OTHER])
    page = screen.page
    if not page.locator(".jp-DirListing-item").first.is_visible():
        page.get_by_role("tab", name=re.compile("File Browser")).first.click()
    page.locator(".jp-DirListing-item", has_text="other.ipynb").dblclick()
    page.get_by_text("(ipykernel) | Idle").wait_for()
    run(screen, OTHER)
    assert item.count() == 0
    page.locator(".jp-DirListing-item", has_text="status.ipynb").dblclick()
    item.get_by_text("groq 1 of 1,000").wait_for()


def test_unloading_and_a_restart_remove_it(new_screen: Screen) -> None:
    """It appears again when the extension is loaded again."""
    screen, item = new_screen, item_of(new_screen)
    run(screen, LOAD)
    item.wait_for()
    run(screen, UNLOAD)
    item.wait_for(state="detached")
    run(screen, LOAD)
    item.wait_for()
    screen.page.get_by_role("menuitem", name="Kernel", exact=True).click()
    screen.page.get_by_role("menuitem", name="Restart Kernel…").click()
    screen.page.get_by_role("button", name="Confirm Kernel Restart").click()
    item.wait_for(state="detached")
    run(screen, LOAD)
    item.get_by_text("nothing asked yet").wait_for()
