"""Every snippet of the README and of each page in `docs/` runs, in the order a reader meets it.

A fenced block without a language is a notebook cell, `python` runs as it stands, `toml` is parsed;
other languages are shown only. A cell that is to fail is followed by a `text` block that begins
with the error's name, as in `InvalidRequest: …`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from arche_magic.llm_providers.config import get_configuration, use_configuration
from arche_magic.llm_providers.keys import added_keys, remove_key
from arche_magic.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN_ONLY = {"diff", "html", "http", "ini", "json", "mermaid", "py", "sh", "text"}
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


def snippets(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block; blocks in lists are indented."""
    found = re.findall(
        r"^( *)```(\w*)\n(.*?)^\1```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return [(language, re.sub(f"(?m)^{indent}", "", text)) for indent, language, text in found]


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox_env: Sandbox
) -> Iterator[InteractiveShell]:
    """A new shell in a folder of its own; the keys in its `.env` are those of a sandbox.

    One more key of Groq is there for whoever is asked to type one.
    """
    env_file = tmp_path / ".env"
    variables = env_file.read_text().splitlines()
    env_file.write_text("\n".join(line for line in variables if "GROQ_API_KEY_3" not in line))
    typed = sandbox_env.environment()["GROQ_API_KEY_3"]
    monkeypatch.setattr("getpass.getpass", lambda prompt: typed)
    monkeypatch.setenv("MPLBACKEND", "agg")
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "arche_magic")
    yield shell
    shell.run_line_magic("unload_ext", "arche_magic")
    InteractiveShell.clear_instance()
    use_configuration(None)
    for key in added_keys():
        remove_key(get_configuration(), key.label)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_cells_and_python_run_from_top_to_bottom(shell: InteractiveShell, page: Path) -> None:
    """A reader who types each cell of the page sees what it says, and no other error."""
    blocks = snippets(page)
    assert {language for language, _ in blocks} <= SHOWN_ONLY | {"", "python", "toml"}
    for (language, text), (_, after) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if language not in ("", "python"):
            continue
        result = shell.run_cell(text)
        error = result.error_in_exec or result.error_before_exec
        expected = re.match(r"(\w+(?:Error|Request|Keys|Available|Filtered|Reply)): ", after)
        if expected and error is not None:
            assert type(error).__name__ == expected[1], f"{text}\n{error!r}"
        else:
            assert error is None, f"{text}\n{error!r}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_settings_shown_can_be_parsed(page: Path) -> None:
    """Each `toml` block is TOML."""
    for language, text in snippets(page):
        if language == "toml":
            tomllib.loads(text)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link and picture of a page is a file of this repository."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_shows_the_main_things() -> None:
    """A rule over nothing would always hold."""
    assert sum(language in ("", "python") for language, _ in snippets(ROOT / "README.md")) >= 8
