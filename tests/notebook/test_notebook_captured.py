"""Outputs that cannot be updated: `%%capture`, `capture_output()`, and Output widgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
import zmq
from nbclient import NotebookClient
from nbclient.output_widget import OutputWidget
from notebook_kernel import Kernel, kernel_environment

from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from pathlib import Path

WORDS = " ".join(f"word{number}" for number in range(30))
RECEIPT = "groq · key 1 · gpt-oss-120b · "
MAGIC = "get_ipython().run_cell_magic('llm', '', 'hi')"
PROLOGUE = """
from IPython.utils.capture import capture_output
from ipywidgets import Output
out, inner = Output(), Output()

@out.capture()
def ask():
    %llm hi
    return None
"""
Sandboxed = Callable[..., Sandbox]


@pytest.fixture
def streaming(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """Replies that come in many pieces."""
    sandboxed(keys={"groq": 1, "mistral": 1}, seconds_per_chunk=0.015, reply=lambda *_: WORDS)
    kernel.run(PROLOGUE)


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize(
    "code",
    [
        "%%capture captured\n%llm hi",
        "%%capture captured\n%%llm\nhi",
        "%%capture captured\nreply = %llm hi\nreply",
        f"with capture_output() as captured:\n    {MAGIC}",
        f"with out, capture_output() as captured:\n    {MAGIC}",
    ],
)
def test_a_captured_reply_appears_once_and_completely(kernel: Kernel, code: str) -> None:
    """The reply and its receipt appear without any incomplete version."""
    cell = kernel.run(code)
    assert (cell.status, cell.displays) == ("ok", [])
    reply, receipt = kernel.value("[o.data['text/plain'] for o in captured.outputs]")
    assert reply == WORDS
    assert receipt.startswith(RECEIPT)
    assert kernel.value("captured.outputs[0].data['text/markdown']") == WORDS
    assert len(kernel.run("captured.show()").data()) == 2


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize(
    ("code", "starts"),
    [
        ("%llm --compare groq,mistral hi", ["── groq"]),
        ("%llm_quota", ["groq · key 1"]),
        ("%llm -q hi", []),
        ("%%llm --over texts --into rows\n{{prompt}}", ["2 of 2 rows", "  prompt"]),
        ("%%llm --over texts --into rows -q\n{{prompt}}", []),
    ],
)
def test_other_captured_outputs_appear_once(kernel: Kernel, code: str, starts: list[str]) -> None:
    """They are columns, bars and tables. A frame appears only if it would be displayed anyway."""
    kernel.run("texts = ['a', 'b']")
    cell = kernel.run(f"%%capture captured\n{code}")
    assert cell.status == "ok", cell.error
    texts = kernel.value("[o.data['text/plain'] for o in captured.outputs]")
    assert len(texts) == len(starts)
    assert all(text.startswith(start) for text, start in zip(texts, starts, strict=True))


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize(
    "code",
    [
        f"with out:\n    {MAGIC}",
        f"with out:\n    with inner:\n        {MAGIC}",
        f"with out:\n    with inner:\n        pass\n    {MAGIC}",
        "with out:\n    %llm hi",
        "ask()",
    ],
)
def test_an_output_widget_gets_the_complete_reply_once(kernel: Kernel, code: str) -> None:
    """Widgets do not support updates of a display, so none are sent."""
    cell = kernel.run(code)
    assert cell.status == "ok", cell.error
    kinds = [kind for _, kind, _ in cell.messages if "display" in kind]
    assert kinds == ["display_data", "display_data"]
    assert cell.data()[0] == WORDS
    assert cell.data()[1].startswith(RECEIPT)
    growing = kernel.run("%llm hi")
    assert sum(kind == "update_display_data" for _, kind, _ in growing.messages) > 1


@pytest.mark.usefixtures("streaming")
def test_an_error_in_an_output_widget_is_one_line(kernel: Kernel) -> None:
    """The widget contains nothing else."""
    cell = kernel.run("with out:\n    %llm -t 9 hi")
    assert cell.displays == []
    assert cell.error == ["InvalidRequest: temperature is 9; it must be 0 to 2"]


class WakingWidget(OutputWidget):
    """Wakes nbclient 0.11, which can miss the end of a cell while it sends a widget's outputs.

    It sends through a second socket on the same connection (`jupyter_client.Session.send`). If the
    kernel's answer arrives at that time, only the second socket is notified, and nbclient waits for
    ever.
    """

    def send(self, *args: Any, **named: Any) -> None:
        super().send(*args, **named)
        self.kernel_client.shell_channel.socket.get(zmq.EVENTS)  # makes pyzmq check again


def test_a_saved_notebook_has_the_complete_reply_in_its_widget(tmp_path: Path) -> None:
    """`nbclient`, and therefore nbconvert and papermill, saves the outputs of a widget."""
    cells = [
        "%load_ext arche_magic",
        "from ipywidgets import Output\nout = Output()\nout",
        "with out:\n    %llm hi",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    with Sandbox(keys={"groq": 1}, seconds_per_chunk=0.015, reply=lambda *_: WORDS) as sandbox:
        variables = kernel_environment(tmp_path, **sandbox.environment())
        client = NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}})
        client.widget_registry["@jupyter-widgets/output"]["OutputModel"] = WakingWidget
        client.execute(env=variables)
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    (outputs,) = (s["state"]["outputs"] for s in states.values() if s["state"].get("outputs"))
    assert [output["data"]["text/plain"].startswith(RECEIPT) for output in outputs] == [False, True]
    assert outputs[0]["data"]["text/plain"] == WORDS
