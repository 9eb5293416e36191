"""Help in one style: `--help`, `?`, and the list of all magics."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

import pytest

from arche_magic.notebook.arguments import parse_line, read_unfinished, usage
from arche_magic.notebook.completion import KINDS
from arche_magic.notebook.magics import ArcheMagics

if TYPE_CHECKING:
    from notebook_kernel import Kernel

NAMES = sorted({name for kind in ArcheMagics.magics.values() for name in kind})
FREE = {"TEXT", "NAME", "FILE"}
"""Words of a usage that stand for anything."""


def about(name: str) -> str:
    return inspect.cleandoc(getattr(ArcheMagics, name).parser.description)


def section(name: str, heading: str) -> list[str]:
    _, found, below = about(name).partition(f"{heading}:\n")
    assert found, f"%{name} has no {heading}"
    return [line.strip() for line in below.partition("\n\n")[0].splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_every_magic_has_a_summary_usage_and_examples(name: str) -> None:
    """One sentence that fits a line, then usage, then examples that name the magic."""
    first, *rest = about(name).splitlines()
    assert first[0].isupper()
    assert first.endswith(".")
    assert len(first) <= 80
    assert rest[0] == ""
    for heading in ("Usage", "Examples"):
        for line in section(name, heading):
            assert re.match(rf"(\w+ = )?%%?{name}\b", line), line


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_are_accepted(name: str) -> None:
    """Each example uses declared options and words of the usage."""
    magic = getattr(ArcheMagics, name)
    for example in section(name, "Examples"):
        line = example.partition(name)[2].strip()
        parse_line(magic, line)
        typed = read_unfinished(magic, f"{line} ")
        assert typed is not None
        words = typed.text or ()
        forms = usage(magic)
        free = any(form[-1:] == ["TEXT"] for form in forms)
        assert free or any(
            len(words) <= len(form)
            and all(w in f.split("|") or f.isupper() for w, f in zip(words, form, strict=False))
            for form in forms
        ), example


@pytest.mark.parametrize("name", NAMES)
def test_the_usage_uses_known_kinds_of_values(name: str) -> None:
    """A word in capitals is a kind of value that completes, or free text."""
    for form in usage(getattr(ArcheMagics, name)):
        kinds = {kind for word in form if word.isupper() for kind in word.split("|")}
        assert kinds <= set(KINDS) | FREE


@pytest.mark.parametrize("name", NAMES)
def test_a_question_mark_shows_the_same_as_help(kernel: Kernel, name: str) -> None:
    """`--help` prints the text of `?`; nothing is sent, and the cell succeeds."""
    cell = kernel.run(f"%{name} --help")
    assert cell.status == "ok"
    assert cell.printed.startswith(about(name))
    assert max(len(line) for line in cell.printed.splitlines()) <= 100
    assert cell.printed.strip() in kernel.page(f"%{name}?")
    for action in getattr(ArcheMagics, name).parser._actions:
        assert ", ".join(action.option_strings) in cell.printed
        assert action.help


def test_llm_alone_lists_all_magics(kernel: Kernel) -> None:
    """`%llm` without a prompt prints a line per magic and sends nothing."""
    cell = kernel.run("%llm")
    assert cell.status == "ok"
    lines = cell.printed.splitlines()[: len(NAMES)]
    assert [line.split()[0] for line in lines] == [f"%{name}" for name in NAMES]
    for name, line in zip(NAMES, lines, strict=True):
        assert line.endswith(about(name).splitlines()[0])
