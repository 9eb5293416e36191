"""Make `docs/images/quickstart.gif`: a key runs out while you watch, and the next one answers.

Run `python tests/browser/moving_picture.py`; it needs Chromium and no key, like `screenshots.py`.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lab_session import ROOT, Screen, open_notebook
from PIL import Image
from screenshots import ONLY_CELLS, PICTURES, lab_and_browser

if TYPE_CHECKING:
    from playwright.sync_api import FloatRect

WIDTH, HEIGHT = 860, 700  # CSS pixels
TOP = 74  # height of title, menus and toolbar
FRAME_SECONDS, LAST_SECONDS = 0.2, 4.0
COLORS = 64
SETUP = (
    "%load_ext arche_magic\n"
    "%llm_sandbox --keys groq=2 --left groq_key_1.requests_per_day=1 "
    "--latency 0.8 --tokens-per-second 30"
)
# The setup runs before the picture begins.
NO_SETUP = "#main .jp-Notebook-toolbar, .jp-Cell[data-windowed-list-index='0'] { display: none; }"
CELLS = (
    "%%llm\nWhat is a token bucket?",
    "%%llm\nAnd a rolling window?",
    "%llm_quota",
)


def main() -> None:
    """Run the cells one after another and photograph the page meanwhile."""
    with lab_and_browser() as (lab, browser):
        lab.write("demo.ipynb", (SETUP, *CELLS))
        with open_notebook(browser, lab, "demo.ipynb", WIDTH, 1.0) as screen:
            frames = record(screen)
    path = PICTURES / "quickstart.gif"
    write(frames, path)
    print(f"{path.relative_to(ROOT)}: {len(frames)} frames, {path.stat().st_size / 1000:.0f} kB")


def record(screen: Screen) -> list[Image.Image]:
    """The frames from the first prompt to the table."""
    page = screen.page
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT + TOP})
    page.add_style_tag(content=ONLY_CELLS)
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt")
    page.locator(".jp-CodeCell .cm-content").first.click()
    frames: list[Image.Image] = []
    for number in range(len(CELLS) + 1):
        if number == 1:
            page.add_style_tag(content=NO_SETUP)
        page.keyboard.press("Shift+Enter")
        deadline = time.monotonic() + 60
        while not prompts.nth(number).inner_text().strip("[]: ").isdigit():
            if time.monotonic() > deadline:
                sys.exit(f"Cell {number + 1} still runs.")
            if number:
                frames.append(frame(screen))
            page.wait_for_timeout(FRAME_SECONDS * 500)
        if number:
            page.wait_for_timeout(400)
            frames += [frame(screen)] * 5
    receipt = page.locator("summary").filter(has_text="skipped").first
    receipt.click()
    page.wait_for_timeout(300)
    frames += [frame(screen)] * 15
    # Folded again, so that the whole table is seen at the end.
    receipt.click()
    page.locator(".jp-CodeCell").last.locator(".jp-OutputArea").evaluate(
        "output => output.scrollIntoView({block: 'end'})"
    )
    page.wait_for_timeout(300)
    return [*frames, frame(screen)]


def frame(screen: Screen) -> Image.Image:
    """The page without its borders."""
    clip: FloatRect = {"x": 0, "y": TOP, "width": WIDTH, "height": HEIGHT}
    return Image.open(io.BytesIO(screen.page.screenshot(clip=clip))).convert("RGB")


def write(frames: list[Image.Image], path: Path) -> None:
    """Save the frames as one GIF with few colours; equal frames become one that lasts longer."""
    kept: list[Image.Image] = []
    times: list[int] = []
    for one in frames:
        if kept and one.tobytes() == kept[-1].tobytes():
            times[-1] += round(FRAME_SECONDS * 1000)
        else:
            kept.append(one)
            times.append(round(FRAME_SECONDS * 1000))
    times[-1] = round(LAST_SECONDS * 1000)
    palette = kept[-1].quantize(COLORS)
    few = [one.quantize(COLORS, palette=palette, dither=Image.Dither.NONE) for one in kept]
    few[0].save(path, save_all=True, append_images=few[1:], duration=times, loop=0, optimize=True)


if __name__ == "__main__":
    main()
