"""Costs of the notebook layer: `python tests/bench/face.py` only prints them.

It runs real kernels, JupyterLab and Chromium (`apt-get install chromium`) on this machine, with
the sandbox as the services. It takes about two minutes.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import nbformat
import psutil
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser"), str(ROOT / "tests" / "notebook")]

from lab_session import (  # noqa: E402  # after the path
    Screen,
    chromium,
    find_chromium,
    jupyter_lab,
    open_notebook,
)
from notebook_kernel import Kernel  # noqa: E402  # as above

KERNELS, PANELS, IDLE_SECONDS = 5, 5, 15
REPLY, PANEL = 1, 2  # positions of the cells
REPLY_CHARACTERS, REPLY_SECONDS = 16_000, 20  # four characters a token
START = """\
import os, re
from arche_magic.sandbox import Sandbox

words = re.findall(r"\\S+\\s", "Many **words** about quota, and `code` between them.\\n\\n" * 320)
text = "".join(words)[:{characters}]
sandbox = Sandbox(
    keys={{"groq": 3, "mistral": 1, "google": 1, "openai": 1}},
    left={{"groq_key_1": {{"requests_per_day": 0}}}},
    reply=lambda *_: text, seconds_per_chunk={seconds} / max(1, len(words)),
).start()
os.environ.update(sandbox.environment(), ARCHE_QUOTA_STORE="memory://")
%load_ext arche_magic
print("process", os.getpid())"""
ASK = "%%llm -p groq\nSay much."
# From a key press to the frame in which a new panel is complete, with meters and prompt box.
WATCH_PANEL = """() => {
  const before = new Set(document.querySelectorAll(".widget-textarea"));
  window.shown = new Promise(resolve => addEventListener("keydown", () => {
    const pressed = performance.now();
    const look = () => {
      const box = [...document.querySelectorAll(".widget-textarea")].find(
        box => !before.has(box) && box.getBoundingClientRect().height > 0);
      if (box && box.closest(".widget-vbox").innerText.includes("requests/min"))
        resolve(performance.now() - pressed);
      else requestAnimationFrame(look);
    };
    look();
  }, {once: true, capture: true}));
}"""
WATCH_FRAMES = """() => {
  window.gaps = [];
  let last = performance.now();
  const next = now => { window.gaps.push(now - last); last = now; requestAnimationFrame(next); };
  requestAnimationFrame(next);
}"""


class Wire:
    """Messages and bytes from the kernel to a page."""

    def __init__(self, screen: Screen) -> None:
        self._sizes: list[int] = []
        screen.page.on("websocket", lambda socket: socket.on("framereceived", self._take))
        # Sockets are recorded from their opening on.
        screen.page.reload()
        screen.page.get_by_text("(ipykernel) | Idle").wait_for(timeout=40_000)

    def _take(self, frame: str | bytes) -> None:
        self._sizes.append(len(frame))

    def since(self) -> tuple[int, int]:
        """Messages and bytes since the last call."""
        sizes, self._sizes = self._sizes, []
        return len(sizes), sum(sizes)


def main() -> None:
    """Print every figure."""
    if find_chromium() is None:
        sys.exit("This needs Chromium: apt-get install chromium")
    loading()
    in_the_browser()
    saved_size()


def loading() -> None:
    """How long `%load_ext` takes in a new kernel."""
    code = (
        "import time\nbegan = time.perf_counter()\n%load_ext arche_magic\n"
        "print((time.perf_counter() - began) * 1000)"
    )
    took = []
    for _ in range(KERNELS):
        with tempfile.TemporaryDirectory() as folder:
            kernel = Kernel(Path(folder), extension=False)
            try:
                took.append(float(kernel.run(code).printed))
            finally:
                kernel.stop()
    say("%load_ext in a new kernel", f"{median(took):.0f} ms, median of {KERNELS}")


def in_the_browser() -> None:
    """All figures that need a page."""
    start = START.format(characters=REPLY_CHARACTERS, seconds=REPLY_SECONDS)
    sources = (start, ASK, "%llm_panel")
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyter_lab(Path(folder)) as lab,
        chromium() as browser,
    ):
        lab.write("bench.ipynb", [nbformat.v4.new_code_cell(source) for source in sources])
        with open_notebook(browser, lab, "bench.ipynb") as screen:
            wire = Wire(screen)
            run(screen, 0)
            process = psutil.Process(int(printed(screen, 0).partition("process ")[2]))
            streamed(screen, wire)
            panel(screen)
            idle(screen, wire, process, "idle panel, a route counting down")
            asked_in_the_panel(screen, wire)


def panel(screen: Screen) -> None:
    """From the key that runs `%llm_panel` to the panel on the screen."""
    took = []
    for _ in range(PANELS):
        select(screen, PANEL)
        screen.page.evaluate(WATCH_PANEL)
        screen.page.keyboard.press("Control+Enter")
        took.append(screen.page.evaluate("() => window.shown"))
        screen.page.wait_for_timeout(1000)
    again = f"{median(took[1:]):.0f} ms, median of {len(took) - 1} more"
    say("panel on screen", f"{took[0]:.0f} ms at first", again)


def idle(screen: Screen, wire: Wire, process: psutil.Process, name: str) -> None:
    """Messages, bytes and CPU time of an idle panel."""
    screen.page.wait_for_timeout(2000)
    wire.since()
    before = sum(process.cpu_times()[:2])
    screen.page.wait_for_timeout(IDLE_SECONDS * 1000)
    used = sum(process.cpu_times()[:2]) - before
    messages, size = wire.since()
    say(
        name,
        f"{messages / IDLE_SECONDS:.1f} messages/s",
        f"{size / IDLE_SECONDS / 1000:.1f} kB/s",
        f"{100 * used / IDLE_SECONDS:.1f} % CPU of the kernel",
    )


def streamed(screen: Screen, wire: Wire) -> None:
    """Bytes to the page for a long reply, and how smoothly the page is drawn."""
    wire.since()
    screen.page.evaluate(WATCH_FRAMES)
    began = time.monotonic()
    run(screen, REPLY, seconds=120)
    report(screen, wire, "in a cell", time.monotonic() - began)


def asked_in_the_panel(screen: Screen, wire: Wire) -> None:
    """The same for the panel's prompt box."""
    shown = screen.page.locator(".jp-CodeCell").nth(PANEL)
    shown.get_by_placeholder("A prompt").fill("Say much.")
    wire.since()
    screen.page.evaluate(WATCH_FRAMES)
    began = time.monotonic()
    shown.get_by_role("button", name="Send").click()
    shown.locator("summary, .jp-RenderedHTML span").filter(has_text="tokens").first.wait_for(
        timeout=120_000
    )
    report(screen, wire, "in the panel", time.monotonic() - began)


