"""Tab in JupyterLab: the popup offers the declared options and values.

Pictures are saved in `build/screens/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from lab_session import Lab, Screen, open_notebook

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CELLS = ("%load_ext arche_magic\npoet, poem = 'Ada', 3", "")


@pytest.fixture(scope="module")
def screen(lab: Lab, browser: Browser) -> Iterator[Screen]:
    """A notebook with the extension loaded and an empty cell."""
    lab.write("tab.ipynb", CELLS)
    with open_notebook(browser, lab, "tab.ipynb", width=900) as opened:
        cell = opened.page.locator(".jp-CodeCell").first
        cell.locator(".cm-content").click()
        opened.page.keyboard.press("Shift+Enter")
        cell.get_by_text("[1]:").wait_for()
        yield opened


def offers(screen: Screen, typed: str) -> list[str]:
    """Type this into the empty cell, press Tab, and read the popup."""
    editor = screen.page.locator(".jp-CodeCell").last.locator(".cm-content")
    editor.click()
    screen.page.keyboard.press("Control+a")
    screen.page.keyboard.press("Delete")
    # JupyterLab closes brackets and quotes automatically, as for any user.
    editor.press_sequentially(typed)
    screen.page.keyboard.press("Tab")
    popup = screen.page.locator(".jp-Completer")
    popup.wait_for(state="visible")
    return popup.locator(".jp-Completer-match").all_inner_texts()


def close(screen: Screen) -> None:
    screen.page.keyboard.press("Escape")
    screen.page.locator(".jp-Completer").wait_for(state="hidden")


@pytest.mark.parametrize(
    ("name", "typed", "expected"),
    [
        ("options", "%%llm --", ["--provider", "--model", "--system", "--temperature"]),
        ("providers", "%%llm -p ", ["groq", "mistral", "google", "openai"]),
        ("models", "%%llm -p groq -m ", ["openai/gpt-oss-120b", "qwen/qwen3.8-27b"]),
        ("subcommands", "%llm_sandbox sta", ["start", "status"]),
        ("variables", "%%llm\nWrite of {{po", ["poem", "poet"]),
    ],
)
def test_the_popup_offers_only_valid_completions(
    screen: Screen, name: str, typed: str, expected: list[str]
) -> None:
    """Only matching options, values, subcommands and variables appear."""
    found = offers(screen, typed)
    screen.snap(f"tab-{name}")
    close(screen)
    assert [text for text in expected if text in found] == expected
    assert not {"abs", "False", "%%bash"} & set(found)


def test_choosing_an_offer_completes_the_word(screen: Screen) -> None:
    """Enter takes the first offer and does not change the rest of the line."""
    offers(screen, "%%llm -p g")
    screen.page.keyboard.press("Enter")
    screen.page.locator(".jp-Completer").wait_for(state="hidden")
    editor = screen.page.locator(".jp-CodeCell").last.locator(".cm-content")
    assert editor.inner_text().strip() in ("%%llm -p groq", "%%llm -p google")
