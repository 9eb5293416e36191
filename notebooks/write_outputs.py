"""Run notebooks in a real kernel and save their outputs in the files: `make notebooks`.

This needs no key and no network. To make the outputs reproducible, the kernel has a simulated
clock, which only the sandbox's latency and waiting advance. The notebook that sends many prompts in
parallel is not reproducible anyway, and is run only if you name it.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
KEY_VARIABLES = ("GROQ_", "MISTRAL_", "GOOGLE_", "GEMINI_", "OPENAI_", "ARCHE_")
# The ids of sessions, requests and widgets, and classes in HTML.
RANDOM = re.compile(r"\b(?:s[0-9a-f]{8}|r[0-9a-f]{12}|arche-panel-[0-9a-f]{8}|[0-9a-f]{32})\b")
# The order of threads varies here, and with it figures and routes.
MANY_AT_ONCE = ("a_thousand_rows",)
HELD_CLOCK = """
import asyncio
import time
from types import SimpleNamespace
from arche_magic.llm_providers.config import SystemClock
from arche_magic.sandbox import app

class Held:
    now = 1795424400.0  # 2026-11-23 09:00 UTC

    def time(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

async def pause(seconds):
    # Replies to several prompts at once stream in any order.
    if seconds >= 0.1:
        held.sleep(seconds)
    await asyncio.sleep(0)

held = Held()
time.time = time.perf_counter = held.time
SystemClock.sleep = lambda clock, seconds: held.sleep(seconds)
# Only for the sandbox.
app.asyncio = SimpleNamespace(**{**vars(asyncio), "sleep": pause})
del Held, pause
"""


def main(*names: str) -> None:
    """Execute the notebooks with these names, or all reproducible ones."""
    for path in [HERE / f"{name}.ipynb" for name in names] or alike():
        notebook = nbformat.read(path, as_version=4)
        nbformat.write(execute(notebook), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def with_outputs() -> list[Path]:
    """The notebooks that are saved with outputs."""
    return [
        path
        for path in sorted(HERE.glob("*.ipynb"))
        if any(cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells)
    ]


def alike() -> list[Path]:
    """The notebooks with reproducible outputs."""
    return [path for path in with_outputs() if path.stem not in MANY_AT_ONCE]


def execute(notebook: Any) -> Any:
    """The notebook after running it in a new kernel, without the user's own keys."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    environment = {k: v for k, v in os.environ.items() if not k.startswith(KEY_VARIABLES)}
    with tempfile.TemporaryDirectory() as folder:
        startup = Path(folder, "ipython", "profile_default", "startup")
        startup.mkdir(parents=True)
        (startup / "held_clock.py").write_text(HELD_CLOCK, encoding="utf-8")
        environment |= {"IPYTHONDIR": str(Path(folder, "ipython")), "TZ": "UTC"}
        work = Path(folder, "work")
        work.mkdir()
        client = NotebookClient(
            notebook,
            timeout=120,
            record_timing=False,
            store_widget_state=False,
            # Otherwise, it warns that it listens on a loopback port, as all notebook kernels do.
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            resources={"metadata": {"path": str(work)}},
        )
        client.execute(env=environment)
    notebook.metadata.language_info = {"name": "python"}
    return with_numbers(notebook)


def with_numbers(notebook: Any) -> Any:
    """The notebook with random ids, also of sessions and widgets, replaced by numbers."""
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        digits = match[0].lstrip("sr").removeprefix("arche-panel-")
        counted = str(numbers.setdefault(digits, len(numbers) + 1)).zfill(len(digits))
        return match[0].removesuffix(digits) + counted

    return nbformat.reads(RANDOM.sub(number, nbformat.writes(notebook)), as_version=4)


if __name__ == "__main__":
    main(*sys.argv[1:])
