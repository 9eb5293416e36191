"""`%%llm --tools f,g`: the model calls functions of the notebook, shown as one line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from promptness import in_time
from test_notebook_completion import offers
from test_notebook_terminal import Terminal

import arche_magic
from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from notebook_kernel import Cell, Kernel

FUNCTIONS = """
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

temperatures = {"Oslo": 4, "Rome": 19}

def weather(city: str) -> str:
    \"\"\"The temperature in a city now.\"\"\"
    print(f"looking for {city}")
    return f"{temperatures[city]} °C <b>now</b>"

def count(items: int) -> int:
    return 2 * items

async def later() -> None: ...

double = lambda items: 2 * items
desk = SimpleNamespace(count=count)
number = 5
"""


@pytest.fixture
def functions(kernel: Kernel) -> Kernel:
    assert kernel.run(FUNCTIONS).status == "ok"
    return kernel


@pytest.fixture
def sandbox(functions: Kernel, sandboxed: Callable[..., Sandbox]) -> Sandbox:
    return sandboxed(keys={"groq": 1})


def test_each_call_is_a_line_above_the_reply(functions: Kernel, sandbox: Sandbox) -> None:
    """In HTML, it unfolds to arguments and result. The receipt sums all rounds."""
    cell = functions.run(
        "%%llm --tools weather,count -o answer\nCall weather city=Oslo, then count items=21"
    )
    assert cell.status == "ok", cell.error
    weather, count, reply, receipt = (content["data"] for content in cell.displays)
    assert weather["text/plain"] == 'weather(city="Oslo") → 4 °C <b>now</b>'
    assert count["text/plain"] == "count(items=21) → 42"
    assert weather["text/html"].count("<details") == 1
    assert "<b>" not in weather["text/html"]
    assert "&lt;b&gt;now&lt;/b&gt;" in weather["text/html"]
    assert "answered: 4 °C" in reply["text/plain"]
    assert " · 2 rounds, 2 calls" in receipt["text/plain"]
    assert cell.printed == "looking for Oslo\n"
    tokens = sum(u["output_tokens"] for u in sandbox.usage()["groq_key_1"].values())
    assert functions.value("answer.usage.output_tokens") == tokens
    assert functions.value("[run.result for run in answer.tool_runs]")[1] == "42"
    assert functions.value("len(answer.attempts)") == len(sandbox.requests) == 2


def test_a_route_that_every_round_skips_counts_once(functions: Kernel, sandboxed) -> None:
    """All attempts are in the lines below."""
    sandboxed(keys={"groq": 1, "mistral": 1}, left={"groq": {"requests_per_day": 0}})
    receipt = functions.run("%%llm --tools count\ncount items=1").data()[-1].splitlines()
    assert receipt[0].endswith(" · 1 route skipped")
    assert [line.split()[6] for line in receipt[1:]] == ["refused:", "skipped:"]


def test_a_call_is_shown_while_it_runs(functions: Kernel, sandbox: Sandbox) -> None:
    """The saved notebook has its result in the same place."""
    cell = functions.run("%%llm --tools count\ncount items=1")
    drawn = [
        (kind, content["data"]["text/plain"])
        for _, kind, content in cell.messages
        if kind in ("display_data", "update_display_data")
    ]
    first = drawn.index(("display_data", "count(items=1) is running"))
    assert drawn[first + 1] == ("update_display_data", "count(items=1) → 2")


@pytest.mark.parametrize(
    ("tools", "prompt", "line"),
    [
        ("weather", "city=Atlantis", "weather(city=\"Atlantis\") → error: KeyError: 'Atlantis'"),
        ("count", "items=many", 'count(items="many") → error: invalid arguments: items: Input '),
        ("double", "items=4", "double(items=4) → 8"),
        ("desk.count", "items=4", "count(items=4) → 8"),
    ],
)
def test_results_and_errors_of_all_kinds_of_calls_are_shown(
    functions: Kernel, sandbox: Sandbox, tools: str, prompt: str, line: str
) -> None:
    """Errors go back to the model and are marked; lambdas and attributes have the cell's name."""
    cell = functions.run(f"%%llm --tools {tools}\n{prompt}")
    assert cell.status == "ok", cell.error
    run, reply, _ = (content["data"] for content in cell.displays)
    assert run["text/plain"].startswith(line)
    assert ("<b" in run["text/html"]) == ("error" in line)
    assert "The tool" in reply["text/plain"]


