"""Run the quickstart in a real kernel and print each cell as it finishes.

`make demo` calls this. It needs no key and no network: the kernel starts in an empty folder without
your key variables, so the notebook starts its sandbox. The executed notebook and an HTML page are
written to `build/`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build"
KEY_VARIABLES = ("GROQ_", "MISTRAL_", "GOOGLE_", "GEMINI_", "OPENAI_", "ARCHE_")


def main() -> None:
    """Execute the quickstart, print its cells, and write the results to `build/`."""
    notebook = nbformat.read(HERE / "quickstart.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    started = time.monotonic()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(KEY_VARIABLES)}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=120,
            # Otherwise, it warns that it listens on a loopback port, as all notebook kernels do.
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            resources={"metadata": {"path": folder}},
            on_cell_start=lambda cell, cell_index: announce(cell),
            on_cell_executed=lambda cell, cell_index, execute_reply: show(cell, total),
        )
        client.execute(env=environment)
    BUILD.mkdir(exist_ok=True)
    executed, page = BUILD / "quickstart.ipynb", BUILD / "quickstart.html"
    nbformat.write(notebook, executed)
    body, _ = HTMLExporter(theme="light").from_notebook_node(notebook)
    page.write_text(body, encoding="utf-8")
    seconds = time.monotonic() - started
    jupyter = Path(sys.prefix) / "bin" / "jupyter"
    print(f"\n{total} cells in {seconds:.0f} s. Written: {near(executed)}, {near(page)}")
    print(f"Open it in JupyterLab:  {near(jupyter)} lab {near(executed)}")


def announce(cell: Any) -> None:
    """Print a heading when its cell is reached."""
    if cell.cell_type == "markdown" and cell.source.startswith("#"):
        title = cell.source.splitlines()[0].lstrip("# ")
        print(f"\n━━ {title} " + "━" * max(0, 76 - len(title)), flush=True)


def show(cell: Any, total: int) -> None:
    """Print a code cell and the text of its outputs."""
    if cell.cell_type != "code":
        return
    print(
        f"\n[{cell.execution_count}/{total}] " + cell.source.replace("\n", "\n      "), flush=True
    )
    for output in cell.outputs:
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        if output.output_type == "error":
            text = f"{output.ename}: {output.evalue}"
        for line in text.strip("\n").splitlines():
            print(f"    │ {line}", flush=True)


def near(path: Path) -> str:
    """The path relative to the working directory, if possible."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    main()
