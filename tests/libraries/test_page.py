"""Each snippet on the page about other libraries runs.

`tests/test_docs.py` runs its cells. Its `py` blocks need libraries: those about LlamaIndex run in
the environment that has it, and the others in the other environment.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from library_parts import providers_that_answered

if TYPE_CHECKING:
    from arche_magic.openai_api.server import Server

PAGE = Path(__file__).parents[2] / "docs" / "other_libraries.md"
HERE = find_spec("llama_index") is not None
SECTIONS = PAGE.read_text("utf-8").split("\n### ")
SNIPPETS = {
    section.splitlines()[0]: text
    for section in SECTIONS
    for text in re.findall(r"^```py\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    if ("llama_index" in text) == HERE
}


def test_every_library_has_a_snippet() -> None:
    """The test below would pass without snippets."""
    others = {"LangChain", "Instructor", "Pydantic AI", "DSPy", "chatlas", "LiteLLM"}
    assert set(SNIPPETS) == ({"LlamaIndex"} if HERE else others)


@pytest.mark.parametrize("library", SNIPPETS)
def test_the_snippet_runs(library: str, server: Server) -> None:
    """It is not changed, and a provider answers. `server` is the running server."""
    exec(compile(SNIPPETS[library], f"{PAGE.name}: {library}", "exec"), {"server": server})
    assert providers_that_answered()