def test_the_display_of_a_large_call_is_limited(functions: Kernel, sandbox: Sandbox) -> None:
    """It shows one line of the call, and the beginning of its result."""
    functions.run("def huge(text: str) -> str:\n    return 'x' * 100_000")
    cell = functions.run(f"%%llm --tools huge\nhuge text={'y' * 5000}")
    run = cell.displays[0]["data"]
    assert len(run["text/plain"]) < 250
    assert len(run["text/html"]) < 6000
    assert "[the first 2,000 of 8,0" in run["text/html"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--tools wether", "%llm: --tools 'wether' is not a variable; did you mean 'weather'?"),
        ("--tools number", "%llm: --tools 'number' is of type int; it must be a function"),
        ("--tools print", "%llm: --tools 'print' is not a variable"),
        ("--tools desk.cout", "%llm: --tools 'desk.cout': "),
        ("--tools ,", "%llm: --tools takes names of functions, such as f,g"),
        ("--tools later", "tools: later is async"),
        ("--tools Path", "tools: Path is a class; pass a function"),
        ("--tools weather --max-rounds 1", "max_rounds is 1; it must be a whole number, 2"),
        ("--tools weather --max-rounds x", "--max-rounds: 'x' is not a whole number"),
        ("--max-rounds 3", "%llm: --max-rounds needs --tools f,g"),
        ("--tools weather --schema 'mood str'", "%llm: --tools cannot be combined with --schema"),
        ("--tools weather --compare groq", "%llm: --tools cannot be combined with --compare"),
        ("--tools weather --over temperatures", "%llm: --over cannot be combined with --tools"),
    ],
)
def test_an_invalid_tool_is_an_error_in_one_line(
    functions: Kernel, sandbox: Sandbox, options: str, said: str
) -> None:
    """Nothing is sent."""
    cell = functions.run(f"%%llm {options}\nHello")
    assert said in cell.message
    assert not sandbox.requests


@pytest.mark.parametrize(
    "waits",
    [
        "def waits(seconds: float) -> None:\n    time.sleep(30)",
        "def waits(seconds: float) -> None:\n    try: time.sleep(30)\n    except: pass",
    ],
    ids=["raises", "swallows"],
)
def test_an_interrupt_ends_the_function_and_the_cell(
    functions: Kernel, sandbox: Sandbox, waits: str
) -> None:
    """They end immediately with one line.

    The text stays, and the first round's attempt is saved.
    """

    def is_running(cell: Cell) -> bool:
        return any("waits" in text and "running" in text for text in cell.data())

    functions.run(waits)
    cell = functions.run(
        "%%llm --tools count,waits\nFirst count items=1, then waits seconds=5", is_running
    )
    in_time("an interrupt", cell.ended - cell.started)
    assert cell.message.startswith("Interrupted: ")
    count, stopped, nothing = cell.data()
    assert count == "count(items=1) → 2"
    assert stopped == "waits(seconds=5) was interrupted"
    assert nothing == ""
    assert len(cell.displays[-1]["metadata"]["arche_magic"]["attempts"]) == 1
    assert len(sandbox.requests) == 1
    assert functions.run("%llm Hello").status == "ok"


