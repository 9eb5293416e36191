"""Every snippet of the pages about cells runs, in the order a reader meets it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

DOCS = Path(__file__).parent.parent / "docs"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Blocks without a language are notebook cells; pages that load the extension are to be tried.
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "%load_ext" in page.read_text("utf-8")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_cells_and_python_run_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader who types each cell of the page sees no error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    shell = InteractiveShell.instance()
    try:
        blocks = FENCED.findall(page.read_text("utf-8"))
        for (language, text), (_, after) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
            if language not in ("", "python"):
                continue
            result = shell.run_cell(text)
            error = result.error_in_exec or result.error_before_exec
            # A cell that is to fail is followed by its message.
            assert error is None or after.startswith(type(error).__name__), f"{text}\n{error!r}"
            if "load_ext" in text:
                # The reader has keys by now; here the sandbox stands in for them.
                assert shell.run_cell("%llm_sandbox start").success
    finally:
        shell.run_line_magic("unload_ext", "arche_magic")
        InteractiveShell.clear_instance()
