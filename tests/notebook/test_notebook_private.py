"""`--private` in cells uses only marked routes, with all other options; `--same-model`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from notebook_kernel import Kernel

    from arche_magic.sandbox import Sandbox

MARK = """
from dataclasses import replace
from arche_magic.llm_providers.config import get_configuration, use_configuration
use_configuration(replace(get_configuration(), private_routes=frozenset({"mistral"})))
"""


@pytest.fixture
def marked(kernel: Kernel, sandboxed, tmp_path: Path) -> Iterator[Sandbox]:
    """Three providers, the second of which is marked; replies are kept in a file of the test."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1, "google": 1})
    kernel.run(f"import os\nos.environ['ARCHE_REPLIES'] = {str(tmp_path / 'replies.sqlite')!r}")
    assert kernel.run(MARK).status == "ok"
    yield sandbox
    kernel.run("use_configuration(None)\nos.environ.pop('ARCHE_REPLIES', None)")


def asked(sandbox: Sandbox) -> list[str]:
    return [request.provider for request in sandbox.requests]


def test_a_private_cell_says_so(kernel: Kernel, marked: Sandbox) -> None:
    """In its receipt, in --dry-run, and in %llm_why."""
    rehearsed = kernel.run("%llm --private --dry-run One").printed
    assert rehearsed.startswith("mistral · key 1")
    assert "Private: only marked routes would be used." in rehearsed
    receipt = kernel.run("%llm --private One").displays[1]["data"]["text/plain"]
    assert " · private" in receipt
    why = kernel.run("%llm_why").displays[0]["data"]["text/plain"]
    assert why.count("not marked private") == 2
    keys = kernel.run("k = %llm_keys").displays[0]["data"]["text/plain"]
    assert "mistral-small-latest" in keys
    assert asked(marked) == ["mistral"]


@pytest.mark.parametrize(
    "cell",
    [
        "%llm --private -p groq One",
        "%llm --private -m gemini-3.5-flash-lite One",
        "%llm --private --compare groq,google One",
        "%config ArcheMagics.private = True\n%llm -p groq One",
        "frame = ['One']\n%llm --private -p google --over frame {{prompt}}",
        "try:\n  1/0\nexcept ZeroDivisionError:\n  %llm --private -p google One",
    ],
)
def test_unmarked_routes_are_never_used(kernel: Kernel, marked: Sandbox, cell: str) -> None:
    """The cell fails in one line that says what to write."""
    failed = kernel.run(cell)
    kernel.run("%config ArcheMagics.private = None")
    assert failed.status == "error"
    assert "no suitable route is marked private" in failed.message
    assert asked(marked) == []


def test_a_private_conversation_stays_private(kernel: Kernel, marked: Sandbox) -> None:
    """Its turns are part of each question; only `--no-private` sends them elsewhere."""
    kernel.run("%llm -q --chat c --private One")
    kernel.run("%llm -q --chat c Two")
    kernel.run("%llm_chat fork c d")
    kernel.run("%llm_chat export d d.json")
    kernel.run("%llm_chat load d.json e")
    kernel.run("%llm -q --chat e Three")
    assert asked(marked) == ["mistral"] * 3
    refused = kernel.run("%llm -q --chat d -p groq Four")
    assert "no suitable route is marked private" in refused.message
    kernel.run("%llm -q --chat d --no-private -p groq Four")
    assert asked(marked)[3:] == ["groq"]


def test_rows_can_be_private(kernel: Kernel, marked: Sandbox) -> None:
    """The option applies to all rows."""
    kernel.run("rows = [f'Row {n}' for n in range(12)]")
    cell = kernel.run("%%llm --private --over rows --into found\n{{prompt}}")
    assert cell.status == "ok", cell.error
    assert asked(marked) == ["mistral"] * 12


def test_same_model_uses_one_model(kernel: Kernel, marked: Sandbox) -> None:
    """It is the first one in order or, in a conversation, the one that answered last."""
    marked.fail("groq", "server_error", times=None)
    failed = kernel.run("%llm --same-model --patience 0 One")
    assert "other models were not asked" in failed.message
    why = kernel.run("%llm_why").displays[0]["data"]["text/plain"]
    assert why.count("no --same-model") == 2
    marked.clear_failures()
    kernel.run("%llm -q --chat c -p google One")
    kernel.run("%llm -q --chat c --same-model Two")
    assert asked(marked)[-2:] == ["google", "google"]
