"""The notebooks in `notebooks/` are small and up to date, and reveal nothing private."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

from arche_magic.sandbox import Sandbox

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def runner() -> ModuleType:
    """`notebooks/write_outputs.py`, which is not in a package."""
    spec = importlib.util.spec_from_file_location("write_outputs", FOLDER / "write_outputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def texts(notebook: Any) -> list[tuple[str, list[str]]]:
    """Each code cell, and the text of its outputs."""
    return [
        (
            cell.source,
            [out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs],
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_reveals_nothing_about_its_author(path: Path) -> None:
    """No key, no path of a machine, no time of a run, no error, and no name of a kernel."""
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert len(text) < 150_000
    for private in (str(FOLDER.parent), str(Path.home()) + "/", "/tmp/", "/Users/", "C:\\"):
        assert private not in text
    with Sandbox() as sandbox:
        for name, value in sandbox.environment().items():
            assert "KEY" not in name or value not in text
    assert not re.search(r"127\.0\.0\.1:\d", text)
    assert "widget-state" not in text
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python"}
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert not [out for out in outputs(notebook) if out.output_type == "error"]
    assert not [out for out in outputs(notebook) if out.get("name") == "stderr"]


@pytest.mark.parametrize("path", runner().alike(), ids=lambda path: path.stem)
def test_running_a_notebook_again_gives_the_saved_outputs(path: Path) -> None:
    """They are equal word for word. If this fails, run `make notebooks`."""
    committed = nbformat.read(path, as_version=4)
    executed = runner().execute(nbformat.read(path, as_version=4))
    assert texts(executed) == texts(committed)


def test_the_notebook_about_a_limit_is_complete() -> None:
    """Limits, fallback, why, forecast, frames and export are in its outputs."""
    notebook = nbformat.read(FOLDER / "quota_and_routes.ipynb", as_version=4)
    said = "\n".join(text for _, found in texts(notebook) for text in found)
    for wanted in (
        "requests/day      ░░░░░░░░░░          0 of 1,000 left",
        "2 routes skipped",
        "asking 86 s later",
        "RouteId(provider='mistral', key='mistral_key_1', model='mistral-small-latest')",
        "Room on the free routes for prompts like the last one (",
        "requests_per_day",
        "0 of 1,000 requests per day left",
        "True",
    ):
        assert wanted in said


def test_the_notebook_about_the_panel_is_complete() -> None:
    """Tables, plots and the panel's table are in the file, and the choices have an effect."""
    notebook = nbformat.read(FOLDER / "panel.ipynb", as_version=4)

    def shown(source: str) -> list[Any]:
        """The displays of the first cell that begins like this."""
        cell = next(cell for cell in notebook.cells if cell.source.startswith(source))
        return [output.data for output in cell.outputs if "data" in output]

    assert "groq · key 1" in shown("%llm_quota")[0]["text/plain"]
    for source, pictures in (("%llm_quota --plot", 2), ("%llm_stats --plot", 3)):
        assert shown(source)[0]["text/html"].count("data:image/png;base64") == pictures
    widget, record = shown("%llm_panel")
    assert "while this notebook's kernel" in widget["text/plain"]
    assert "As of " in record["text/html"]
    _, receipt = shown("%%llm")
    assert receipt["text/plain"].startswith("mistral · key 1 · ")
    off = "Switched off in this session: groq · key 2"
    assert off in shown("%llm_quota groq")[0]["text/plain"]


@pytest.mark.parametrize("again", [False, True], ids=["as committed", "run again"])
def test_the_notebook_about_a_thousand_rows_is_complete(again: bool) -> None:
    """A plan that sends nothing, a job that is interrupted and continued, and all rows answered."""
    notebook = nbformat.read(FOLDER / "a_thousand_rows.ipynb", as_version=4)
    if again:
        notebook = runner().execute(notebook)
    said = [text for _, found in texts(notebook) for text in found]
    (plan,) = (text for text in said if text.endswith("Nothing was sent."))
    assert plan.startswith("1,000 rows\nDone in ")
    assert "held back by" in plan
    assert "By 23:59: yes" in plan
    (bar,) = (text for text in said if text.startswith("1,000 of 1,000 rows"))
    asked, resumed = re.search(r"([\d,]+) in .* · ([\d,]+) from memory", bar).groups()
    assert int(asked) + int(resumed) == 1000
    assert int(resumed) >= 100
    assert "0" in said
    pictures = [out.data.get("image/png") for out in outputs(notebook) if "data" in out]
    assert len(list(filter(None, pictures))) == 1
