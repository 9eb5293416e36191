"""A disk that failed and works again: the ledger and the record of attempts have everything."""

from __future__ import annotations

import errno
import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engine_parts import NOON

from arche_magic.llm_providers.attempt_log import AttemptLog
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.storage import JsonFileStorage, LedgerWarning, Storage

resource = pytest.importorskip("resource", reason="limits of a process")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def count(document: dict[str, Any]) -> int:
    document["n"] = document.get("n", 0) + 1
    return int(document["n"])


def add(name: str, before: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Merge two counters."""
    theirs["n"] = theirs.get("n", 0) + ours["n"] - before.get("n", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "ledger.json"


@pytest.fixture
def returning(path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A storage that tries at each change whether it can write its file again."""
    monkeypatch.setattr("arche_magic.llm_providers.storage.json_file.RETRY_SECONDS", 0.0)
    storage = JsonFileStorage(path, merge=add)
    for _ in range(2):
        storage.update("counter", count)
    return storage


@contextmanager
def no_more_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@contextmanager
def full_disk(content: int) -> Iterator[None]:
    """No file can have more bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (content, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def a_folder_in_its_place(path: Path) -> Iterator[None]:
    aside = path.rename(path.with_name("aside"))
    path.mkdir()
    yield
    path.rmdir()
    aside.rename(path)


@contextmanager
def torn_after_its_copy(path: Path) -> Iterator[None]:
    """The copy can be written, and only half of the file."""
    write, half = os.write, 60
    is_file: dict[int, bool] = {}
    opened = os.open

    def refuse(descriptor: int, content: bytes) -> int:
        if not is_file[descriptor]:
            return write(descriptor, content)
        write(descriptor, content[:half])
        raise OSError(errno.EIO, "Input/output error")

    def note(name: Any, *rest: Any) -> int:
        descriptor = opened(name, *rest)
        is_file[descriptor] = Path(name) == path
        return descriptor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", note)
        patch.setattr(os, "write", refuse)
        yield


FAILURES: dict[str, Callable[[Path], Any]] = {
    "too many open files": lambda path: no_more_files(),
    "a full disk": lambda path: full_disk(100),
    "a folder in place of the lock": lambda path: a_folder_in_its_place(Path(f"{path}.lock")),
    "a folder in place of the file": a_folder_in_its_place,
    "a file that is torn": torn_after_its_copy,
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("first", ["read", "update"])
def test_counts_made_while_a_disk_failed_are_added_when_it_works_again(
    path: Path, returning: Storage, failure: str, first: str
) -> None:
    """To what other kernels have counted since. A second failure gives a second warning."""
    total = 2
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught, FAILURES[failure](path):
            warnings.simplefilter("always")
            if first == "read":
                returning.read("counter")
            seen = [returning.update("counter", count) for _ in range(3)]
            assert returning.read("counter") == {"n": total + 3}
            assert returning.trouble
        assert seen == [total + 1, total + 2, total + 3]
        (warning,) = caught
        assert "counting in memory until it can be written again" in str(warning.message)
        if failure != "a file that is torn":
            JsonFileStorage(path).update("counter", count)
            total += 1
        total += 4
        assert returning.update("counter", count) == total
        assert returning.trouble == ""
        assert JsonFileStorage(path).read("counter") == returning.read("counter") == {"n": total}


def test_a_ledger_that_was_deleted_while_its_disk_failed_is_written_again(
    path: Path, returning: Storage
) -> None:
    """With all documents, also those that did not change meanwhile."""
    returning.update("other", count)
    with pytest.warns(LedgerWarning), no_more_files():
        returning.update("counter", count)
    path.unlink()
    assert returning.update("counter", count) == 4
    assert JsonFileStorage(path).read_all("counter", "other") == [{"n": 4}, {"n": 1}]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_process_does_not_add_the_counts_of_its_parent(
    path: Path, returning: Storage
) -> None:
    """If it was forked while the disk failed."""
    with pytest.warns(LedgerWarning), no_more_files():
        returning.update("counter", count)
    child = os.fork()
    if not child:
        try:
            assert returning.update("counter", count) == 3
        finally:
            os._exit(returning.read("counter") != {"n": 3})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert returning.update("counter", count) == 5


# --- the record of attempts


def attempt(number: int) -> Attempt:
    return Attempt("groq", "groq_key_1", "model-a", "served", at=NOON, request=f"r{number}")


def test_attempts_made_while_a_disk_failed_are_recorded_when_it_works_again(
    tmp_path: Path,
) -> None:
    """Each once and in order, even if the disk was full in the middle of a line."""
    path = tmp_path / "llm_calls.jsonl"
    log = AttemptLog(path)
    log.append([attempt(0)])
    size = path.stat().st_size
    asked = 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Room for a line and a half; for half a line more; for nothing; for no open file.
        for room in (full_disk(size * 5 // 2), full_disk(size * 3), full_disk(1), no_more_files()):
            with room:
                log.append([attempt(asked), attempt(asked + 1)])
            asked += 2
            assert [a.request for a in log.since(1.0)] == [f"r{n}" for n in range(asked)]
        warned = len(caught)
        log.append([attempt(asked)])
        with full_disk(1):
            log.append([attempt(asked + 1)])
    assert (warned, len(caught)) == (1, 2)
    assert "the last 10,000 are kept in memory until" in str(caught[0].message)
    log.append([attempt(asked + 2)])
    expected = [f"r{number}" for number in range(asked + 3)]
    assert [a.request for a in AttemptLog(path).since(1.0)] == expected


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_process_does_not_record_the_attempts_of_its_parent(tmp_path: Path) -> None:
    """If it was forked while the disk failed."""
    log = AttemptLog(tmp_path / "llm_calls.jsonl")
    with pytest.warns(LedgerWarning), no_more_files():
        log.append([attempt(0)])
    child = os.fork()
    if not child:
        try:
            log.append([attempt(1)])
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    log.append([attempt(2)])
    assert [a.request for a in log.since(1.0)] == ["r1", "r0", "r2"]
