"""The same notebook run and converted without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter, MarkdownExporter, PythonExporter
from nbconvert.preprocessors.sanitize import SanitizeHTML
from place_parts import CELLS, ERROR, FAILING, LIKE_GITHUB, Run, outputs, write
from traitlets.config import Config


def test_jupyter_execute_saves_every_representation(executed: nbformat.NotebookNode) -> None:
    """Replies are saved as text and Markdown, receipts and tables as text and HTML."""
    reply, receipt = outputs(executed, "%%llm")
    assert set(reply.data) == {"text/plain", "text/markdown"}
    assert "hello" in reply.data["text/plain"]
    assert reply.metadata["arche_magic"]["key"] == "groq_key_2"
    assert receipt.data["text/plain"].startswith("groq · key 2 · gpt-oss-120b · ")
    for magic in ("%llm_quota", "%llm_why", "%llm_keys", "%llm_models", "%llm_stats"):
        (table,) = outputs(executed, magic)
        assert set(table.data) == {"text/plain", "text/html"}, magic
    live, record = outputs(executed, "%llm_panel")
    assert "application/vnd.jupyter.widget-view+json" in live.data
    assert {"text/plain", "text/html"} <= set(record.data)
    assert outputs(executed, "print(name")[0].text == "Ada groq groq_key_2\n"
    text = json.dumps(executed.cells)
    assert "<script" not in text
    assert "<style" not in text
    assert "gsk_sandbox" not in text


def test_jupyter_execute_stops_at_a_failing_prompt(folder: Path, run: Run) -> None:
    """The command fails with our line, and later cells do not run."""
    path = write(folder / "failing.ipynb", FAILING)
    done = run("jupyter", "execute", "--output", folder / "failed.ipynb", path)
    assert done.returncode != 0
    assert ERROR in done.stderr
    assert "never reached\n" not in done.stdout


def test_papermill_runs_with_parameters(folder: Path, run: Run) -> None:
    """`papermill` inserts its parameters and saves the same outputs."""
    path = write(folder / "parameters.ipynb", CELLS, tags=("parameters",))
    done = run("papermill", "--no-progress-bar", path, folder / "mill.ipynb", "-p", "name", "Bea")
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(folder / "mill.ipynb", as_version=4)
    assert outputs(notebook, "print(name")[0].text == "Bea groq groq_key_2\n"
    assert len(outputs(notebook, "%%llm")) == 2


def test_papermill_stops_at_a_failing_prompt(folder: Path, run: Run) -> None:
    """The run fails with our message, and the saved notebook marks the cell."""
    path = write(folder / "failing_mill.ipynb", FAILING)
    done = run("papermill", "--no-progress-bar", path, folder / "failed_mill.ipynb")
    assert done.returncode != 0
    assert ERROR in done.stderr
    notebook = nbformat.read(folder / "failed_mill.ipynb", as_version=4)
    (error,) = (o for o in outputs(notebook, "-p grok") if o.output_type == "error")
    assert [ERROR in line for line in error.traceback] == [True]
    assert outputs(notebook, "never") == []


def test_html_shows_replies_receipts_and_bars(executed: nbformat.NotebookNode) -> None:
    """Nbconvert's HTML has the reply, the receipt that unfolds, and every table."""
    html, _ = HTMLExporter().from_notebook_node(executed)
    body = html[html.index("<body") :]
    assert "<em>Simulated reply" in body
    assert re.search(r"<details.*?<summary.*?groq · key 2 · gpt-oss-120b", body, re.DOTALL)
    assert "0 of 1,000" in body
    assert body.count("<table") >= 6
    assert "background:#d0493b" in body


def test_html_without_styles_still_says_everything(
    executed: nbformat.NotebookNode, folder: Path
) -> None:
    """If a viewer removes styles, like GitHub, receipts unfold and numbers stay."""
    config = Config({"SanitizeHTML": LIKE_GITHUB})
    exporter = HTMLExporter(preprocessors=[SanitizeHTML], config=config)
    html, _ = exporter.from_notebook_node(executed)
    (folder / "like-github.html").write_text(html)
    # A script of nbconvert activates the panel's widgets, and no viewer keeps it.
    body = re.sub("<script.*?</script>", "", html[html.index("<body") :], flags=re.DOTALL)
    assert "background:#d0493b" not in body
    assert re.search(r"<details><summary>groq · key 2 · gpt-oss-120b", body)
    assert ">0 of 1,000<" in body
    assert "<b>1 route skipped</b>" in body
    assert "<em>Simulated reply" in body


def test_html_with_next_to_no_elements_keeps_every_word(executed: nbformat.NotebookNode) -> None:
    """`nbconvert --sanitize-html` shows most elements as text, and loses nothing."""
    html, _ = HTMLExporter(sanitize_html=True).from_notebook_node(executed)
    for words in ("groq · key 2 · gpt-oss-120b", "1 route skipped", "0 of 1,000"):
        assert words in html


def test_markdown_reads_as_text(executed: nbformat.NotebookNode) -> None:
    """`nbconvert --to markdown` has the reply as Markdown and the receipt below it."""
    text, _ = MarkdownExporter().from_notebook_node(executed)
    assert "Say **hello**" in text
    assert "groq · key 2 · gpt-oss-120b" in text
    assert "object at 0x" not in text


def test_a_script_runs_in_ipython(folder: Path, executed: nbformat.NotebookNode, run: Run) -> None:
    """`nbconvert --to script` gives a program that runs in `ipython`."""
    source, _ = PythonExporter().from_notebook_node(executed)
    (folder / "place.py").write_text(source)
    done = run("ipython", "--colors=NoColor", folder / "place.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("Ada groq groq_key_2")
    assert "groq · key 2 · gpt-oss-120b · " in done.stdout
    assert "<table" not in done.stdout


def test_a_notebook_runs_in_a_terminal(folder: Path, run: Run) -> None:
    """`ipython notebook.ipynb` prints replies, receipts and tables as text."""
    path = write(folder / "terminal.ipynb", CELLS)
    done = run("ipython", "--colors=NoColor", path)
    assert done.returncode == 0, done.stderr
    assert "groq · key 2 · gpt-oss-120b · " in done.stdout
    assert "refused" in done.stdout
    assert done.stdout.rstrip().endswith("Ada groq groq_key_2")
