"""Restart & Run All with kept replies, in real kernels, with providers in another process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from notebook_kernel import Kernel, kernel_environment
from sandbox_process import sandbox_process

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"
FROM_MEMORY = re.compile(
    r"^from memory, \d{4}-\d\d-\d\d · groq · key \d · gpt-oss-120b · \d+ tokens then, none now$"
)


class Providers:
    """The sandbox in a separate process."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables
        self._base = variables["GROQ_BASE_URL"].removesuffix("/groq")

    def count(self) -> int:
        """The number of requests it has received."""
        return len(httpx.get(f"{self._base}/_sandbox/requests", trust_env=False).json())


@pytest.fixture(scope="module")
def providers() -> Iterator[Providers]:
    with sandbox_process() as variables:
        yield Providers(variables)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the quickstart."""
    return tmp_path_factory.mktemp("project")


def run_all(project: Path, change: str = "", **variables: str) -> nbformat.NotebookNode:
    """Restart & Run All of the quickstart, with `change` added to its first prompt."""
    notebook = nbformat.read(QUICKSTART, as_version=4)
    next(cell for cell in notebook.cells if cell.source.startswith("%%llm")).source += change
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(project)}})
    client.execute(env=kernel_environment(project, **variables))
    return notebook


@pytest.fixture(scope="module")
def first(providers: Providers, project: Path) -> nbformat.NotebookNode:
    """The quickstart after its first run, which kept its replies."""
    ran = run_all(project, ARCHE_REPLAY="keep", **providers.variables)
    assert len(replies(ran)) == 6
    assert providers.count() == 7
    assert "from memory" not in nbformat.writes(ran)
    return ran


def saved(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The outputs with replies."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output for output in outputs if "arche_magic" in output.get("metadata", {})]


def replies(notebook: nbformat.NotebookNode) -> list[str]:
    return [output.data["text/plain"] for output in saved(notebook)]


def receipts(notebook: nbformat.NotebookNode) -> list[str]:
    return [
        output.data["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if " · " in output.get("data", {}).get("text/plain", "").partition("\n")[0]
        and output.output_type == "display_data"
    ]


def test_a_second_run_sends_nothing(
    providers: Providers, project: Path, first: nbformat.NotebookNode
) -> None:
    """The restarted quickstart has the same replies, and its file says that they were kept."""
    second = run_all(project, ARCHE_REPLAY="keep", **providers.variables)
    assert providers.count() == 7
    assert replies(second) == replies(first)
    kept = [line for line in receipts(second) if FROM_MEMORY.match(line)]
    assert len(kept) == 6
    assert all("from_memory" in output.metadata.arche_magic for output in saved(second))


def test_a_colleague_can_run_it_without_keys(
    providers: Providers, project: Path, first: nbformat.NotebookNode
) -> None:
    """With only the kept replies, every cell runs, no sandbox starts, and nothing is sent."""
    again = run_all(project, ARCHE_REPLAY="only")
    assert replies(again) == replies(first)
    assert "Sandbox on" not in nbformat.writes(again)
    assert providers.count() == 7


@pytest.mark.usefixtures("first")
def test_without_keys_a_changed_prompt_fails(project: Path) -> None:
    """The error says in one line what to do."""
    with pytest.raises(
        CellExecutionError, match=r"NotKept: .* has no kept reply for 'In two sentences"
    ):
        run_all(project, change=" Changed.", ARCHE_REPLAY="only")


# --- in one kernel


def test_keep_answers_from_memory_and_fresh_asks_again(
    kernel: Kernel, sandboxed, tmp_path: Path
) -> None:
    """`--keep` answers from memory the second time; `--fresh` asks again."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run(f"import os; os.environ['ARCHE_REPLIES'] = {str(tmp_path / 'r.sqlite')!r}")
    first = kernel.run("%%llm --keep\nWhat is a token bucket?")
    again = kernel.run("%%llm --keep\nWhat is a token bucket?")
    assert len(sandbox.requests) == 1
    assert again.displays[0]["data"] == first.displays[0]["data"]
    assert FROM_MEMORY.match(again.data()[1])
    line, _, _ = again.data("text/html")[1].partition("</summary>")
    assert FROM_MEMORY.match(re.sub("<.*?>", "", line))
    kept = again.displays[0]["metadata"]["arche_magic"]
    assert kept["attempts"] == []
    assert kept["from_memory"] > "2025"
    assert "from_memory" not in first.displays[0]["metadata"]["arche_magic"]
    fresh = kernel.run("%%llm --keep --fresh -o answer\nWhat is a token bucket?")
    assert fresh.data()[1].startswith("groq · key 1")
    assert len(sandbox.requests) == 2
    assert kernel.value("answer.from_memory is None") is True


