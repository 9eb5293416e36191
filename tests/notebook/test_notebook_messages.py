"""Warnings and errors in a notebook: one line each, which says what to do next."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arche_magic.notebook import warning_lines
from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from notebook_kernel import Kernel


NEAR = (
    "you do not have access to it; did you mean 'openai/gpt-oss-120b'? If not, choose a model "
    "other than gpt-oss-12b, or see %llm_doctor"
)


@pytest.fixture
def files(kernel: Kernel) -> Iterator[Path]:
    """The folder of the kernel; `.env` and the settings file in it are removed afterwards."""
    yield kernel.folder
    for name in (".env", "arche_magic.toml"):
        (kernel.folder / name).unlink(missing_ok=True)


def test_a_warning_is_one_line_without_our_source(kernel: Kernel, files: Path) -> None:
    """It is about a user's file or the ledger. Warnings of other packages do not change."""
    ledger = files / "ledger.json"
    ledger.write_text("not a ledger")
    (files / ".env").write_text("no assignment\n")
    with Sandbox(keys={"groq": 1}) as sandbox:
        kernel.use(sandbox, store=str(ledger))
        configured, damaged = kernel.run("%llm -q hi").printed.splitlines()
    assert configured == (
        f"ConfigurationWarning: line 1 of {files / '.env'} was skipped: not NAME=value in UTF-8"
    )
    assert damaged.startswith(f"LedgerWarning: the ledger {ledger} ")
    theirs = "import warnings\nwarnings.warn_explicit('theirs', UserWarning, 'their.py', 7)"
    assert kernel.run(theirs).printed == "their.py:7: UserWarning: theirs\n"
    theirs_again = theirs.replace("'theirs'", "'again'")
    kernel.run("%unload_ext arche_magic")
    assert kernel.run(theirs_again).printed == "their.py:7: UserWarning: again\n"
    formats = kernel.value("warnings.formatwarning.__module__")
    kernel.run("%load_ext arche_magic")
    assert formats.rpartition(".")[2].endswith("warnings")


def test_loading_again_keeps_another_format_of_warnings() -> None:
    """A package that wrapped ours still calls it; ours must not call that package in turn."""
    warning_lines.register()
    ours = warnings.formatwarning
    warnings.formatwarning = lambda *args, **more: f"wrapped {ours(*args, **more)}"
    try:
        warning_lines.unregister()
        warning_lines.register()
        shown = warnings.formatwarning("theirs", UserWarning, "their.py", 7)
    finally:
        warnings.formatwarning = ours
        warning_lines.unregister()
    assert shown == "wrapped their.py:7: UserWarning: theirs\n"
    assert warnings.formatwarning is not ours


def test_a_warning_that_tab_has_caused_comes_with_the_next_magic(
    kernel: Kernel, files: Path
) -> None:
    """Tab reads the settings first, and must not print."""
    path = files / ".env"
    path.write_text("\nalso no assignment\n")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    code = "%llm -p gr"
    offered = kernel.client.complete(code, len(code), reply=True, timeout=120)["content"]
    assert "groq" in offered["matches"]
    said = f"ConfigurationWarning: line 2 of {path} was skipped: not NAME=value in UTF-8\n"
    assert said in kernel.run("%llm_chat").printed
    assert "Warning" not in kernel.run("%llm_models groq").printed


def test_a_warning_on_tab_follows_the_filters_of_the_notebook(kernel: Kernel, files: Path) -> None:
    """A filter that makes it an error does not break Tab; the next magic raises it."""
    path = files / ".env"
    path.write_text("\n\n\nno assignment here\n")
    os.utime(path, (1_100_000_000, 1_100_000_000))
    kernel.run("import warnings; warnings.filterwarnings('error', 'line 4')")
    code = "%llm -p gr"
    offered = kernel.client.complete(code, len(code), reply=True, timeout=120)["content"]
    assert "groq" in offered["matches"]
    assert kernel.run("%llm_chat").error_name == "ConfigurationWarning"
    kernel.run("warnings.filters.pop(0); warnings._filters_mutated()")
    assert kernel.run("%llm_chat").status == "ok"


def test_without_a_network_the_error_names_the_doctor(kernel: Kernel) -> None:
    """It does so only if no address can be reached."""
    with Sandbox(keys={"groq": 1, "mistral": 1}) as sandbox:
        kernel.use(sandbox)
    said = "is this machine offline? %llm_doctor checks every address"
    # The second time, routes are closed by what happened the first time.
    for cell in ("%llm --patience 0 hi", "%llm --patience 0 hi", "%llm -p mistral --patience 0 hi"):
        failed = kernel.run(cell)
        assert "no connection" in failed.message
        assert failed.message.endswith(said)
    with Sandbox(keys={"groq": 1}) as sandbox:
        sandbox.fail("groq", "server_error", times=None)
        kernel.use(sandbox)
        kernel.run("os.environ |= {'MISTRAL_API_KEY': 'a-made-up-key-of-mistral'}")
        kernel.run("os.environ |= {'MISTRAL_BASE_URL': 'http://127.0.0.1:9'}")
        failed = kernel.run("%llm --patience 0 hi")
    assert "no connection" in failed.message
    assert said not in failed.message


@pytest.mark.parametrize(
    ("cell", "next_step"),
    [
        ("%llm -q", "write it after the options, or in the lines below %%llm"),
        ("%llm --prompt unknown hi", "%llm_prompts says where to put one"),
        ("%llm_why", "%llm sends a prompt"),
        ("%llm_last", "%llm sends a prompt"),
        ("%llm_insert", "%llm sends a prompt"),
        ("%llm_retry", "%llm sends one"),
        ("%llm_chat show unknown", "%llm_chat lists them"),
        ("%llm_jobs show 99", "%llm_jobs lists all jobs"),
        ("%llm_doctor groq", "%llm_doctor --help shows its usage"),
        ("%llm --keep --over rows --no-keep hi", "leave out --no-keep"),
        ("%llm --over rows --sep ; hi", "need --over FILE"),
        ("%llm_quota reset groq_key_1", "run python -m arche_magic quota reset groq_key_1"),
        ("%llm -p groq -m gpt-oss-12b hi", NEAR),
    ],
)
def test_an_error_names_the_next_step(kernel: Kernel, sandboxed, cell: str, next_step: str) -> None:
    """The next step is in the same line."""
    sandboxed(keys={"groq": 1})
    kernel.run("rows = ['one']")
    assert kernel.run(cell).message.endswith(next_step)