def report(screen: Screen, wire: Wire, name: str, seconds: float) -> None:
    """Print the cost of a long reply."""
    gaps = sorted(screen.page.evaluate("() => window.gaps"))
    messages, size = wire.since()
    say(
        f"{REPLY_CHARACTERS // 4:,} tokens in {seconds:.0f} s, {name}",
        f"{size / 1e6:.2f} MB in {messages} messages",
        f"frames {median(gaps):.0f} ms apart, 99 % under {gaps[int(len(gaps) * 0.99)]:.0f} ms,"
        f" worst {gaps[-1]:.0f} ms",
    )


def saved_size() -> None:
    """The size of a notebook with 50 cells: 46 replies, a table, statistics, plots, a panel."""
    start = START.format(characters=600, seconds=0).partition("\nprint")[0]
    sources = [start, *["%%llm\nSay something of fair length."] * 45]
    sources += ["%llm_quota", "%llm_stats", "%llm_stats --plot", "%llm_panel"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=120,
            # JupyterLab's default format.
            store_widget_state=False,
            record_timing=False,
            resources={"metadata": {"path": folder}},
        ).execute()
    size = len(nbformat.writes(notebook).encode())
    say(f"saved notebook of {len(cells)} cells", f"{size / 1000:.0f} kB")


def select(screen: Screen, cell: int) -> None:
    """Put the cursor into a cell."""
    screen.page.locator(".jp-CodeCell").nth(cell).locator(".jp-InputArea-editor").click()


def run(screen: Screen, cell: int, seconds: float = 40) -> None:
    """Run one cell and wait for its number."""
    select(screen, cell)
    screen.page.keyboard.press("Control+Enter")
    screen.page.wait_for_function(
        r"cell => /\[\d+\]/.test("
        'document.querySelectorAll(".jp-CodeCell")[cell].querySelector(".jp-InputPrompt").innerText)',
        arg=cell,
        timeout=seconds * 1000,
    )


def printed(screen: Screen, cell: int) -> str:
    """The output of a cell."""
    output = screen.page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea-output").first
    output.wait_for()
    return re.sub(r"\s+", " ", output.inner_text()).strip()


def say(name: str, *figures: Any) -> None:
    """Print one line of the result."""
    print(f"{name:<58} {' · '.join(str(figure) for figure in figures)}", flush=True)


if __name__ == "__main__":
    main()
