"""Using the panel in JupyterLab and in Notebook 7.

Pictures of it in both themes, wide and narrow, are saved in `build/screens/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import nbformat
import pytest
from lab_session import Lab, Screen, jupyter_lab, open_notebook, too_wide

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

SANDBOX = """\
import os
from arche_magic.sandbox import Sandbox

words = "**bold** " + " ".join(f"word{number}" for number in range(60)) + " <b id=bad>x</b>"
spent = {"groq_key_1": {"requests_per_day": 1}}
keys = {"groq": 3, "mistral": 1, "google": 1, "openai": 1}
sandbox = Sandbox(keys=keys, left=spent, seconds_per_chunk=0.05, reply=lambda *_: words).start()
os.environ.update(sandbox.environment(), ARCHE_QUOTA_STORE="memory://")
%load_ext arche_magic
for _ in range(2):
    %llm -q Describe a token bucket."""
STATE = """\
import threading
from arche_magic.notebook.panel import open_panels
from arche_magic.notebook.panel.widgets import Panel
panels = [panel for panel in open_panels() if isinstance(panel, Panel)]
print(f"{len(panels)} open,", sum(panel.visible for panel in panels), "seen")"""
SENT = "sandbox.requests[-1].body['messages'][-1]['content']"
# Notebook 7.6 writes this itself on each page.
NOT_OURS = "Cannot read properties of undefined (reading 'schema')"


@pytest.fixture(scope="module", params=["jupyterlab", "notebook"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with jupyter_lab(tmp_path_factory.mktemp(request.param), request.param) as running:
        yield running


@pytest.fixture(scope="module")
def screen(lab: Lab, browser: Browser) -> Iterator[Screen]:
    """Two panels, a cell with a prompt, and a cell with the kernel's list of panels.

    Each test leaves the page as the next ones need it; the last one deletes a panel.
    """
    sources = (SANDBOX, "%llm_panel", "%llm_panel", STATE, "%llm Hello", SENT)
    lab.write("panels.ipynb", sources)
    with open_notebook(browser, lab, "panels.ipynb") as opened:
        opened.run_all()
        yield opened


def panels(screen: Screen) -> tuple[Locator, Locator]:
    cells = screen.cell("%llm_panel")
    return cells.nth(0), cells.nth(1)


def focus(screen: Screen) -> str:
    """The words on the focused element."""
    words: str = screen.page.evaluate("() => document.activeElement.innerText.trim()")
    return words


def test_a_saved_panel_is_a_table(screen: Screen, lab: Lab, browser: Browser) -> None:
    """Without a kernel, the table is shown. With a kernel, only the panel is."""
    record = screen.page.get_by_text(re.compile("As of "))
    assert record.count() == 2
    assert not record.first.is_visible()
    screen.save()
    saved = nbformat.read(lab.notebooks / "panels.ipynb", as_version=4)
    lab.write("somebody-elses.ipynb", [*saved.cells, nbformat.v4.new_markdown_cell("End")])
    with open_notebook(browser, lab, "somebody-elses.ipynb") as other:
        assert other.page.get_by_text(re.compile("As of ")).first.is_visible()
        rows = other.cell("%llm_panel").first.get_by_role("row")
        assert rows.filter(has_text="groq · key 2").first.is_visible()
        if lab.path == "doc/tree/":
            other.photograph("panel-record", 1200)


def test_a_prompt_is_answered_in_the_panel(screen: Screen) -> None:
    """It streams as safe Markdown, with the receipt below. Stop ends it."""
    panel, _ = panels(screen)
    panel.get_by_label("Prompt").fill("Say something")
    panel.get_by_label("Prompt").press("Tab")
    assert focus(screen) == "Send"
    screen.page.keyboard.press("Enter")
    panel.get_by_text("word5 ").wait_for()
    assert focus(screen) == "Send"
    assert panel.locator("strong", has_text="bold").is_visible()
    screen.run(screen.cell(STATE.splitlines()[1]))
    panel.locator("p", has_text="word59").wait_for()
    panel.locator("summary", has_text=re.compile(r"groq · key [23] · gpt-oss-120b · ")).wait_for()
    assert panel.locator("#bad").count() == 0
    panel.get_by_role("button", name="Send").click()
    panel.get_by_text("answering").wait_for()
    panel.get_by_role("button", name="Stop").click()
    panel.get_by_text("stopped: the reply is not complete").wait_for()
    assert focus(screen) == "Stop"
    panel.get_by_role("cell", name="interrupted").wait_for()


def test_control_enter_sends_what_was_typed(screen: Screen) -> None:
    """All of it is sent, however fast it was typed. No cell runs; the focus stays in the box."""
    panel, _ = panels(screen)
    prompts = screen.page.locator(".jp-CodeCell .jp-InputPrompt")
    before = prompts.all_inner_texts()
    typed = "Say something that takes a while to type, " * 3 + "and send it at once."
    panel.get_by_label("Prompt").fill("")
    screen.page.keyboard.type(typed)
    screen.page.keyboard.press("Control+Enter")
    panel.get_by_text("word5 ").wait_for()
    assert screen.page.evaluate("() => document.activeElement.tagName") == "TEXTAREA"
    assert prompts.all_inner_texts() == before
    panel.get_by_role("button", name="Stop").click()
    screen.run(screen.cell("sandbox.requests"))
    screen.cell("sandbox.requests").get_by_text(repr(typed)).wait_for()
    assert [error for error in screen.errors if NOT_OURS not in error] == []


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_it_fits_wide_and_narrow_pages(theme: str, screen: Screen, lab: Lab) -> None:
    """Nothing is cut off or scrolls sideways, and the colours match the page."""
    screen.use_theme(theme)
    screen.cell("%llm_panel").first.get_by_text("The next prompt goes to").wait_for()
    for width in (1200, 700):
        if lab.path == "doc/tree/":
            screen.photograph(f"panel-{theme.lower()}-{width}", width)
        else:
            screen.page.set_viewport_size({"width": width, "height": 1200})
        panel = screen.page.locator(".jp-OutputArea-output .widget-vbox").first
        assert too_wide(panel) <= 0
        for table in screen.page.locator(".widget-html table").all():
            assert too_wide(table) <= 0
    screen.page.set_viewport_size({"width": 1200, "height": 900})
    assert screen.hosts() == {"127.0.0.1"}


def test_two_panels_agree_and_cells_follow(screen: Screen) -> None:
    """A change in one panel appears in the other and applies to the next cell."""
    one, two = panels(screen)
    chosen = "select => select.selectedOptions[0].innerText"
    assert two.get_by_label("Prefer").evaluate(chosen).split() == ["no", "provider"]
    one.get_by_title("Ask Mistral earlier").click()
    two.get_by_text("The next prompt goes to mistral · key 1").wait_for()
    # Pressed again, the arrow has no effect: Mistral is first. Its row moved, with the focus.
    screen.page.wait_for_function("() => document.activeElement.title === 'Ask Mistral earlier'")
    screen.page.keyboard.press("Enter")
    two.get_by_label("mistral · mistral-small-latest").uncheck()
    one.get_by_text("The next prompt goes to groq").wait_for()
    one.get_by_role("checkbox", name="mistral · mistral-small-latest", checked=False).wait_for()
    one.get_by_role("row").filter(has_text="mistral · key 1").get_by_text("off").wait_for()
    one.get_by_label("Prefer").select_option("openai")
    two.get_by_text("The next prompt goes to openai · key 1").wait_for()
    cell = screen.cell("%llm Hello")
    screen.run(cell)
    cell.get_by_text("openai · key 1 · gpt-4.1-mini · ").wait_for()


def test_running_the_cell_again_leaves_one_panel(screen: Screen) -> None:
    """The kernel closes the old panel, and stops drawing panels without a page."""
    panel, _ = panels(screen)
    state = screen.cell(STATE.splitlines()[1])
    for _ in range(2):
        screen.run(panel)
        panel.get_by_text("The next prompt goes to").wait_for()
    screen.run(state)
    state.get_by_text("2 open, 2 seen").wait_for()
    panel.click()
    screen.page.keyboard.press("Escape")
    screen.page.keyboard.press("d")
    screen.page.keyboard.press("d")
    screen.cell("%llm_panel").nth(1).wait_for(state="detached")
    screen.run(state)
    state.get_by_text("2 open, 1 seen").wait_for()
