"""The notebook about the table, the plots and the panel: as committed, and run again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
from notebook_kernel import environment_without_keys

ROOT = Path(__file__).parents[2]
STORY = ROOT / "notebooks" / "panel.ipynb"


def shown(notebook: Any, source: str) -> list[Any]:
    """The display of the first cell that begins like this."""
    cell = next(cell for cell in notebook.cells if cell.source.startswith(source))
    return [output.data for output in cell.outputs if "data" in output]


def check(notebook: Any) -> None:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert "groq · key 1" in shown(notebook, "%llm_quota")[0]["text/plain"]
    for source, pictures in (("%llm_quota --plot", 2), ("%llm_stats --plot", 3)):
        assert shown(notebook, source)[0]["text/html"].count("data:image/png;base64") == pictures
    widget, record = shown(notebook, "%llm_panel")
    assert "while this notebook's kernel" in widget["text/plain"]
    assert "As of " in record["text/html"]
    # The choice is in effect: Mistral answers first, and one Groq key is off.
    _, receipt = shown(notebook, "%%llm")
    assert receipt["text/plain"].startswith("mistral · key 1 · ")
    assert (
        "Switched off in this session: groq · key 2"
        in (shown(notebook, "%llm_quota groq")[0]["text/plain"])
    )


def test_the_committed_notebook_needs_no_kernel() -> None:
    """Tables, plots and the panel's table are in the file, which is small."""
    check(nbformat.read(STORY, as_version=4))
    text = STORY.read_text(encoding="utf-8")
    assert len(text) < 150_000
    assert "widget-state" not in text
    assert str(ROOT) not in text


def test_the_demo_runs_it_without_a_key(tmp_path: Path) -> None:
    """Every cell, with the same outputs; exit status 0."""
    ran = subprocess.run(
        [sys.executable, str(ROOT / "notebooks" / "demo.py"), "panel"],
        cwd=ROOT,
        env=environment_without_keys(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    check(nbformat.read(ROOT / "build" / "panel.ipynb", as_version=4))
