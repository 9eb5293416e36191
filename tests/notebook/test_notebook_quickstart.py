"""The quickstart with and without keys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from notebook_kernel import kernel_environment

from arche_magic.sandbox import Sandbox

ROOT = Path(__file__).parents[2]


def served_by(notebook: nbformat.NotebookNode) -> list[str]:
    """The keys that answered, read from the saved outputs."""
    return [
        output.metadata.arche_magic["key"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "arche_magic" in output.get("metadata", {})
    ]


def test_make_demo_runs_every_cell_without_a_key(tmp_path: Path) -> None:
    """It runs 12 cells with several fallbacks, writes a notebook and a page, and exits with 0."""
    ran = subprocess.run(
        [sys.executable, str(ROOT / "notebooks" / "demo.py")],
        cwd=ROOT,
        env=kernel_environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.rstrip().splitlines()
    assert lines[-2].startswith("12 cells in ")
    assert lines[-1].startswith("Open it in JupyterLab:  ")
    assert lines[-1].endswith("quickstart.ipynb")
    executed = nbformat.read(ROOT / "build" / "quickstart.ipynb", as_version=4)
    assert served_by(executed) == [
        "groq_key_1",
        "groq_key_2",
        "groq_key_3",
        "mistral_key_1",
        "google_key_1",
        "openai_key_1",
    ]
    page = (ROOT / "build" / "quickstart.html").read_text(encoding="utf-8")
    assert "groq · key 1 · gpt-oss-120b" in page
    outputs = [output for cell in executed.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_the_quickstart_uses_configured_keys(tmp_path: Path) -> None:
    """With keys in the environment, the notebook does not start its sandbox and runs to the end."""
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    with Sandbox(keys={"groq": 1, "mistral": 1}) as sandbox:
        NotebookClient(
            notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
        ).execute(env=kernel_environment(tmp_path, **sandbox.environment()))
        assert len(sandbox.requests) == 7
    assert served_by(notebook) == ["groq_key_1"] * 6
    assert "Sandbox on" not in nbformat.writes(notebook)
    assert (tmp_path / "outputs").is_dir()
