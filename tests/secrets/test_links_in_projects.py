"""A cloned project cannot make the package write, read or replace the user's other files."""

from __future__ import annotations

import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from env_file import write_env_file

import arche_magic
from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.config.env_file import ConfigurationWarning
from arche_magic.llm_providers.doctor import examine
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.storage import JsonFileStorage, LedgerWarning
from arche_magic.sandbox import Sandbox

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links are POSIX's")

PRECIOUS = b"# the user's own file\n"
LEDGER, RECORD, REPLIES = "llm_quota_tracker.json", "llm_calls.jsonl", "llm_replies.sqlite"
WRITTEN = [LEDGER, f"{LEDGER}.lock", f"{LEDGER}.copy", RECORD, REPLIES]
BESIDE = [f"{LEDGER}.backup", f"{LEDGER}.backup.new", f"{RECORD}.lock", "llm_calls-2026-10.jsonl"]
SQLITE = [f"{REPLIES}{suffix}" for suffix in ("-journal", "-wal", "-shm")]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    limits = {"mistral": dict.fromkeys(("requests_per_minute", "tokens_per_minute"))}
    with Sandbox(keys={"mistral": 1}, limits=limits) as running:
        yield running


Clone = Callable[[str], Path]


@pytest.fixture
def clone(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """A project with a `.env` as working directory; `precious` is outside."""
    (tmp_path / "precious").write_bytes(PRECIOUS)

    def make(name: str) -> Path:
        project = tmp_path / name
        (project / "outputs").mkdir(parents=True)
        write_env_file(project, sandbox)
        monkeypatch.chdir(project)
        return project

    return make


def ask(used: int = 2) -> list[str]:
    """Ask twice, keep the reply, show all tables, and return the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        provider = get_llm_provider("mistral")
        reply = provider.generate("Hello", keep=True)
        assert reply
        assert provider.generate("Hello again")
        limits = get_quota_tracker().get_usage_summary()["mistral"]["mistral_key_1"]
        assert limits["requests_per_minute"]["used"] == used
        assert len(attempt_log(get_configuration().store).since(0)) >= 2
    messages = [
        str(w.message) for w in caught if w.category in (LedgerWarning, ConfigurationWarning)
    ]
    assert all("\n" not in message for message in messages)
    return messages


def as_link(path: Path, precious: Path) -> None:
    path.symlink_to(os.path.relpath(precious, path.parent))


def as_dangling_link(path: Path, precious: Path) -> None:
    path.symlink_to(precious.with_name("new"))


def as_hard_link(path: Path, precious: Path) -> None:
    path.hardlink_to(precious)


def as_pipe(path: Path, precious: Path) -> None:
    os.mkfifo(path)


def as_folder(path: Path, precious: Path) -> None:
    path.mkdir()


KINDS = [as_link, as_dangling_link, as_hard_link, as_pipe, as_folder]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*WRITTEN, *BESIDE, *SQLITE])
def test_only_our_own_regular_files_are_opened(
    clone: Clone, tmp_path: Path, name: str, kind: Callable[[Path, Path], None]
) -> None:
    """The request is answered and counted, and one warning names the path."""
    project = clone("cloned")
    path = project / "outputs" / name
    kind(path, tmp_path / "precious")
    warned = ask()
    assert (tmp_path / "precious").read_bytes() == PRECIOUS
    assert not (tmp_path / "new").exists()
    if name in WRITTEN:
        assert any(str(path) in message for message in warned), warned
    assert len(warned) <= 1


@pytest.mark.parametrize("name", [LEDGER, RECORD, REPLIES])
def test_a_job_loses_no_reply_because_of_a_link(clone: Clone, tmp_path: Path, name: str) -> None:
    """Its rows are returned as usual. Only a later run cannot resume."""
    as_link(clone("cloned") / "outputs" / name, tmp_path / "precious")
    with pytest.warns(LedgerWarning, match="is a link, which is not followed"):
        result = arche_magic.map([f"Question {number}" for number in range(20)])
    assert result.reply.notna().all()
    assert (tmp_path / "precious").read_bytes() == PRECIOUS


def test_the_doctor_names_the_link(clone: Clone, tmp_path: Path) -> None:
    """It is named as the reason why the ledger cannot be stored."""
    path = clone("cloned") / "outputs" / f"{LEDGER}.copy"
    as_link(path, tmp_path / "precious")
    ask()
    (finding,) = [finding for finding in examine() if finding.about == "ledger"]
    assert finding.state == "wrong"
    assert f"{path} is a link, which is not followed; delete it" in finding.found


def test_a_record_behind_a_link_is_not_read(clone: Clone, tmp_path: Path) -> None:
    """A pipe is not read either. The other months are shown."""
    outputs = clone("cloned") / "outputs"
    ask()
    (outputs / RECORD).rename(tmp_path / "elsewhere.jsonl")
    (outputs / RECORD).symlink_to(tmp_path / "elsewhere.jsonl")
    os.mkfifo(outputs / "llm_calls-2026-10.jsonl")
    with pytest.warns(LedgerWarning, match="are not shown") as caught:
        assert attempt_log(get_configuration().store).since(0) == []
    assert len(caught) == 2


# --- folders that are links


def test_nothing_is_written_to_a_folder_outside_the_project(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning says where it leads, and what to set if the link is intended."""
    project, elsewhere = clone("cloned"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (project / "outputs").rmdir()
    (project / "outputs").symlink_to("../elsewhere")
    (warned,) = ask()
    assert f"{project / 'outputs'} points outside the project, to {elsewhere}" in warned
    assert list(elsewhere.iterdir()) == []
    setting = warned.partition("set ")[2].partition(" in the environment")[0]
    name, _, value = setting.partition("=")
    monkeypatch.setenv(name, value)
    assert ask() == []
    assert {LEDGER, RECORD, REPLIES} <= {path.name for path in elsewhere.iterdir()}


def test_the_record_of_a_ledger_in_redis_stays_in_the_project(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the working directory, which may be below the `.env`."""
    project, elsewhere = clone("cloned"), tmp_path / "elsewhere"
    (project / "notebooks").mkdir()
    elsewhere.mkdir()
    (project / "notebooks" / "outputs").symlink_to("../../elsewhere")
    attempts = get_llm_provider("mistral").generate("Hello").attempts
    monkeypatch.chdir(project / "notebooks")
    get_configuration()
    with pytest.warns(LedgerWarning, match="outputs points outside the project, to"):
        attempt_log(f"redis://{project.parent.name}").append(attempts)
    assert list(elsewhere.iterdir()) == []


def test_links_that_stay_in_the_project_are_followed(clone: Clone) -> None:
    """Users may arrange their own project this way."""
    project = clone("cloned")
    (project / "outputs").rmdir()
    (project / "data").mkdir()
    (project / "outputs").symlink_to("data")
    (project / ".env").rename(project / "data" / ".env")
    (project / ".env").symlink_to("data/.env")
    assert ask() == []
    assert (project / "data" / LEDGER).is_file()


@pytest.mark.parametrize("where", ["environment", "project"])
def test_links_above_the_project_are_followed(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The user made them, as well as links in a path from the environment."""
    project = clone("cloned")
    (tmp_path / "link").symlink_to(project)
    if where == "environment":
        monkeypatch.setenv("ARCHE_QUOTA_STORE", str(tmp_path / "link" / "outputs" / "l.json"))
    else:
        monkeypatch.chdir(tmp_path / "link")
    assert ask() == []
    assert (project / "outputs" / RECORD).is_file()


@pytest.mark.parametrize("name", [".env", "arche_magic.toml"])
def test_a_settings_file_outside_its_folder_is_skipped(
    clone: Clone, tmp_path: Path, name: str
) -> None:
    """A project's link could make the package read another file of the user, such as a `.env`."""
    project = clone("cloned")
    text = {".env": "MISTRAL_API_KEY_2=x\n", "arche_magic.toml": "patience = 7\n"}[name]
    (tmp_path / "other").write_text(text)
    (project / name).unlink(missing_ok=True)
    (project / name).symlink_to("../other")
    with pytest.warns(ConfigurationWarning, match="was skipped; replace it with a copy") as caught:
        configuration = get_configuration()
    assert str(project / name) in str(caught[0].message)
    assert configuration.patience == 30
    assert len(configuration.keys) == (0 if name == ".env" else 1)


# --- results of jobs


@pytest.mark.parametrize("kind", [as_link, as_dangling_link, as_hard_link, as_pipe])
@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_result_is_not_written_through_a_link(
    clone: Clone, tmp_path: Path, kind: Callable[[Path, Path], None], name: str
) -> None:
    """A link in place of the result is replaced."""
    project = clone("cloned")
    (project / "in.csv").write_text("text\nsoup\n")
    kind(project / name, tmp_path / "precious")
    arche_magic.map("in.csv", "Is it hot? {{text}}", to=name)
    assert (tmp_path / "precious").read_bytes() == PRECIOUS
    assert not (tmp_path / "new").exists()
    read = pd.read_csv if name.endswith("csv") else pd.read_parquet
    assert len(read(project / name)) == 1


def test_an_unwritable_result_is_found_before_the_first_request(
    clone: Clone, sandbox: Sandbox
) -> None:
    """The error comes before the first request."""
    project, before = clone("cloned"), len(sandbox.requests)
    (project / "in.csv").write_text("text\nsoup\n")
    (project / "out.csv").mkdir()
    with pytest.raises(InvalidRequest, match=r"out\.csv is a folder"):
        arche_magic.map("in.csv", "{{text}}", to="out.csv")
    with pytest.raises(InvalidRequest, match=r"/proc/out\.csv cannot be written"):
        arche_magic.map("in.csv", "{{text}}", to="/proc/out.csv")
    assert len(sandbox.requests) == before


# --- existing files with the names of ours


@pytest.mark.parametrize("variable", ["ARCHE_QUOTA_STORE", "ARCHE_REPLIES"])
@pytest.mark.parametrize(
    "place",
    ["../precious", "{outside}/precious", "~/precious", "up/precious", "data/../../precious"],
)
def test_a_project_cannot_place_files_outside_itself(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, place: str
) -> None:
    """The user's file is unchanged, and the error names the line in the project."""
    project = clone("cloned")
    monkeypatch.setenv("HOME", str(tmp_path))
    (project / "up").symlink_to("..")
    with (project / ".env").open("a") as file:
        file.write(f"{variable}={place.format(outside=tmp_path)}\n")
    with pytest.raises(ConfigurationError) as caught:
        get_quota_tracker()
    assert str(caught.value).startswith(
        f"{variable} in {project / '.env'} points outside the project"
    )
    assert (tmp_path / "precious").read_bytes() == PRECIOUS
    assert {path.name for path in tmp_path.iterdir()} == {"cloned", "precious"}


CONTENTS = [
    PRECIOUS,
    b"[1, 2]",
    b'{"something": "else"}',
    b'{"version": "1", "documents": {}}',
    b"{",
]


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("where", ["environment", "project"])
def test_a_file_that_is_not_a_ledger_is_not_replaced(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, where: str
) -> None:
    """It is never moved or written, and the request is counted in memory."""
    project = clone("cloned")
    path = (project if where == "project" else tmp_path) / "data.json"
    path.write_bytes(content)
    if where == "project":
        with (project / ".env").open("a") as file:
            file.write("ARCHE_QUOTA_STORE=data.json\n")
    else:
        monkeypatch.setenv("ARCHE_QUOTA_STORE", str(path))
    (warned,) = ask()
    assert f"{path} is not a ledger; set ARCHE_QUOTA_STORE to another path" in warned
    storage = JsonFileStorage(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage.update("counter", lambda document: document.update(n=1))
    assert storage.trouble
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.glob("data.json*")] == ["data.json"]


@pytest.mark.parametrize("suffix", ["copy", "backup"])
def test_a_user_file_with_the_name_of_the_copy_is_not_replaced(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """`data.json.copy` may be a file of the user."""
    clone("cloned")
    path = tmp_path / f"data.json.{suffix}"
    path.write_bytes(PRECIOUS)
    monkeypatch.setenv("ARCHE_QUOTA_STORE", str(tmp_path / "data.json"))
    (warned,) = ask()
    assert f"{path} is not a copy of a ledger" in warned
    assert path.read_bytes() == PRECIOUS


def test_a_foreign_record_is_neither_written_nor_renamed(clone: Clone) -> None:
    """This holds even when a new month starts."""
    path = clone("cloned") / "outputs" / RECORD
    path.write_bytes(PRECIOUS)
    os.utime(path, (1e9, 1e9))
    (warned,) = ask()
    assert f"{path} is not a record of attempts" in warned
    assert path.read_bytes() == PRECIOUS
    assert not list(path.parent.glob("llm_calls-*"))


@pytest.mark.parametrize("version", [0, 1])
def test_a_database_of_another_program_is_not_changed(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """Its version number may be the same as ours."""
    clone("cloned")
    path = tmp_path / "app.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"CREATE TABLE users (name); PRAGMA user_version = {version}")
    content = path.read_bytes()
    monkeypatch.setenv("ARCHE_REPLIES", str(path))
    (warned,) = ask()
    assert f"{path} is a database of another program; set ARCHE_REPLIES" in warned
    assert path.read_bytes() == content


def test_a_journal_cannot_delete_another_file(clone: Clone, tmp_path: Path) -> None:
    """SQLite deletes the file that a journal of several databases names."""
    outputs = clone("cloned") / "outputs"
    ask()
    name = os.fsencode(tmp_path / "precious")
    checksum = sum(name)
    journal = outputs / f"{REPLIES}-journal"
    journal.write_bytes(
        hot_journal_header(outputs / REPLIES)
        + (2**31 // 4096 + 1).to_bytes(4, "big") + name + len(name).to_bytes(4, "big")
        + checksum.to_bytes(4, "big") + bytes.fromhex("d9d505f920a163d7")
    )  # fmt: skip
    (warned,) = ask(used=4)
    assert str(journal) in warned
    assert (tmp_path / "precious").read_bytes() == PRECIOUS


def hot_journal_header(database: Path) -> bytes:
    """The first sector of a rollback journal without pages; see sqlite.org/fileformat2.html."""
    pages = database.stat().st_size // 4096
    numbers = (0, 0, pages, 512, 4096)
    header = bytes.fromhex("d9d505f920a163d7") + b"".join(n.to_bytes(4, "big") for n in numbers)
    return header.ljust(512, b"\0")
