"""The README's keys and commands exist; `test_docs.py` runs its snippets."""

from __future__ import annotations

import re
from pathlib import Path

from arche_magic.llm_providers.config import load_configuration
from arche_magic.llm_providers.config.env_file import read_env_file

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_keys_of_the_env_file_are_found(tmp_path: Path) -> None:
    """The `.env` shown names the variables of all four providers."""
    (text,) = [text for language, text in SNIPPETS if "GROQ_API_KEY=" in text]
    (tmp_path / ".env").write_text(text)
    found = read_env_file(tmp_path / ".env").variables
    wanted = {p.key_variables[0] for p in load_configuration({}).providers.values()}
    assert wanted <= set(found)


def test_the_commands_exist() -> None:
    """The README's commands are targets of the Makefile."""
    makefile = (README.parent / "Makefile").read_text()
    commands = [text for language, text in SNIPPETS if language == "sh"]
    targets = re.findall(r"^make (\w+)", "\n".join(commands), re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
