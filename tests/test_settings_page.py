"""`docs/settings.md` names exactly the settings that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from arche_magic.llm_providers.catalog import published_providers
from arche_magic.llm_providers.config import load_configuration
from arche_magic.llm_providers.config.settings_table import PROVIDER_SETTINGS, SETTINGS
from arche_magic.notebook.magics import ArcheMagics

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "settings.md").read_text("utf-8")


def rows(heading: str) -> list[list[str]]:
    """The rows of the table in a section, without its header."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[1:]]


def test_every_variable_is_on_the_page() -> None:
    """These are the variables in the catalog, and those in the source."""
    declared = set()
    for provider in published_providers().values():
        declared |= {*provider.key_variables, provider.base_url_variable}
    for path in (ROOT / "arche_magic").rglob("*.py"):
        declared |= set(re.findall(r'"(ARCHE_[A-Z_]+)"', path.read_text("utf-8")))
    named = {name for row in rows("Variables") for name in re.findall(r"`([A-Z_]+)`", row[0])}
    assert named == declared


def test_every_setting_of_the_file_is_on_the_page() -> None:
    """Tables of the file are listed with their settings."""
    named = [name for row in rows("arche_magic.toml") for name in re.findall("`(.+?)`", row[0])]
    assert len(named) == len(set(named))
    assert {name.partition(".")[0] for name in named} == set(SETTINGS)
    for table, inside in (
        ("providers.NAME", PROVIDER_SETTINGS),
        *((name, SETTINGS[name]) for name in ("replay", "timeouts", "budget")),
    ):
        found = {n.removeprefix(f"{table}.") for n in named if n.startswith(f"{table}.")}
        assert found == set(inside)


def test_the_example_file_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting of the example is in the configuration."""
    (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "arche_magic.toml").write_text(text)
    for number in (1, 2):
        monkeypatch.setenv(f"GROQ_API_KEY_{number}", f"gsk_made_up_{number}")
    monkeypatch.setenv("MISTRAL_API_KEY", "made-up")
    configuration = load_configuration(directory=tmp_path)
    providers = configuration.providers
    assert list(providers) == ["mistral", "groq", "google", "openai"]
    assert configuration.patience == 60
    assert providers["groq"].models == ("openai/gpt-oss-120b", "openai/gpt-oss-20b")
    assert providers["google"].paid
    assert not providers["google"].limits
    assert providers["mistral"].base_url == "http://127.0.0.1:8080/v1"
    assert {key.account for key in configuration.keys if key.provider == "groq"} == {"team"}
    first, second = (route for route in configuration.routes() if "120b" in route.model)
    limits = {limit.name: limit for limit in configuration.default_limits(first)}
    assert limits["requests_per_minute"].amount == 20
    assert limits["requests_per_day"].time_zone == "Europe/Berlin"
    tokens = {limit.name: limit.amount for limit in configuration.default_limits(second)}
    assert tokens["tokens_per_day"] == 100_000
    assert configuration.replay == "keep"


def test_every_default_of_the_magics_is_on_the_page() -> None:
    """Names, meanings and defaults are those of `%config ArcheMagics`."""
    declared = {
        name: (trait.help, repr(trait.default()))
        for name, trait in ArcheMagics.class_traits(config=True).items()
    }
    named = {
        row[0].strip("`"): (row[1], row[2].strip("`")) for row in rows("Defaults of the magics")
    }
    assert named == declared


@pytest.mark.parametrize("row", rows("arche_magic.toml"), ids=lambda row: row[0].strip("`"))
def test_the_defaults_on_the_page_are_those_of_an_empty_file(
    row: list[str], tmp_path: Path
) -> None:
    """A default shown as a value is the value in the configuration."""
    configuration = load_configuration({}, tmp_path)
    found = {
        "`default_provider`": f'`"{configuration.default_provider}"`',
        "`order`": "`[{}]`".format(", ".join(f'"{name}"' for name in configuration.providers)),
        "`patience`": f"`{configuration.patience:g}`",
        "`on_store_failure`": f'`"{configuration.on_store_failure}"`',
        "`replay.mode`": f'`"{configuration.replay}"`',
    }
    assert row[2] == found.get(row[0], row[2])
