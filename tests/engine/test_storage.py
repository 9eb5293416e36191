"""Documents in memory and in a file: atomic, readable, and never blocking a call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engine_parts import NOON, Clock, a_route, ask, custom_configuration

from arche_magic.llm_providers.quota_tracker import (
    Hold,
    QuotaTracker,
    Settlement,
    get_quota_tracker,
    older_documents,
)
from arche_magic.llm_providers.storage import (
    FILE_VERSION,
    JsonFileStorage,
    LedgerWarning,
    Storage,
    open_storage,
)
from arche_magic.llm_providers.types import Limit, Usage, utc

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = """
import sys
from pathlib import Path
from arche_magic.llm_providers.storage import JsonFileStorage

def count(document):
    document["n"] = document.get("n", 0) + 1

storage = JsonFileStorage(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    storage.update("counter", count)
"""


def count(document: dict[str, Any]) -> int:
    document["n"] = document.get("n", 0) + 1
    return int(document["n"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "ledger.json"


@pytest.fixture
def written(path: Path) -> Path:
    """A ledger file with one document."""
    JsonFileStorage(path).update("counter", count)
    return path


def use(storage: Storage, first: str) -> list[int]:
    """Count to three, reading first if requested."""
    if first == "read":
        assert storage.read("counter") == {}
    return [storage.update("counter", count) for _ in range(3)]


def kept_aside(path: Path) -> list[Path]:
    return [file for file in path.parent.glob("*.json") if file != path]


def test_a_change_sees_the_previous_change(storage: Storage) -> None:
    """`update` returns the result of the change; `read` returns the document, or an empty one."""
    assert storage.read("counter") == {}
    assert [storage.update("counter", count) for _ in range(3)] == [1, 2, 3]
    assert storage.read("counter") == {"n": 3}
    assert storage.read("other") == {}


def test_a_change_that_raises_writes_nothing(storage: Storage) -> None:
    """The document stays the same, and the next change is not blocked."""
    storage.update("counter", count)

    def broken(document: dict[str, Any]) -> None:
        document["n"] = 99
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.update("counter", broken)
    assert storage.read("counter") == {"n": 1}
    assert storage.update("counter", count) == 2


def test_threads_lose_no_updates(storage: Storage) -> None:
    """The counts of eight threads add up."""

    def work() -> None:
        for _ in range(25):
            storage.update("counter", count)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.read("counter") == {"n": 200}


def test_processes_lose_no_updates(path: Path) -> None:
    """The counts of eight kernels add up, and a reader never sees an incomplete file."""
    command = [sys.executable, "-c", COUNT, str(path), "40"]
    processes = [subprocess.Popen(command) for _ in range(8)]
    reader = JsonFileStorage(path)
    seen = [0]
    while any(process.poll() is None for process in processes):
        seen.append(reader.read("counter").get("n", 0))
    assert [process.returncode for process in processes] == [0] * 8
    assert reader.read("counter") == {"n": 320}
    assert seen == sorted(seen)
    assert kept_aside(path) == []


def test_the_file_is_readable_json_with_a_version(path: Path) -> None:
    """It has one line per entry, and no temporary files are left."""
    storage = JsonFileStorage(path)
    tracker = QuotaTracker(storage, custom_configuration([Limit("requests", "day", 9, "bucket")]))
    route = a_route(tracker.configuration)
    hold = tracker.hold(route, ask())
    assert isinstance(hold, Hold)
    tracker.settle(Settlement(hold, Usage(1, 1)))
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["version"] == FILE_VERSION
    assert list(content["documents"]) == [f"groq:{route.key.account}"]
    assert '"requests_per_day":{' in path.read_text(encoding="utf-8")
    assert not list(path.parent.glob("*.tmp"))


@pytest.mark.parametrize(
    "text", ["},", "},:", 'ends in },"', "half a character: \ud83d", "\x00 and é", "},}]"]
)
def test_a_text_in_a_document_is_kept_as_it_is(path: Path, text: str) -> None:
    """A line break is inserted between entries, and never inside a text."""
    document = {"one": {"a": {"why": text}, text: {"n": 1}, "c": {}}, text: text, "two": {"n": 1.5}}
    reader = JsonFileStorage(path)
    assert reader.read("other") == {}
    JsonFileStorage(path).update("other", lambda found: found.update(document))
    assert reader.read("other") == document
    JsonFileStorage(path).update("other", count)
    assert reader.read("other") == {**document, "n": 1}


def a_large_ledger(path: Path) -> JsonFileStorage:
    """A ledger of 50 documents, of which only those that change are written."""
    storage = JsonFileStorage(path)
    names = [f"account {number}" for number in range(50)]

    def fill(*documents: dict[str, Any]) -> None:
        for document in documents:
            document.update(n=0, text="x" * 1000)

    storage.update("counter", fill, *names)
    storage.update("counter", count)
    return storage


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="all is written on Windows")
def test_of_a_large_file_only_what_changes_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call costs the same with one account and with hundreds."""
    written: list[int] = []
    write, pwrite = os.write, os.pwrite

    def note(call: Any, *arguments: Any) -> int:
        written.append(call(*arguments))
        return written[-1]

    storage = a_large_ledger(path)
    monkeypatch.setattr(os, "write", lambda *arguments: note(write, *arguments))
    monkeypatch.setattr(os, "pwrite", lambda *arguments: note(pwrite, *arguments))
    storage.update("account 7", count)
    assert 2000 < sum(written) < 4000
    assert path.read_bytes() == path.with_name(f"{path.name}.copy").read_bytes()
    assert JsonFileStorage(path).read("account 7")["n"] == 1


def test_kernels_that_share_a_large_file_see_all_changes(path: Path) -> None:
    """Documents grow and shrink, and a third kernel reads the file as a whole each time."""
    kernels = [a_large_ledger(path), JsonFileStorage(path)]
    for number in range(300):
        name, size = f"account {number % 7}", (900, 1000, 1100, 7000, 1010)[number % 5]
        text = "y" * size
        storage = kernels[number % 2]
        storage.update(name, lambda found, text=text: found.update(text=text, n=found["n"] + 1))
        assert kernels[1 - number % 2].read(name)["text"] == text
        content = json.loads(path.read_bytes())
        assert content["documents"][name]["text"] == text
        assert path.read_bytes() == path.with_name(f"{path.name}.copy").read_bytes()
    fresh = JsonFileStorage(path)
    assert sum(fresh.read(f"account {number}")["n"] for number in range(7)) == 300
    # Spaces that a long text leaves are not kept, nor do they add up.
    assert path.stat().st_size < 120_000


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="all is written on Windows")
@pytest.mark.parametrize("calls", range(8))
def test_a_kernel_killed_between_two_writes_of_a_large_file_loses_nothing(
    path: Path, calls: int
) -> None:
    """Copy and file take three writes each; after any number of them one of the two is whole."""
    storage, pwrite = a_large_ledger(path), os.pwrite
    storage.update("account 7", count)
    child = os.fork()
    if not child:
        left = [calls]

        def killed(descriptor: int, part: bytes, place: int) -> int:
            if not left[0]:
                # Half of it is written.
                pwrite(descriptor, part[: len(part) // 2], place)
                os._exit(0)
            left[0] -= 1
            return pwrite(descriptor, part, place)

        kernel = JsonFileStorage(path)
        # Its first change writes the whole.
        kernel.update("account 8", count)
        os.pwrite = killed
        kernel.update("account 7", count)
        os._exit(0)
    os.waitpid(child, 0)
    # With half of the file's new beginning, the file is as it was.
    n = 2 if calls > 3 else 1
    for reader in (JsonFileStorage(path), storage):
        assert reader.read("account 8")["n"] == 1
        assert reader.read("account 7")["n"] == n
    assert storage.update("account 7", count) == n + 1
    assert JsonFileStorage(path).read("account 7")["n"] == n + 1
    assert kept_aside(path) == []


def test_a_copy_that_is_not_as_the_file_is_written_as_a_whole(path: Path) -> None:
    """Writing only the changed parts requires that everything else is equal."""
    storage = a_large_ledger(path)
    copy = path.with_name(f"{path.name}.copy")
    for content in (b"", copy.read_bytes().replace(b'"revision": 2', b'"revision": 3')):
        copy.write_bytes(content)
        storage.update("account 7", count)
        assert copy.read_bytes() == path.read_bytes()
    copy.unlink()
    storage.update("account 7", count)
    assert copy.read_bytes() == path.read_bytes()


def test_a_change_by_another_kernel_is_seen(written: Path) -> None:
    """Two storages of one file are one ledger."""
    one, two = JsonFileStorage(written), JsonFileStorage(written)
    assert one.read("counter") == {"n": 1}
    two.update("counter", count)
    assert one.read("counter") == {"n": 2}


# --- damaged files


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("first", ["read", "update"])
def test_an_incomplete_file_is_restored_from_its_copy(
    written: Path, share: float, first: str
) -> None:
    """A kernel killed while it wrote loses nothing, because the copy was complete before."""
    content = written.read_bytes()
    later = content.replace(b'"n":1', b'"n":6').replace(b'"revision": 1', b'"revision": 2')
    later = later.replace(b'"complete": 1', b'"complete": 2')
    written.with_name(f"{written.name}.copy").write_bytes(later)
    cut = int(len(content) * share)
    mixed = later[:cut] + content[cut:]
    # Too little of the new file was written, so the mixture is the old file.
    for torn in (later[:cut], mixed if mixed != content else b"{"):
        written.write_bytes(torn)
        storage = JsonFileStorage(written)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if first == "update":
                storage.update("other", lambda document: document.update(n=1))
            assert storage.read("counter") == {"n": 6}
        written.with_name(f"{written.name}.copy").write_bytes(later)


def test_a_mixture_of_two_revisions_is_restored_from_the_copy(written: Path) -> None:
    """If its beginning is newer than its end, the file is not used even if it is valid JSON."""
    first = written.read_bytes()
    JsonFileStorage(written).update("counter", lambda document: document.update(n=7))
    second = written.read_bytes()
    assert len(first) == len(second)
    middle = first.index(b'"documents"')
    written.write_bytes(second[:middle] + first[middle:])
    assert JsonFileStorage(written).read("counter") == {"n": 7}


def torn(content: bytes) -> bytes:
    """The first half of the content."""
    return content[: len(content) // 2]


def zeros(content: bytes) -> bytes:
    """Zeros of the same length, as some file systems leave blocks that were not written."""
    return bytes(len(content))


@pytest.mark.parametrize("spoil", [torn, zeros, lambda content: b""])
@pytest.mark.parametrize("first", ["read", "update"])
def test_the_backup_is_used_after_a_power_failure(
    written: Path, spoil: Callable[[bytes], bytes], first: str
) -> None:
    """The file and its copy are damaged; the last minute is lost, and a warning says so."""
    JsonFileStorage(written).update("counter", lambda document: document.update(n=7))
    for path in (written, written.with_name(f"{written.name}.copy")):
        path.write_bytes(spoil(path.read_bytes()))
    storage = JsonFileStorage(written)

    def use_it() -> dict[str, Any]:
        if first == "update":
            storage.update("other", lambda document: document.update(n=1))
        return storage.read("counter")

    with pytest.warns(
        LedgerWarning, match="is torn; counting continues from a backup of"
    ) as caught:
        seen = use_it()
    assert (seen, len(caught)) == ({"n": 1}, 1)
    assert len(kept_aside(written)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert JsonFileStorage(written).read("counter") == {"n": 1}


@pytest.mark.parametrize("spoil", [zeros, lambda content: b""])
def test_a_file_with_unwritten_blocks_is_restored_from_its_copy(
    written: Path, spoil: Callable[[bytes], bytes]
) -> None:
    """Nothing is lost, and there is no warning."""
    JsonFileStorage(written).update("counter", lambda document: document.update(n=7))
    written.write_bytes(spoil(written.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert JsonFileStorage(written).read("counter") == {"n": 7}
        assert JsonFileStorage(written).update("counter", count) == 8


def test_the_backup_is_written_once_a_minute_by_one_kernel(written: Path) -> None:
    """It exists from the first change on, and other kernels leave a recent one alone."""
    backup = written.with_name(f"{written.name}.backup")
    first = backup.read_bytes()
    assert json.loads(first)["documents"] == {"counter": {"n": 1}}
    JsonFileStorage(written).update("counter", count)
    assert backup.read_bytes() == first
    a_minute_ago = time.time() - 61
    os.utime(backup, (a_minute_ago, a_minute_ago))
    JsonFileStorage(written).update("counter", count)
    assert backup.read_bytes() == written.read_bytes()


def test_deleting_the_file_starts_a_new_ledger(written: Path) -> None:
    """The copy and the backup are then ignored."""
    storage = JsonFileStorage(written)
    storage.update("counter", count)
    written.unlink()
    assert storage.read("counter") == {}
    assert storage.update("counter", count) == 1
    assert JsonFileStorage(written).read("counter") == {"n": 1}


def test_several_documents_change_together_or_not_at_all(storage: Storage) -> None:
    """Documents are passed in the given order, in their state at one moment."""

    def move(one: dict[str, Any], two: dict[str, Any]) -> None:
        two["n"] = one.pop("n") + two.get("n", 0)

    storage.update("one", lambda document: document.update(n=3))
    storage.update("one", move, "two")
    assert storage.read_all("two", "one", "none") == [{"n": 3}, {}, {}]

    def broken(one: dict[str, Any], two: dict[str, Any]) -> None:
        move(two, one)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.update("one", broken, "two")
    assert storage.read_all("one", "two") == [{}, {"n": 3}]


def test_threads_that_move_amounts_between_documents_lose_nothing(storage: Storage) -> None:
    """They move amounts in both directions at the same time."""
    for name in ("one", "two"):
        storage.update(name, lambda document: document.update(n=100))

    def move(giver: dict[str, Any], taker: dict[str, Any]) -> None:
        giver["n"] -= 1
        taker["n"] += 1

    def work(first: str, second: str) -> None:
        for _ in range(30):
            storage.update(first, move, second)
            assert sum(document["n"] for document in storage.read_all("one", "two")) == 200

    threads = [
        threading.Thread(target=work, args=names) for names in [("one", "two"), ("two", "one")] * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.read_all("one", "two") == [{"n": 100}, {"n": 100}]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"\x00\xff garbage",
        lambda content: b"[1, 2",
        lambda content: b"[" * 100_000,
        lambda content: "not json \u00e9".encode("latin-1"),
        lambda content: b'{"version": 4, "documents": {"counter": {"n": 5}}}',
        lambda content: b'{"version": "../../x", "documents": {}}',
        lambda content: b'{"version": 1, "documents": [1]}',
        lambda content: b'{"version": 1, "documents": {"counter": 5}}',
        lambda content: b'{"something": "else"}',
        lambda content: b'"text"',
        lambda content: b"[1]",
    ],
)
@pytest.mark.parametrize("first", ["read", "update"])
def test_a_foreign_file_is_kept_under_another_name(
    written: Path, damage: Callable[[bytes], bytes], first: str
) -> None:
    """One warning says where it is, whether the ledger is read or written first."""
    content = damage(written.read_bytes())
    written.write_bytes(content)
    for other in ("copy", "backup"):
        written.with_name(f"{written.name}.{other}").unlink()
    storage = JsonFileStorage(written, older_documents)
    with pytest.warns(LedgerWarning, match="kept as") as caught:
        seen = use(storage, first)
    assert seen == [1, 2, 3]
    assert len(caught) == 1
    (aside,) = kept_aside(written)
    assert aside.read_bytes() == content
    assert aside.name in str(caught[0].message)
    assert JsonFileStorage(written).read("counter") == {"n": 3}


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: content + b"\n\n",
    ],
)
def test_a_byte_order_mark_and_windows_line_endings_are_accepted(
    written: Path, change: Callable[[bytes], bytes]
) -> None:
    """An editor may add them."""
    written.write_bytes(change(written.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert JsonFileStorage(written).update("counter", count) == 2


@pytest.mark.parametrize("content", [b"", b"\n", b"{}"])
def test_an_empty_file_is_an_empty_ledger(path: Path, content: bytes) -> None:
    """No file is kept aside."""
    path.parent.mkdir()
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert JsonFileStorage(path).update("counter", count) == 1
    assert kept_aside(path) == []


@pytest.mark.parametrize("also", [(), (".copy",), (".copy", ".backup")])
def test_a_ledger_of_a_newer_version_is_not_mixed_with_ours(
    written: Path, also: tuple[str, ...]
) -> None:
    """It is kept aside, whichever version its copy and its backup have; a new ledger starts."""
    newer = written.read_bytes().replace(b'"version": 3', b'"version": 4')
    for path in (written, *(written.with_name(f"{written.name}{suffix}") for suffix in also)):
        path.write_bytes(newer)
    with pytest.warns(LedgerWarning, match=r"has version 4, not 3; a new ledger starts") as caught:
        assert use(JsonFileStorage(written), "read") == [1, 2, 3]
    assert len(caught) == 1
    assert [file.read_bytes() for file in kept_aside(written)] == [newer]
    assert JsonFileStorage(written).read("counter") == {"n": 3}


def test_a_file_damaged_during_a_session_is_kept_too(written: Path) -> None:
    """The kernel continues from its copy."""
    storage = JsonFileStorage(written)
    storage.update("counter", count)
    written.write_bytes(b"garbage")
    with pytest.warns(LedgerWarning, match="is damaged; counting continues from its copy"):
        assert storage.update("counter", count) == 3
    assert [file.read_bytes() for file in kept_aside(written)] == [b"garbage"]


# --- the older package's file


def older_file(path: Path, reset: str, updated: str) -> bytes:
    def entry(key: str, limit: str, value: int, used: float) -> dict[str, Any]:
        return {
            "provider": "groq",
            "api_key_id": key,
            "limit_type": limit,
            "limit_value": value,
            "used_value": used,
            "reset_time": reset,
            "last_updated": updated,
        }

    content = {
        "groq": {
            f"{key}_{limit}": entry(key, limit, value, used)
            for key, limit, value, used in (
                ("groq_key_1", "tokens_per_day", 100_000, 40_000),
                ("groq_key_1", "requests_per_day", 1000, 7),
                ("groq_key_2", "requests_per_day", 1000, 900.0),
            )
        }
    }
    data = json.dumps(content, indent=2).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


LIMITS = [Limit("requests", "day", 1000, "bucket"), Limit("tokens", "day", 200_000, "bucket")]


@pytest.mark.parametrize("naive", [False, True])
def test_counts_of_the_older_package_are_converted(path: Path, naive: bool) -> None:
    """Each count goes to its key and limit with its time; times without a zone are local."""

    def moment(seconds: float) -> str:
        aware = utc(seconds)
        return (aware.astimezone().replace(tzinfo=None) if naive else aware).isoformat()

    data = older_file(path, moment(NOON + 40_000), moment(NOON - 8640))
    configuration = custom_configuration(LIMITS, clock=Clock(NOON))
    with pytest.warns(LedgerWarning, match="older layout"):
        tracker = QuotaTracker(JsonFileStorage(path, older_documents), configuration)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        later = QuotaTracker(JsonFileStorage(path, older_documents), configuration)
    for ledger in (tracker, later):
        summary = ledger.get_usage_summary("groq")["groq"]
        # A tenth of a day has refilled since then.
        assert summary["groq_key_1"]["tokens_per_day"]["used"] == pytest.approx(20_000, abs=1)
        assert summary["groq_key_1"]["requests_per_day"]["used"] == 0
        assert summary["groq_key_2"]["requests_per_day"]["used"] == pytest.approx(800, abs=0.1)
    assert [file.read_bytes() for file in kept_aside(path)] == [data]


def test_older_counts_of_past_days_are_not_converted(path: Path) -> None:
    """They have been reset since then."""
    older_file(path, utc(NOON - 10).isoformat(), utc(NOON - 20).isoformat())
    with pytest.warns(LedgerWarning, match="older layout"):
        tracker = QuotaTracker(
            JsonFileStorage(path, older_documents),
            custom_configuration(LIMITS, clock=Clock(NOON)),
        )
    assert tracker.get_usage_summary("groq")["groq"]["groq_key_2"]["requests_per_day"]["used"] == 0


def test_older_counts_are_converted_once(path: Path) -> None:
    """Only one kernel converts them, and later usage is kept."""
    older_file(path, utc(NOON + 40_000).isoformat(), utc(NOON).isoformat())
    configuration = custom_configuration(LIMITS, clock=Clock(NOON))
    with pytest.warns(LedgerWarning):
        first = QuotaTracker(JsonFileStorage(path, older_documents), configuration)
    hold = first.hold(a_route(configuration), ask())
    assert isinstance(hold, Hold)
    first.settle(Settlement(hold, Usage(500, 500)))
    second = QuotaTracker(JsonFileStorage(path, older_documents), configuration)
    row = second.get_usage_summary("groq")["groq"]["groq_key_1"]["tokens_per_day"]
    assert row["used"] == 41_000


# --- disks that fail


def directory_in_place_of_the_file(tmp_path: Path) -> Path:
    (tmp_path / "ledger.json").mkdir()
    return tmp_path / "ledger.json"


def file_in_place_of_the_directory(tmp_path: Path) -> Path:
    (tmp_path / "outputs").write_text("a file")
    return tmp_path / "outputs" / "ledger.json"


def directory_in_place_of_the_lock(tmp_path: Path) -> Path:
    (tmp_path / "ledger.json.lock").mkdir()
    return tmp_path / "ledger.json"


@pytest.mark.parametrize(
    "spoil",
    [
        directory_in_place_of_the_file,
        file_in_place_of_the_directory,
        directory_in_place_of_the_lock,
    ],
)
@pytest.mark.parametrize("first", ["read", "update"])
def test_a_failing_disk_gives_one_warning_and_calls_continue(
    tmp_path: Path, spoil: Callable[[Path], Path], first: str
) -> None:
    """The process continues to count in memory."""
    storage = JsonFileStorage(spoil(tmp_path))
    with pytest.warns(LedgerWarning, match="counting in memory") as caught:
        seen = use(storage, first)
    assert seen == [1, 2, 3]
    assert storage.read("counter") == {"n": 3}
    (warning,) = caught
    # Python prints the line of code at this place below the warning; here is none.
    assert (warning.filename, warning.lineno) == ("arche_magic", 0)


def test_counts_are_kept_when_a_disk_fails_later(written: Path) -> None:
    """Counting continues in memory from the counts read before."""
    storage = JsonFileStorage(written)
    storage.update("counter", count)
    written.unlink()
    written.mkdir()
    with pytest.warns(LedgerWarning, match="counting in memory"):
        assert storage.update("counter", count) == 3
    assert storage.read("counter") == {"n": 3}


def test_a_folder_in_place_of_the_ledger_need_not_be_deleted(tmp_path: Path) -> None:
    """`ARCHE_QUOTA_STORE=/tmp` is a mistake; the folder may contain anything."""
    with pytest.warns(LedgerWarning, match="is a folder; use another path") as caught:
        JsonFileStorage(tmp_path).update("counter", count)
    assert "delete" not in str(caught[0].message)


# --- opening


def test_opening_a_location_again_keeps_its_counts(tmp_path: Path) -> None:
    """`get_quota_tracker` resets nothing."""
    configuration = custom_configuration(LIMITS)
    location = str(tmp_path / "ledger.json")
    assert open_storage(location) is open_storage(location)
    assert open_storage("memory://one") is not open_storage("memory://two")
    tracker = get_quota_tracker(configuration)
    assert get_quota_tracker(configuration).storage is tracker.storage


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts files in /proc")
def test_a_kernel_with_many_ledgers_keeps_few_files_open(tmp_path: Path) -> None:
    """Many folders and sandboxes in one session do not lead to too many open files."""
    open_files = Path("/proc/self/fd")
    before = len(list(open_files.iterdir()))
    first = open_storage(str(tmp_path / "first.json"))
    for number in range(100):
        open_storage(str(tmp_path / f"{number}.json")).update("counter", count)
    assert len(list(open_files.iterdir())) - before < 50
    assert first.update("counter", count) == 1


@pytest.mark.parametrize(
    "location", ["ftp://host/ledger", "redis+sentinel://host/0", "redis+cluster://host/0"]
)
def test_an_unknown_kind_of_location_is_refused(location: str) -> None:
    """The message says what is possible."""
    with pytest.raises(ValueError, match=r"Sentinel and Cluster are not supported\) or memory://"):
        open_storage(location)
