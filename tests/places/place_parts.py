"""The notebook that is run in each place, and its outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import nbformat

CELLS = (
    "name = 'Ada'",
    "%load_ext arche_magic\n%llm_sandbox --keys groq=2 --left groq_key_1.requests_per_day=0",
    "%%llm -o answer\nSay **hello** to a < b & c.",
    "%llm_quota groq",
    "%llm_why answer",
    "%llm_keys",
    "%llm_models groq",
    "%llm_stats",
    "%llm_panel",
    "print(name, answer.provider, answer.key)",
)
FAILING = (*CELLS[:2], "%%llm -p grok\nHello", "print('never reached')")
ERROR = "unknown provider 'grok'; did you mean 'groq'?"

# The HTML elements that GitHub allows, of those that we use; styles are removed.
ELEMENTS = """a b blockquote br code dd del details div dl dt em h1 h2 h3 h4 h5 h6 hr i img ins kbd
li ol p pre q s samp span strong sub summary sup table tbody td tfoot th thead tr ul var"""
LIKE_GITHUB = {
    "enabled": True,
    "tags": ELEMENTS.split(),
    "attributes": {"*": ["colspan", "rowspan", "align"], "a": ["href"], "img": ["src"]},
    "strip": True,
}

Run = Callable[..., CompletedProcess[str]]


def write(path: Path, cells: tuple[str, ...], tags: tuple[str, ...] = ()) -> Path:
    """Save a notebook of these cells; the first has the tags."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.cells[0].metadata["tags"] = list(tags)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
    }
    nbformat.write(notebook, path)
    return path


def outputs(notebook: nbformat.NotebookNode, source: str) -> list[nbformat.NotebookNode]:
    """The outputs of the cell whose source contains `source`."""
    (cell,) = (c for c in notebook.cells if c.cell_type == "code" and source in c.source)
    return cell.outputs
