"""Make the pictures in `docs/images/` from cells run in JupyterLab.

Run `python tests/browser/screenshots.py`. It needs Chromium (`apt-get install chromium`) and no
key:
the replies come from the sandbox and say so. The times in them differ from run to run.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lab_session import ROOT, Lab, Screen, chromium, find_chromium, jupyter_lab, open_notebook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, FloatRect, Locator

PICTURES = ROOT / "docs" / "images"
WIDTH, SCALE = 1080, 1.2  # CSS pixels, and picture pixels for each
MARGIN = 10
# The first prompts use up both Groq keys; the pictures show only the cells after them.
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
# A program that uses the server appears under its own name. The last cell is marked as selected, so
# another one follows those in the picture.
CLIENTS = (
    BEFORE[0],
    (
        "%%capture\n"
        "import arche_magic, openai\n"
        "server = %llm_serve\n"
        "program = openai.OpenAI(base_url=server.base_url, api_key=server.api_key)\n"
        'asked = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}\n'
        "answers = [program.chat.completions.create(**asked) for _ in range(3)]"
    ),
    (
        'client = arche_magic.openai_client(tag="report")\n'
        "answer = client.chat.completions.create(\n"
        '    model="auto", messages=[{"role": "user", "content": "What is a token bucket?"}]\n'
        ")\n"
        "print(answer.choices[0].message.content)"
    ),
    "%llm_why",
    "%llm_stats --by client",
    "pass",
)
STATUS = (
    "%load_ext arche_magic\n%llm_sandbox --keys groq=1 --keys mistral=1",
    "%%llm\nWhat is a token bucket?",
)
# Show only the cells: no menus, no mark on the selected cell, no margins.
ONLY_CELLS = """
  #top-panel-wrapper, #menu-panel-wrapper, #jp-bottom-panel, .jp-SideBar, .jp-Notebook-footer,
  .jp-cell-toolbar, .jp-Collapser { display: none !important; }
"""


@contextmanager
def lab_and_browser() -> Iterator[tuple[Lab, Browser]]:
    """JupyterLab in its light theme, and Chromium."""
    if find_chromium() is None:
        sys.exit("This needs Chromium: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyter_lab(Path(folder)) as lab,
        chromium() as browser,
    ):
        lab.set_theme("JupyterLab Light")
        yield lab, browser


def main() -> None:
    """Run the cells, ask in the panel, unfold a call, and photograph the right cells."""
    with lab_and_browser() as (lab, browser):
        PICTURES.mkdir(parents=True, exist_ok=True)
        lab.write("demo.ipynb", (*BEFORE, PANEL, *TOOLS))
        with open_notebook(browser, lab, "demo.ipynb", WIDTH, SCALE) as screen:
            screen.run_all()
            panel = screen.cell(PANEL)
            panel.locator("textarea").first.fill("What is a rolling window?")
            panel.get_by_role("button", name="Send").click()
            panel.locator(".jp-RenderedHTML").filter(has_text="tokens").first.wait_for()
            screen.cell("--tools").locator("summary").first.click()
            show_only_cells(screen)
            take(screen, "panel", PANEL, PANEL)
            take(screen, "tools", "temperatures = ", "--tools")
        lab.write("libraries.ipynb", CLIENTS)
        with open_notebook(browser, lab, "libraries.ipynb", WIDTH, SCALE) as screen:
            screen.run_all()
            show_only_cells(screen)
            take(screen, "libraries", "openai_client", "--by client")
        lab.write("status.ipynb", STATUS)
        with open_notebook(browser, lab, "status.ipynb", WIDTH, SCALE) as screen:
            screen.run_all()
            bar = screen.page.locator("#jp-main-statusbar")
            bar.get_by_text("requests left").wait_for()
            screen.page.add_style_tag(content=".jp-SideBar, .jp-cell-toolbar { display: none }")
            screen.show_whole_notebook(WIDTH)
            path, clip = PICTURES / "status_bar.png", around(screen.cell("token bucket"), bar)
            clip |= {
                "x": 0,
                "width": WIDTH,
                "y": clip["y"] + MARGIN,
                "height": clip["height"] - MARGIN,
            }
            screen.page.screenshot(path=path, clip=clip)
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def show_only_cells(screen: Screen) -> None:
    """Hide everything around the notebook, and make the page as long as the notebook."""
    screen.page.add_style_tag(content=ONLY_CELLS)
    screen.show_whole_notebook(WIDTH)


def take(screen: Screen, name: str, first: str, last: str) -> None:
    """Photograph the cells from the first to the last of these."""
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
