"""Settings are read once, and again when something they depend on has changed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from arche_magic.llm_providers.config import add_key, get_configuration, remove_key
from arche_magic.llm_providers.errors import ConfigurationError

OLD = 1_000_000_000
TOML = "patience = 3\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, own_settings: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with both files, last changed long ago."""
    folder = tmp_path / "project"
    folder.mkdir()
    write(folder / ".env", "GROQ_API_KEY=gsk_made_up_1\n")
    write(folder / "arche_magic.toml", TOML)
    monkeypatch.chdir(folder)
    return folder


def write(path: Path, text: str) -> None:
    """Write a file with an old time stamp."""
    path.write_text(text)
    path.chmod(0o600)
    os.utime(path, (OLD, OLD))


@pytest.mark.parametrize(
    "written", [OLD, time.time() + 5 * 3600], ids=["long ago", "in the future"]
)
def test_nothing_is_read_again_without_a_change(project: Path, written: float) -> None:
    """Changes to other files, even in the same folder, do not matter."""
    os.utime(project / "arche_magic.toml", (written, written))
    first = get_configuration()
    assert first.patience == 3
    Path("outputs").mkdir()
    Path("outputs/llm_quota_tracker.json").write_text("{}")
    assert get_configuration() is first


def below(name: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def change(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (project / "below").mkdir()
        write(project / "below" / name, "patience = 4" if name.endswith("toml") else "A=1")
        monkeypatch.chdir(project / "below")

    return change


CHANGES: dict[str, Callable[[Path, pytest.MonkeyPatch], object]] = {
    # Size and time stamp are the same as before.
    "a key is replaced": lambda project, _: write(project / ".env", "GROQ_API_KEY=gsk_made_up_2\n"),
    "a setting is changed": lambda project, _: write(project / "arche_magic.toml", "patience = 4"),
    "a file is removed": lambda project, _: (project / "arche_magic.toml").unlink(),
    "a file becomes a link": lambda project, _: (
        (project / ".env").rename(project / "keys"),
        (project / ".env").symlink_to("keys"),
    ),
    "a nearer .env appears": below(".env"),
    "a nearer settings file appears": below("arche_magic.toml"),
    "the user's own settings appear": lambda project, _: write(
        project.parent / "own-settings" / "arche_magic" / "arche_magic.toml", TOML
    ),
    "a variable is set": lambda _, monkeypatch: monkeypatch.setenv("GROQ_API_KEY_2", "gsk_other"),
    "a variable that .env may refer to is set": lambda _, patch: patch.setenv("SOMETHING", "x"),
    "a key is added for the session": lambda *_: add_key(
        get_configuration(), "groq", "gsk_of_the_session"
    ),
    "the notebook runs in Colab": lambda _, monkeypatch: monkeypatch.setitem(
        sys.modules, "google.colab", object()
    ),
    "the folder of the ledger becomes a link": lambda project, _: (project / "outputs").symlink_to(
        "elsewhere"
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_next_request_sees_a_change(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, pytest.MonkeyPatch], object],
) -> None:
    """Every kind of change is seen, and then the new configuration is reused."""
    before = get_configuration()
    change(project, monkeypatch)
    after = get_configuration()
    assert after is not before
    assert get_configuration() is after
    for key in after.keys:
        if key.source == "this session":
            remove_key(after, key.label)


def test_a_recently_written_file_is_read_again(project: Path) -> None:
    """It can change once more within the resolution of its time stamp."""
    for patience in (4, 5, 6):
        (project / "arche_magic.toml").write_text(f"patience = {patience}\n")
        assert get_configuration().patience == patience


def test_an_invalid_file_is_refused_until_it_is_corrected(project: Path) -> None:
    """Neither the error nor the earlier configuration is remembered."""
    get_configuration()
    write(project / "arche_magic.toml", "patience = 'long'\n")
    for _ in range(2):
        with pytest.raises(
            ConfigurationError, match="patience is 'long'; it must be a number of seconds"
        ):
            get_configuration()
    write(project / "arche_magic.toml", TOML)
    assert get_configuration().patience == 3