def test_cells_and_python_share_kept_replies(kernel: Kernel, sandboxed, tmp_path: Path) -> None:
    """The prompt of a cell is the typed text, so `generate` with the same text finds its reply."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run(f"import os; os.environ['ARCHE_REPLIES'] = {str(tmp_path / 'r.sqlite')!r}")
    kernel.run("%%llm -q --keep\nWhat is\na window?")
    kernel.run("from arche_magic.llm_providers import get_llm_provider")
    kernel.run("again = get_llm_provider().generate('What is\\na window?', keep=True)")
    assert kernel.value("again.from_memory is not None") is True
    assert len(sandbox.requests) == 1


def test_a_setting_keeps_all_replies(kernel: Kernel, sandboxed, tmp_path: Path) -> None:
    """`%config ArcheMagics.keep = True` means `--keep` in all cells without `--no-keep`."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run(f"import os; os.environ['ARCHE_REPLIES'] = {str(tmp_path / 'r.sqlite')!r}")
    kernel.run("%config ArcheMagics.keep = True")
    for _ in range(3):
        kernel.run("%llm -q Hello")
    assert len(sandbox.requests) == 1
    kernel.run("%llm -q --no-keep Hello")
    assert len(sandbox.requests) == 2
    assert "--keep, --no-keep" in kernel.run("%llm --help").printed


def test_a_dry_run_says_that_nothing_would_be_sent(
    kernel: Kernel, sandboxed, tmp_path: Path
) -> None:
    """It says so if a kept reply would answer. With `--fresh`, a route would answer."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run(f"import os; os.environ['ARCHE_REPLIES'] = {str(tmp_path / 'r.sqlite')!r}")
    assert "would answer now" in kernel.run("%llm --keep --dry-run Hello").printed
    kernel.run("%llm -q --keep Hello")
    first, second = kernel.run("%llm --keep --dry-run Hello").printed.splitlines()
    assert FROM_MEMORY.match(first)
    assert second == "Nothing was sent, and nothing would be sent."
    assert "would answer now" in kernel.run("%llm --keep --fresh --dry-run Hello").printed
    assert len(sandbox.requests) == 1


def test_why_says_that_a_reply_came_from_memory(kernel: Kernel, sandboxed, tmp_path: Path) -> None:
    """The frame has no rows."""
    sandboxed(keys={"groq": 1})
    kernel.run(f"import os; os.environ['ARCHE_REPLIES'] = {str(tmp_path / 'r.sqlite')!r}")
    kernel.run("%llm -q --keep Hello")
    kernel.run("%llm -q --keep Hello")
    assert kernel.run("rows = %llm_why").data() == [
        "the reply came from memory; no route was asked"
    ]
    assert kernel.value("len(rows)") == 0


def test_without_keys_the_quota_table_is_empty(kernel: Kernel, tmp_path: Path) -> None:
    """A notebook that shows its quota still runs to the end."""
    kernel.run("import os; os.environ['ARCHE_REPLAY'] = 'only'")
    cell = kernel.run("rows = %llm_quota")
    assert (cell.status, cell.data()) == ("ok", ["no key is configured"])
    assert kernel.value("len(rows)") == 0
    shown = kernel.run("%llm --show-prompt --dry-run Hello").printed
    assert "Hello" in shown
    assert shown.endswith("Nothing was sent.\n")


def test_simulated_replies_are_kept_separately(kernel: Kernel, sandboxed, tmp_path: Path) -> None:
    """A reply of `%llm_sandbox` is never used as a real one."""
    place = kernel.folder / "outputs"
    # Other tests with this kernel may have kept real ones.
    (place / "llm_replies.sqlite").unlink(missing_ok=True)
    kernel.run("%llm_sandbox --keys groq=1")
    for _ in range(2):
        kernel.run("x = %llm -q --keep Who answers")
    assert kernel.value("x.from_memory is not None") is True
    assert [path.name for path in place.glob("*.sqlite")] == ["llm_replies.sandbox.sqlite"]
    kernel.run("%llm_sandbox stop")
    outside = sandboxed(keys={"groq": 1})
    kernel.run("x = %llm -q --keep Who answers")
    assert kernel.value("x.from_memory is None") is True
    assert len(outside.requests) == 1
