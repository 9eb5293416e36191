"""Magics in a real kernel, the saved notebook, its HTML, a terminal and the command line."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pexpect
import pytest
from leaks import leaks_in, leaks_in_folder
from nbconvert import HTMLExporter, MarkdownExporter
from notebook_kernel import Kernel
from secret_parts import PROVIDERS, loud_environment

from arche_magic.sandbox import FAILURE_KINDS, Sandbox

KINDS = sorted(set(FAILURE_KINDS) - {"stall", "stall_stream"})
AFTER = (
    "%llm_quota", "%llm_stats", "%llm_why", "%tb", "%config ArcheMagics", "%whos",
    "import arche_magic; arche_magic.load_attempts()",
    "provider.configuration, provider.configuration.keys, vars(provider.configuration)",
    "provider.get_stats()",
    "[vars(key) for key in provider.configuration.keys]",
    "%pinfo provider", "%pinfo2 provider", "%pinfo provider.configuration",
)  # fmt: skip
CELLS = [
    "import logging\nlogging.basicConfig(level=logging.DEBUG, filename='debug.log', force=True)",
    "%load_ext arche_magic\n%xmode Verbose",
    "from arche_magic.llm_providers import get_llm_provider\nprovider = get_llm_provider()",
]


@pytest.fixture
def kernel(project: Path) -> Iterator[Kernel]:
    """A kernel whose keys are in the `.env` of its folder."""
    kernel = Kernel(project, extension=False)
    yield kernel
    kernel.stop()


def notebook_of(sources: list[str], kernel: Kernel) -> nbformat.NotebookNode:
    """The executed cells with their outputs, as a notebook stores them."""
    notebook = nbformat.v4.new_notebook()
    for source in sources:
        cell = nbformat.v4.new_code_cell(source)
        messages = [
            {"header": {"msg_type": kind}, "content": content}
            for _, kind, content in kernel.run(source).messages
            if kind in ("stream", "display_data", "execute_result", "error")
        ]
        cell.outputs = [nbformat.v4.output_from_msg(message) for message in messages]
        notebook.cells.append(cell)
    return notebook


def test_cells_show_no_key_whatever_fails(planted: Sandbox, project: Path, kernel: Kernel) -> None:
    """Replies, receipts, verbose errors, tables, help, logs, history and exports."""
    notebook = notebook_of(CELLS, kernel)
    for number, kind in enumerate(KINDS):
        planted.reset()
        planted.fail("*", kind, times=None)
        kernel.run(
            "for key in provider.configuration.keys: provider.quota_tracker.reopen(key.label)"
        )
        cells = [
            f"%%llm -p {name} --patience 0\nHello"
            if (number + place) % 2
            else f"get_llm_provider({name!r}).generate('Hello', patience=0)"
            for place, name in enumerate(PROVIDERS)
        ]
        notebook.cells += notebook_of(cells, kernel).cells
    planted.reset()
    notebook.cells += notebook_of(["%llm Hello", *AFTER], kernel).cells
    failed = [
        cell for cell in notebook.cells if any(o.output_type == "error" for o in cell.outputs)
    ]
    assert len(failed) > len(KINDS)
    (project / "saved.ipynb").write_text(nbformat.writes(notebook), encoding="utf-8")
    for exporter, end in ((HTMLExporter(), "html"), (MarkdownExporter(), "md")):
        (project / f"saved.{end}").write_text(exporter.from_notebook_node(notebook)[0], "utf-8")
    history = sqlite3.connect(next(project.rglob("history.sqlite")))
    assert history.execute("SELECT count(*) FROM history").fetchone()[0] > len(KINDS)
    history.close()
    assert leaks_in_folder(project) == []


def test_an_interrupted_cell_shows_no_key(planted: Sandbox, project: Path, kernel: Kernel) -> None:
    """This holds even in verbose mode, where the traceback lists variables."""
    planted.fail("*", "stall", times=None)
    for source in CELLS:
        kernel.run(source)
    started = "import threading, os, signal\nthreading.Timer(1, os.kill, (os.getpid(), 2)).start()"
    for call in ("get_llm_provider('groq').generate('Hello')", "%llm -p mistral Hello"):
        cell = kernel.run(f"{started}\n{call}")
        assert cell.status == "error"
        assert cell.error_name in ("KeyboardInterrupt", "CellInterrupted")
        assert not leaks_in(json.dumps(cell.messages, default=str))
    assert leaks_in_folder(project) == []


def test_a_prompt_with_a_key_is_refused_in_one_line(
    planted: Sandbox, project: Path, kernel: Kernel
) -> None:
    """Nothing is sent or kept, and the error names the key by its label."""
    for source in CELLS:
        kernel.run(source)
    kernel.run("text = 'My settings: ' + open('.env').read()")
    cell = kernel.run("get_llm_provider().generate(text)")
    assert cell.message.startswith("InvalidRequest: the request contains the key groq_key_1; ")
    assert not leaks_in(json.dumps(cell.messages, default=str))
    assert planted.requests == ()
    assert leaks_in_folder(project) == []


def test_the_history_of_prompts_shows_no_key(kernel: Kernel) -> None:
    """It lists a refused prompt, whose key is hidden in the table and in the frame."""
    for source in CELLS[1:]:
        kernel.run(source)
    # Without its file, which has cells as they were typed.
    kernel.run("sources = get_ipython().history_manager.input_hist_raw")
    kernel.run("(key,) = [k for k in provider.configuration.keys if k.label == 'mistral_key_1']")
    kernel.run("sources.append(f'%llm Use {key.secret()} here')")
    cell = kernel.run("found = %llm_history use\nprint(list(found.prompt), found.to_dict())")
    assert "['Use [key] here']" in cell.printed
    assert not leaks_in(json.dumps(cell.messages, default=str))


@pytest.mark.parametrize("label", ["mistral_key_1", "groq_key_2"])
def test_a_key_in_place_of_a_value_is_not_shown(
    planted: Sandbox, project: Path, kernel: Kernel, label: str
) -> None:
    """Not even one without a known prefix, by any command."""
    for source in CELLS[1:]:
        kernel.run(source)
    may_succeed = "config", "llm_history", "llm_models", "llm_why"
    of_label = f"key.secret() for key in provider.configuration.keys if key.label == {label!r}"
    for line in (
        "llm --compare KEY hi", "llm -p KEY hi", "llm -m KEY hi", "llm -f KEY hi", "llm -t KEY hi",
        "llm --over KEY {{a}}", "llm --schema KEY hi", "llm --tools KEY hi",
        "llm --chat KEY hi", "llm --chat KEY! hi", "llm --prompt KEY hi", "llm --file KEY hi",
        "llm --image KEY hi",
        "llm --url KEY hi", "llm --KEY hi", 'llm -m "KEY', "llm hi KEY", "llm {{KEY}}",
        "llm hi -m KEY", "llm --show-prompt KEY", "llm --dry-run KEY", "llm -b KEY",
        "llm -s KEY hi", "llm --tag KEY hi", "llm --stop KEY hi",
        "llm_chat KEY", "llm_chat load KEY", "llm_chat export KEY b.md", "llm_doctor KEY",
        "llm_explain KEY", "llm_history KEY", "llm_insert KEY", "llm_jobs show KEY", "llm_jobs KEY",
        "llm_keys KEY", "llm_keys check KEY", "llm_last KEY", "llm_models KEY", "llm_panel KEY",
        "llm_prompts KEY", "llm_quota KEY", "llm_quota reset KEY", "llm_retry -m KEY",
        "llm_sandbox KEY", "llm_sandbox --keys KEY", "llm_serve KEY", "llm_services KEY",
        "config ArcheMagics.patience = 'KEY'", "config ArcheMagics.format = 'KEY'",
        "config ArcheMagics.chat = 'KEY!'", "config ArcheMagics.provider = 'KEY'",
        "llm_stats KEY", "llm_stats --by KEY", "llm_why KEY", "llm_why",
    ):  # fmt: skip
        name, _, rest = line.partition(" ")
        cell = kernel.run(
            f"get_ipython().run_line_magic({name!r}, {rest!r}.replace('KEY', next({of_label})))"
        )
        assert not leaks_in(json.dumps(cell.messages, default=str)), line
        assert cell.status == "error" or name in may_succeed, line
    assert planted.requests == ()
    assert leaks_in_folder(project) == []


def test_a_terminal_shows_no_key(planted: Sandbox, project: Path) -> None:
    """Plain IPython in verbose mode shows errors that quote the key."""
    planted.fail("*", "echo_key", times=None)
    environment = loud_environment(IPYTHONDIR=str(project / "ipython"), NO_COLOR="1")
    command = ["-m", "IPython", "--simple-prompt", "--no-banner", "--xmode=Verbose"]
    terminal = pexpect.spawn(
        sys.executable, command, cwd=str(project), env=environment | {"TERM": "dumb"},
        encoding="utf-8", timeout=120, dimensions=(50, 400), use_poll=True,
    )  # fmt: skip
    shown = []
    lines = (
        "%load_ext arche_magic", "%llm --patience 0 hi", "%llm_quota", "%llm_stats",
        "from arche_magic.llm_providers import get_llm_provider",
        "get_llm_provider('openai').generate('hi', patience=0)", "%tb",
        "get_llm_provider().configuration",
    )  # fmt: skip
    for number, line in enumerate(lines, 1):
        terminal.expect(rf"In \[{number}\]: ")
        shown.append(terminal.before)
        terminal.sendline(line)
    terminal.expect(rf"In \[{len(lines) + 1}\]: ")
    shown.append(terminal.before)
    terminal.close(force=True)
    assert "No available LLM providers" in "".join(shown)
    assert not leaks_in("".join(shown))
    assert leaks_in_folder(project) == []


@pytest.mark.parametrize("arguments", [["quota"], ["quota", "--json"], ["quota", "groq"]])
def test_the_command_line_shows_no_key(
    planted: Sandbox, project: Path, arguments: list[str]
) -> None:
    """Neither the tables nor their JSON contain a key."""
    done = subprocess.run(
        [sys.executable, "-m", "arche_magic", *arguments],
        capture_output=True, cwd=project, env=loud_environment(), timeout=120,
        stdin=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    assert b"groq" in done.stdout
    assert not leaks_in(done.stdout + done.stderr)
    assert leaks_in_folder(project) == []
