"""Make the pictures in `docs/images/` from cells run in JupyterLab.

Run `python tests/browser/screenshots.py`; it needs Chromium (`apt-get install chromium`) and no
key: the replies are the sandbox's and say so. Elapsed times in them differ from run to run.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from lab_session import ROOT, Screen, chromium, find_chromium, jupyter_lab, open_notebook

if TYPE_CHECKING:
    from playwright.sync_api import FloatRect, Locator

PICTURES = ROOT / "docs" / "images"
WIDTH, SCALE = 1080, 1.2  # CSS pixels, and pixels of the picture for each
MARGIN = 10
# The first prompts use up both Groq keys; only the cells after them are in the pictures.
BEFORE = (
    (
        "%load_ext arche_magic\n"
        "%llm_sandbox --keys groq=2 --keys mistral=1 --keys openai=1 --left groq.requests_per_day=1"
    ),
    "%%llm\nWhat is a token bucket?",
    "%%llm\nWhat is a rolling window?",
)
PANEL = "%llm_panel"
TOOLS = (
    (
        'temperatures = {"Oslo": 4, "Rome": 19}\n\n\n'
        "def weather(city: str) -> str:\n"
        '    """The temperature in a city now."""\n'
        '    return f"{temperatures[city]} °C"'
    ),
    "%%llm --tools weather\nIs it colder in Oslo? Ask weather city=Oslo and weather city=Rome.",
)
# Only the cells matter: no menus, no mark on the selected cell, no room above and below.
ONLY_CELLS = """
  #top-panel-wrapper, #menu-panel-wrapper, #jp-bottom-panel, .jp-SideBar, .jp-Notebook-footer,
  .jp-cell-toolbar, .jp-Collapser { display: none !important; }
"""


def main() -> None:
    """Run the cells, ask in the panel, unfold a call, and photograph the cells that matter."""
    if find_chromium() is None:
        sys.exit("This needs Chromium: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyter_lab(Path(folder)) as lab,
        chromium() as browser,
    ):
        lab.set_theme("JupyterLab Light")
        cells = [nbformat.v4.new_code_cell(text) for text in (*BEFORE, PANEL, *TOOLS)]
        lab.write("demo.ipynb", cells)
        with open_notebook(browser, lab, "demo.ipynb", WIDTH, SCALE) as screen:
            screen.run_all()
            panel = screen.cell(PANEL)
            panel.get_by_placeholder("A prompt").fill("What is a rolling window?")
            panel.get_by_role("button", name="Send").click()
            panel.locator(".jp-RenderedHTML").filter(has_text="tokens").first.wait_for()
            screen.cell("--tools").locator("summary").first.click()
            screen.page.add_style_tag(content=ONLY_CELLS)
            screen.show_whole_notebook(WIDTH)
            PICTURES.mkdir(parents=True, exist_ok=True)
            take(screen, "panel", PANEL, PANEL)
            take(screen, "tools", "temperatures = ", "--tools")


def take(screen: Screen, name: str, first: str, last: str) -> None:
    """Photograph the cells from one to another."""
    path = PICTURES / f"{name}.png"
    screen.page.screenshot(path=path, clip=around(screen.cell(first), screen.cell(last)))
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def around(first: Locator, last: Locator) -> FloatRect:
    """The part of the page from one cell to another, with a margin above."""
    begin, end = first.bounding_box(), last.bounding_box()
    if begin is None or end is None:
        sys.exit("The cells are not on the page.")
    top, bottom = begin["y"] - MARGIN, end["y"] + end["height"]
    return {"x": begin["x"], "y": top, "width": begin["width"], "height": bottom - top}


if __name__ == "__main__":
    main()
