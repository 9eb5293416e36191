"""What the README says of settings and commands holds; `test_docs.py` runs its snippets."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from arche_magic.llm_providers.config import load_configuration
from arche_magic.llm_providers.env_file import read_env_file

if TYPE_CHECKING:
    import pytest

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_settings_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings shown are accepted as they stand and do what they say."""
    (text,) = [text for language, text in SNIPPETS if language == "toml"]
    (tmp_path / "arche_magic.toml").write_text(text)
    for name in ("GROQ_API_KEY_1", "GROQ_API_KEY_2"):
        monkeypatch.setenv(name, f"gsk_{name}_made_up_for_this_test")
    configuration = load_configuration(directory=tmp_path)
    assert list(configuration.providers) == tomllib.loads(text)["order"]
    assert configuration.patience == 60
    assert {key.account for key in configuration.keys if key.provider == "groq"} == {"team"}


def test_the_keys_of_the_env_file_are_found(tmp_path: Path) -> None:
    """The `.env` shown names the variables of all four providers."""
    (text,) = [text for language, text in SNIPPETS if "GROQ_API_KEY=" in text]
    (tmp_path / ".env").write_text(text)
    found = read_env_file(tmp_path / ".env")
    wanted = {p.key_variables[0] for p in load_configuration({}).providers.values()}
    assert wanted <= set(found)


def test_the_commands_exist() -> None:
    """The commands the README tells to type are targets of the Makefile."""
    makefile = (README.parent / "Makefile").read_text()
    commands = [text for language, text in SNIPPETS if language == "sh"]
    targets = re.findall(r"^make (\w+)", "\n".join(commands), re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
