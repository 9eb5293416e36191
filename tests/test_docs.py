"""Every snippet of the README and of each page in `docs/` runs, from top to bottom.

A fenced block without a language is a notebook cell, `python` is executed, and `toml` is parsed.
Other languages are not run. A `text` block right below a cell must match its output, except for
digits, and in the tutorial except for times. If it begins with the name of an error, as in
`InvalidRequest: …`, the cell must raise it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from inspect import getmembers
from itertools import pairwise
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from arche_magic.llm_providers.config import (
    get_configuration,
    load_configuration,
    remove_key,
    use_configuration,
)
from arche_magic.llm_providers.config.env_file import read_env_file
from arche_magic.llm_providers.quota import state
from arche_magic.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN_ONLY = {"diff", "html", "http", "ini", "json", "mermaid", "py", "sh", "text"}
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


def snippets(text: str) -> list[tuple[str, str]]:
    """Language and text of each fenced block; blocks in lists are indented.

    Blocks that do not follow each other directly have an empty block between them.
    """
    found, end = [], 0
    for match in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        if text[end : match.start()].strip():
            found.append(("text", ""))
        found.append((match[2], re.sub(f"(?m)^{match[1]}", "", match[3])))
        end = match.end()
    return found


def plain(text: str) -> str:
    """A text with digits replaced, and without colours, asterisks and extra spaces."""
    return " ".join(re.sub(r"\d[\d,.]*", "0", re.sub(r"\x1b\[[\d;]*m|\*", "", text)).split())


def timeless(text: str) -> str:
    """A text with seconds and dates replaced, and without colours, asterisks and extra spaces."""
    text = re.sub(r"\d[\d.]* s\b|\d{4}-\d\d-\d\d", "0", re.sub(r"\x1b\[[\d;]*m|\*", "", text))
    return " ".join(text.split())


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox_env: Sandbox
) -> Iterator[InteractiveShell]:
    """A new shell in a separate folder, with the keys of a sandbox in its `.env`.

    If it asks for a key, another Groq key is typed.
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
    for key in get_configuration().keys:
        if key.source == "this session":
            remove_key(get_configuration(), key.label)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_cells_and_python_run_from_top_to_bottom(
    shell: InteractiveShell, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reader who runs each cell of the page sees what the page shows, and no other error."""
    blocks = snippets(page.read_text("utf-8"))
    compared = timeless if page.name == "tutorial.md" else plain
    assert {language for language, _ in blocks} <= SHOWN_ONLY | {"", "python", "toml"}
    for (language, text), (below, after) in pairwise([*blocks, ("", "")]):
        if language not in ("", "python"):
            continue
        capsys.readouterr()
        result = shell.run_cell(text)
        error = result.error_in_exec or result.error_before_exec
        expected = re.match(r"(\w+(?:Error|Request|Keys|Available|Filtered|Reply)): ", after)
        if expected and error is not None:
            assert type(error).__name__ == expected[1], f"{text}\n{error!r}"
        else:
            assert error is None, f"{text}\n{error!r}"
        printed = compared(capsys.readouterr().out)
        for line in after.splitlines() if below == "text" else ():
            assert compared(line) in printed, f"{text}\n{line}\nis not in\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_settings_shown_can_be_parsed(page: Path) -> None:
    """Each `toml` block is TOML."""
    for language, text in snippets(page.read_text("utf-8")):
        if language == "toml":
            tomllib.loads(text)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link and picture of a page is a file of this repository."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def makefile_targets() -> set[str]:
    return set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text("utf-8")))


def test_contributing_names_files_and_commands_that_exist() -> None:
    """Its description of the code must not be older than the code."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    code = [path for name in ("arche_magic", "docs", "tests") for path in (ROOT / name).rglob("*")]
    paths = [path.relative_to(ROOT).as_posix() for path in code]
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", text):
        assert any(f"/{path}/".endswith(f"/{name.strip('/')}/") for path in paths), name
    assert set(re.findall(r"(?m)(?:`|^)make ([a-z]+)", text)) <= makefile_targets()


README = snippets((ROOT / "README.md").read_text("utf-8"))


def test_the_readme_has_snippets() -> None:
    """The tests above would pass without any."""
    assert sum(language in ("", "python") for language, _ in README) >= 8


def test_the_keys_in_the_readme_are_found(tmp_path: Path) -> None:
    """The `.env` shown names the variables of all four providers."""
    (text,) = (text for language, text in README if language == "sh" and "GROQ_API_KEY=" in text)
    (tmp_path / ".env").write_text(text)
    found = read_env_file(tmp_path / ".env").variables
    assert {p.key_variables[0] for p in load_configuration({}).providers.values()} <= set(found)


def test_the_commands_in_the_readme_exist() -> None:
    """They are targets of the Makefile."""
    commands = "\n".join(text for language, text in README if language == "sh")
    targets = re.findall(r"^make (\w+)", commands, re.MULTILINE)
    assert targets == ["demo", "test"]
    assert set(targets) <= makefile_targets()


def test_every_field_of_the_ledger_is_on_its_page() -> None:
    """As the file has it, for all kinds of documents."""
    names = {
        field.name
        for _, kind in getmembers(state, is_dataclass)
        if kind.__module__ == state.__name__
        for field in fields(kind)
    }
    assert {"holds", "expires", "most_usd"} <= names
    page = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
    missing = [name for name in names if f"`{name}`" not in page and f"`{name}:" not in page]
    assert sorted(missing) == []


def test_the_columns_of_every_frame_are_on_their_page(shell: InteractiveShell) -> None:
    """`docs/frames.md` names exactly the columns that each frame has."""
    sections = (ROOT / "docs" / "frames.md").read_text("utf-8").split("\n## ")[1:]
    assert len(sections) >= 10
    for section in sections:
        for language, text in snippets(section):
            if language in ("", "python"):
                assert shell.run_cell(text).success, text
        name = (re.search(r"^(\w+) = %", section, re.MULTILINE) or ["", "replies"])[1]
        rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        named = [column for row in rows for column in re.findall(r"`(\w+)`", row)]
        columns = [column for column in shell.user_ns[name].columns if column != "text"]
        assert sorted(named) == sorted(columns), section[:60]
