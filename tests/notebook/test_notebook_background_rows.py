"""`%%llm --background --over`: the rows of a frame or a file while other cells run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbclient import NotebookClient
from notebook_kernel import kernel_environment
from test_notebook_habits import filled
from test_notebook_terminal import Terminal

from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from notebook_kernel import Kernel

Sandboxed = Callable[..., Sandbox]
PROMPT = "\nIs this positive? {{text}}"
RUN = "%%llm -b --over reviews --pack 1 --into answer" + PROMPT


@pytest.fixture
def start(kernel: Kernel, sandboxed: Sandboxed, tmp_path: Path) -> Sandboxed:
    """Starts a sandbox with reviews and a separate file of kept replies."""

    def begin(rows: int, **settings: Any) -> Sandbox:
        sandbox = sandboxed(**{"keys": {"groq": 1, "mistral": 1}, **settings})
        kernel.run(f"os.environ['ARCHE_REPLIES'] = {str(tmp_path / 'replies.sqlite')!r}")
        kernel.run(
            "import time\nimport pandas as pd\n"
            f"reviews = pd.DataFrame({{'text': [f'soup {{n}}' for n in range({rows})]}})\n"
            "globals().pop('replies', None)\n"
            "def wait_for(rows):\n"
            "    while len(answer.frame) < rows: time.sleep(0.05)\n"
        )
        kernel.elsewhere.clear()
        return sandbox

    return begin


def test_the_cell_ends_at_once_and_its_bar_fills_later(kernel: Kernel, start: Sandboxed) -> None:
    """Other cells run meanwhile, and see the finished rows."""
    start(40, latency=0.3)
    cell = kernel.run(RUN)
    assert (cell.status, cell.results) == ("ok", []), cell.error
    bar, line = cell.data()
    assert bar.startswith("0 of 40 rows  ░")
    assert "job 1 was started in the background on " in line
    assert "%llm_jobs lists and stops it" in line
    kernel.run("wait_for(1)")
    assert kernel.value("(answer.done, 1 <= len(answer.frame) < 40)") == (False, True)
    assert kernel.value("repr(answer)").startswith("<PendingFrame: job 1 is running, ")
    assert " of 40 rows" in kernel.run("%llm_jobs").data()[0]
    assert " of 40 rows" in kernel.run("%llm_jobs show 1").data()[0]
    bar, line = (output["data"]["text/plain"] for output in filled(kernel, cell))
    assert bar.startswith("40 of 40 rows  █")
    assert bar.endswith("answer.wait() returns the frame")
    assert line.startswith("job 1 ended on ")
    assert kernel.value("list(answer.wait().text) == list(reviews.text)") is True
    assert kernel.value("(len(await answer), answer.frame.reply.notna().all().item())") == (
        40, True,
    )  # fmt: skip
    kernel.run("jobs = %llm_jobs")
    assert kernel.value("(list(jobs.state), list(jobs.variable), bool(jobs.tokens[0]))") == (
        ["done"], ["answer"], True,
    )  # fmt: skip
    # The rows are data for another cell, which waits for them.
    cell = kernel.run("%%llm --over answer --prefix second_ --plan\nIs {{reply}} right?")
    assert cell.data()[0].startswith("40 rows")


def test_a_stopped_job_keeps_its_finished_rows(kernel: Kernel, start: Sandboxed) -> None:
    """So does an interrupted one. An interrupt of another cell does not affect the job."""
    sandbox = start(120, keys={"groq": 3, "mistral": 2}, latency=1.0)
    cell = kernel.run(RUN)
    other = kernel.run(
        "import time\nprint('sleeps', flush=True)\ntime.sleep(30)",
        lambda cell: "sleeps" in cell.printed,
    )
    assert other.error_name == "KeyboardInterrupt"
    kernel.run("wait_for(4)")
    assert kernel.value("answer.done") is False
    assert kernel.run("%llm_jobs stop 1").printed == "job 1 stopped\n"
    said = kernel.run("answer.wait()").message
    assert said == (
        "LLMProviderError: job 1 was stopped; answer.frame has the rows that are finished"
    )
    bar, line = (output["data"]["text/plain"] for output in filled(kernel, cell))
    assert " of 120 rows" in bar
    assert "stopped · " in bar
    assert "finished rows; run the cell again for the others" in bar
    assert line.startswith("job 1 was stopped on ")
    kept = kernel.value("len(answer.frame)")
    assert 4 <= kept < 120
    assert kernel.value("answer.frame.reply.notna().all().item()") is True
    kernel.run("jobs = %llm_jobs")
    assert kernel.value("list(jobs.state)") == ["stopped"]
    # When it runs again, only the other rows are asked.
    sandbox.latency = 0.0
    asked = len(sandbox.requests)
    kernel.run(RUN)
    assert kernel.value("len(answer.wait())") == 120
    assert len(sandbox.requests) - asked <= 120 - kept


def test_other_cells_may_change_the_frame_in_place(kernel: Kernel, start: Sandboxed) -> None:
    """The job asks for the rows as they were when its cell ran."""
    start(20, latency=0.3)
    kernel.run(RUN)
    kernel.run("reviews.sort_index(ascending=False, inplace=True)\nreviews.drop(0, inplace=True)")
    assert kernel.value("answer.done") is False
    assert kernel.value("list(answer.wait().text) == [f'soup {n}' for n in range(20)]") is True


def test_a_job_that_reaches_its_bound_says_so(kernel: Kernel, start: Sandboxed) -> None:
    """It says so below its bar and wherever its frame is awaited. The finished rows are kept."""
    sandbox = start(20, keys={"groq": 1})
    sandbox.fail("groq", "invalid_request", times=None)
    cell = kernel.run(RUN.replace("--pack 1", "--pack 1 --stop-after 2"))
    bar, line = (output["data"]["text/plain"] for output in filled(kernel, cell))
    assert "stopped · " in bar
    assert line.startswith("job 1 stopped on ")
    assert "JobStopped: " in line
    assert kernel.run("answer.wait()").message.startswith("JobStopped: ")
    assert kernel.value("answer.frame.error.notna().all().item()") is True


@pytest.mark.parametrize("how", ["", "-b "])
def test_a_job_without_any_reply_says_that_it_failed(
    kernel: Kernel, start: Sandboxed, how: str
) -> None:
    """Its bar does not stay as it was while the job ran."""
    sandbox = start(3, keys={"groq": 1})
    sandbox.fail("groq", "unauthorized", times=None)
    cell = kernel.run(f"%%llm {how}--over reviews --into answer{PROMPT}")
    outputs = filled(kernel, cell) if how else cell.displays
    failed = f"0 of 3 rows  {'░' * 28}  failed"
    assert outputs[0]["data"]["text/plain"] == failed
    if how:
        bar, line = kernel.run("%llm_jobs show 1").data()
        assert bar == failed
        assert line.startswith("job 1 failed: No available LLM providers: groq")


def test_a_file_is_written_in_the_background(kernel: Kernel, start: Sandboxed) -> None:
    """The result of the cell waits for the file and returns its path."""
    start(12)
    kernel.run("reviews.to_csv('reviews.csv', index=False)")
    kernel.run(f"%%llm -b --over reviews.csv --into done.csv{PROMPT}")
    assert kernel.value("_.wait()").endswith("done.csv")
    assert kernel.value("len(pd.read_csv('done.csv'))") == 12
    kernel.run("jobs = %llm_jobs")
    assert kernel.value("list(jobs.variable)") == ["done.csv"]


def test_a_variable_of_the_user_is_not_replaced(kernel: Kernel, start: Sandboxed) -> None:
    """Without a name, the rows are in `replies`, where those of an earlier job may be replaced."""
    sandbox = start(2)
    kernel.run("replies = 1")
    cell = kernel.run(f"%%llm -b --over reviews{PROMPT}")
    assert "the variable 'replies' already exists" in cell.message
    assert not sandbox.requests
    kernel.run("del replies")
    for _ in range(2):
        assert kernel.run(f"%%llm -b --over reviews{PROMPT}").status == "ok"
    assert kernel.value("len(replies.wait())") == 2


@pytest.mark.parametrize("options", ["--over reviews --into reviews", "--over replies"])
@pytest.mark.parametrize("how", ["", "-b "])
def test_the_data_is_not_replaced_by_the_rows(
    kernel: Kernel, start: Sandboxed, how: str, options: str
) -> None:
    """A job that is stopped has only the finished rows."""
    sandbox = start(2)
    kernel.run("replies = reviews")
    cell = kernel.run(f"%%llm {how}{options}{PROMPT}")
    assert "the finished rows would replace the data in 're" in cell.message
    assert kernel.value("len(reviews)") == 2
    assert not sandbox.requests
    kernel.run("del replies")


def test_a_notebook_that_waits_is_saved_with_its_bar(tmp_path: Path) -> None:
    """Nbconvert and papermill ignore messages for ended cells; a cell that waits shows them."""
    sources = [
        "%load_ext arche_magic\nreviews = ['good', 'bad']",
        "%%llm -b --over reviews --into answer\n{{prompt}}?",
        "len(answer.wait())",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in sources])
    with Sandbox(keys={"groq": 1}, latency=0.5) as sandbox:
        variables = kernel_environment(tmp_path, **sandbox.environment())
        NotebookClient(book, kernel_name="python3", timeout=60).execute(
            cwd=str(tmp_path), env=variables
        )
    bar, line = (output.data["text/plain"] for output in book.cells[1].outputs)
    assert bar.startswith("2 of 2 rows")
    assert line.startswith("job 1 ended on ")
    assert book.cells[2].outputs[0].data["text/plain"] == "2"


def test_a_terminal_says_how_to_see_the_progress(tmp_path: Path) -> None:
    """It cannot change an output above the prompt."""
    with Sandbox(keys={"groq": 1}) as sandbox:
        terminal = Terminal(tmp_path, sandbox)
        terminal.run("%load_ext arche_magic")
        terminal.run("reviews = ['good', 'bad']")
        said = terminal.run("%llm -b --over reviews --into answer {{prompt}}?")
        rows = terminal.run("len(answer.wait())")
        shown = terminal.run("%llm_jobs show 1")
        terminal.close()
    assert "%llm_jobs lists and stops it, and shows its progress" in said
    assert "2" in rows
    assert "2 of 2 rows" in shown
    assert "job 1 is done" in shown
