"""Make `docs/images/quickstart.png`, the README's picture, from cells run in JupyterLab.

Run `python tests/browser/screenshots.py`; it needs Chromium (`apt-get install chromium`) and no
key: the replies are the sandbox's and say so. Elapsed times in the picture differ from run to run.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from lab_session import ROOT, Screen, chromium, find_chromium, jupyter_lab, open_notebook

if TYPE_CHECKING:
    from playwright.sync_api import FloatRect

PICTURE = ROOT / "docs" / "images" / "quickstart.png"
WIDTH, SCALE = 1080, 1.2  # CSS pixels, and pixels of the picture for each
MARGIN = 10
# The first prompts use up both Groq keys; only the cells after them are in the picture.
BEFORE = (
    "%load_ext arche_magic\n"
    "%llm_sandbox --keys groq=2 --keys mistral=1 --keys openai=1 --left groq.requests_per_day=1",
    "%%llm\nWhat is a token bucket?",
    "%%llm\nWhat is a rolling window?",
)
SHOWN = ("%%llm\nWhat does the HTTP header retry-after tell a client?", "%llm_quota")
# Only the cells matter: no menus, no mark on the selected cell, no room above and below.
ONLY_CELLS = """
  #top-panel-wrapper, #menu-panel-wrapper, #jp-bottom-panel, .jp-SideBar, .jp-Notebook-footer,
  .jp-cell-toolbar, .jp-Collapser { display: none !important; }
"""


def main() -> None:
    """Run the cells, unfold the receipt, and photograph the cells that matter."""
    if find_chromium() is None:
        sys.exit("This needs Chromium: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyter_lab(Path(folder)) as lab,
        chromium() as browser,
    ):
        lab.set_theme("JupyterLab Light")
        lab.write("demo.ipynb", [nbformat.v4.new_code_cell(text) for text in BEFORE + SHOWN])
        with open_notebook(browser, lab, "demo.ipynb", WIDTH, SCALE) as screen:
            screen.run_all()
            screen.cell("retry-after").locator("summary").click()
            screen.page.add_style_tag(content=ONLY_CELLS)
            screen.show_whole_notebook(WIDTH)
            PICTURE.parent.mkdir(parents=True, exist_ok=True)
            screen.page.screenshot(path=PICTURE, clip=around(screen))
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB")


def around(screen: Screen) -> FloatRect:
    """The part of the page that holds the shown cells, with a margin above and below."""
    first = screen.cell("retry-after").bounding_box()
    last = screen.cell("%llm_quota").bounding_box()
    if first is None or last is None:
        sys.exit("The cells are not on the page.")
    top, bottom = first["y"] - MARGIN, last["y"] + last["height"] + MARGIN
    return {"x": first["x"], "y": top, "width": first["width"], "height": bottom - top}


if __name__ == "__main__":
    main()