def test_another_route_may_answer_the_last_round(
    functions: Kernel, sandboxed: Callable[..., Sandbox]
) -> None:
    """The receipt and `%llm_why` name it, and the reason against the first route."""
    sandboxed(keys={"groq": 1, "mistral": 1}, left={"groq": {"requests_per_day": 1}})
    cell = functions.run("%%llm --tools count -o answer\ncount items=1")
    assert cell.data()[-1].startswith("mistral · key 1 · ")
    assert "groq · key 1 · gpt-oss-120b skipped: " in cell.data()[-1]
    assert functions.run("%llm_why answer").status == "ok"
    assert functions.value("list(zip(_.provider, _.verdict))") == [
        ("groq", "waiting"), ("mistral", "answered"),
    ]  # fmt: skip


def test_a_failure_keeps_the_calls_and_all_attempts(
    functions: Kernel, sandboxed: Callable[..., Sandbox], tmp_path: Path
) -> None:
    """A saved notebook shows the calls, and contains the attempts of all rounds."""
    sandboxed(keys={"groq": 1}, left={"groq": {"requests_per_day": 1}})
    source = "%%llm --tools count --patience 0\ncount items=1"
    cell = functions.run(source)
    assert cell.message.startswith("NoRouteAvailable: ")
    assert cell.data()[0] == "count(items=1) → 2"
    outputs = [
        nbformat.v4.new_output("display_data", content["data"], metadata=content["metadata"])
        for content in cell.displays
    ]
    saved = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, outputs=outputs)])
    nbformat.write(saved, tmp_path / "saved.ipynb")
    frame = arche_magic.attempts_from_notebook(tmp_path / "saved.ipynb")
    assert list(frame.outcome) == ["served", "skipped"]


def test_a_conversation_keeps_question_and_answer(functions: Kernel, sandbox: Sandbox) -> None:
    """The calls are not kept, and the next turn needs no tools."""
    functions.run("%%llm --chat sums --tools count\ncount items=21")
    assert functions.run("%%llm --chat sums\nAnd before?").status == "ok"
    roles = [message["role"] for message in sandbox.requests[-1].body["messages"]]
    assert roles == ["user", "assistant", "user"]
    functions.run("%llm_chat clear sums")


def test_show_prompt_and_dry_run_include_functions(functions: Kernel, sandbox: Sandbox) -> None:
    """`--show-prompt` prints the definitions; nothing runs and nothing is sent."""
    cell = functions.run("%%llm --tools weather --show-prompt --dry-run\nHello")
    assert "── function weather ──\nThe temperature in a city now.\n{" in cell.printed
    assert "calls of weather lead to another round" in cell.printed
    assert not sandbox.requests


def test_quiet_shows_nothing(functions: Kernel, sandbox: Sandbox) -> None:
    """Except the output of the function."""
    cell = functions.run("%%llm -q --tools weather -o answer\ncity=Oslo")
    assert cell.displays == []
    assert cell.printed == "looking for Oslo\n"
    assert functions.value("len(answer.tool_runs)") == 1


def test_names_of_functions_complete_on_tab(functions: Kernel) -> None:
    """Functions of the notebook come first, also after a comma. No other variables are offered."""
    functions.run("from math import ceil")
    found = offers(functions, "%%llm --tools ")
    ours = [name for name in found if name in ("count", "double", "later", "weather")]
    assert ours == ["count", "double", "later", "weather"]
    assert found.index("ceil") > found.index("weather")
    assert not {"Path", "number", "temperatures"} & set(found)
    assert offers(functions, "%%llm --tools weather,cou") == ["weather,count"]


def test_a_terminal_prints_a_line_for_each_call(tmp_path: Path) -> None:
    """The lines are above the reply."""
    with Sandbox(keys={"groq": 1}) as sandbox:
        terminal = Terminal(tmp_path, sandbox)
        terminal.run("%load_ext arche_magic")
        terminal.run("count = lambda items: 2 * items")
        shown = terminal.run("%llm --tools count count items=21").splitlines()
        terminal.close()
    assert shown[0] == "count(items=21) → 42"
    assert "answered: 42" in "\n".join(shown)
    assert " · 2 rounds, 1 call" in shown[-1]
    assert "<" not in "".join(shown)
