"""The file of kept replies: lookups, sharing between workers, and disks that fail."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from engine_parts import NOON

from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.reply_cache.store import ReplyStore, reply_store
from arche_magic.llm_providers.storage import LedgerWarning
from arche_magic.llm_providers.tools import ToolCall
from arche_magic.llm_providers.types import Usage, utc

REPLY = Reply(
    "Seven – sept.",
    provider="groq",
    key="groq_key_2",
    model="openai/gpt-oss-120b",
    usage=Usage(31, 8),
    finish_reason="length",
    cost=0.25,
    request="r0123456789ab",
    seconds=1.5,
)


@pytest.fixture
def store(tmp_path: Path) -> ReplyStore:
    return ReplyStore(tmp_path / "outputs" / "llm_replies.sqlite")


def numbered(count: int, start: int = 0) -> list[str]:
    return [f"{number:064x}" for number in range(start, start + count)]


# --- lookups


def test_a_kept_reply_has_the_route_it_came_from(store: ReplyStore) -> None:
    """Text, route, usage, cost and time are those of the original; there are no attempts."""
    store.finish({"a": REPLY}, NOON)
    (kept,) = ReplyStore(store.path).lookup_many(["a", "b"]).values()
    assert kept == REPLY
    assert (kept.provider, kept.key, kept.model) == ("groq", "groq_key_2", "openai/gpt-oss-120b")
    assert (kept.usage, kept.finish_reason, kept.cost) == (Usage(31, 8), "length", 0.25)
    assert (kept.request, kept.seconds) == ("r0123456789ab", 1.5)
    assert kept.from_memory == utc(NOON)
    assert kept.attempts == ()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("more", "[1]"),
        ("more", '{"tool_calls": 5}'),
        ("more", "[" * 100_000),
        ("input_tokens", "many"),
        ("cost_usd", "little"),
        ("created_at", -math.inf),
        ("text", b"\xff"),
    ],
)
def test_a_damaged_row_is_asked_again_and_hides_no_other(
    store: ReplyStore, column: str, value: object
) -> None:
    """Files of replies are passed on, and a job must not wait for such a row forever."""
    store.finish({"a": REPLY, "b": REPLY}, NOON)
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute(f"UPDATE replies SET {column} = ? WHERE address = 'a'", [value])
    assert set(store.lookup_many(["a", "b"])) == {"b"}
    assert store.claim(["a", "b"], "one", NOON, NOON + 60) == {"a"}
    store.finish({"a": REPLY}, NOON)
    assert set(store.lookup_many(["a", "b"])) == {"a", "b"}
    assert store.problem == ""


def test_a_lookup_creates_no_file(store: ReplyStore) -> None:
    """It creates no folder either."""
    assert store.lookup_many(["a"]) == {}
    assert not store.path.parent.exists()


def test_a_newer_reply_replaces_the_older_one(store: ReplyStore) -> None:
    """Each address has one reply."""
    store.finish({"a": REPLY}, NOON)
    store.finish({"a": Reply("newer")}, NOON + 60)
    kept = store.lookup_many(["a"])["a"]
    assert (str(kept), kept.from_memory) == ("newer", utc(NOON + 60))


def test_thousands_of_addresses_are_looked_up_at_once(store: ReplyStore) -> None:
    """More than a statement can take as parameters, and half of them are unknown."""
    known = numbered(30_000)
    store.finish({address: Reply(address[-5:]) for address in known}, NOON)
    found = store.lookup_many([*numbered(20_000, start=20_000)])
    assert list(found) == known[20_000:]
    assert all(found[address] == address[-5:] for address in found)


def test_the_file_is_complete_after_each_change(store: ReplyStore, tmp_path: Path) -> None:
    """A copy taken while the process runs has everything, because there is no second file."""
    store.finish({"a": REPLY}, NOON)
    assert [path.name for path in store.path.parent.iterdir()] == [store.path.name]
    copy = shutil.copy(store.path, tmp_path / "copy.sqlite")
    assert ReplyStore(Path(copy)).lookup_many(["a"]) == {"a": REPLY}


def test_the_file_contains_no_prompt_and_no_key(store: ReplyStore) -> None:
    """All its columns are listed here."""
    store.finish({"a": REPLY}, NOON)
    with closing(sqlite3.connect(store.path)) as connection:
        cursor = connection.execute("SELECT * FROM replies")
        columns = [name for name, *_ in cursor.description]
    assert columns == [
        "address", "text", "provider", "key", "model", "input_tokens", "output_tokens",
        "finish_reason", "cost_usd", "parsed", "created_at", "request", "seconds", "more",
    ]  # fmt: skip


def test_tool_calls_are_kept_with_the_reply(store: ReplyStore) -> None:
    """Even if the reply has no text."""
    calls = (ToolCall("call_1", "get_weather", '{"city": "Oslo"}', "c2ln"), ToolCall("call_2", "f"))
    choices = ({"index": 0, "logprobs": None},)
    store.finish({"a": Reply("", tool_calls=calls, choices=choices)}, NOON)
    kept = store.lookup_many(["a"])["a"]
    assert (kept, kept.tool_calls, kept.choices) == ("", calls, choices)
    assert store.claim(["a"], "one", NOON, NOON + 60) == set()


def test_one_file_has_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Different spellings of a path give the same store."""
    monkeypatch.chdir(tmp_path)
    assert reply_store(Path("r.sqlite")) is reply_store(tmp_path / "r.sqlite")


# --- shared work


def test_a_claimed_row_is_not_asked_by_others(store: ReplyStore) -> None:
    """Rows with a kept reply are not asked by anyone."""
    store.finish({"kept": REPLY}, NOON)
    assert store.claim(["kept", "a", "b", "a"], "one", NOON, NOON + 60) == {"a", "b"}
    assert store.claim(["kept", "b", "c"], "two", NOON, NOON + 60) == {"c"}
    assert store.claim(["b"], "one", NOON + 50, NOON + 110) == {"b"}
    assert store.claim(["b"], "two", NOON + 100, NOON + 160) == set()


def test_the_claim_of_a_killed_worker_expires(store: ReplyStore) -> None:
    """It expires at its time, and not earlier."""
    store.claim(["a"], "one", NOON, NOON + 60)
    assert store.claim(["a"], "two", NOON + 59, NOON + 120) == set()
    assert store.claim(["a"], "two", NOON + 60, NOON + 120) == {"a"}
    assert store.claim(["a"], "one", NOON + 61, NOON + 120) == set()


def test_a_released_claim_is_free(store: ReplyStore) -> None:
    """Only its owner can release it."""
    store.claim(["a", "b"], "one", NOON, NOON + 60)
    store.release(["a"], "two")
    assert store.claim(["a"], "two", NOON, NOON + 60) == set()
    store.release(["a"], "one")
    assert store.claim(["a", "b"], "two", NOON, NOON + 60) == {"a"}


def test_a_finished_claim_is_removed(store: ReplyStore) -> None:
    """Whichever worker finishes it, the reply is there."""
    store.claim(["a", "b"], "one", NOON, NOON + 60)
    store.finish({"a": REPLY, "b": REPLY}, NOON)
    assert store.claim(["a", "b"], "two", NOON + 100, NOON + 160) == set()
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("SELECT count(*) FROM claims").fetchone() == (0,)


WORKER = """
import sys, time
from pathlib import Path
from arche_magic.llm_providers.reply_cache.store import ReplyStore
from arche_magic.llm_providers.reply import Reply

store, owner = ReplyStore(Path(sys.argv[1])), sys.argv[2]
todo = [f"{number:064x}" for number in range(300)]
while todo:
    some, todo = todo[:10], todo[10:]
    for address in store.claim(some, owner, time.time(), time.time() + 60):
        print(address)
        store.finish({address: Reply(owner)}, time.time())
"""


def test_processes_that_share_a_job_ask_each_row_once(store: ReplyStore) -> None:
    """Four processes work on the same rows at a time."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(store.path), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    ended = [worker.communicate(timeout=120) for worker in workers]
    assert [err for _, err in ended] == [""] * 4
    asked = Counter(address for out, _ in ended for address in out.split())
    assert asked == Counter(numbered(300))
    assert len(store.lookup_many(numbered(300))) == 300


def test_threads_share_a_store(store: ReplyStore) -> None:
    """There are no lock errors, and no reply is lost."""

    def work(number: int) -> int:
        found = 0
        for address in numbered(20, start=20 * number):
            store.finish({address: REPLY}, NOON)
            found += len(store.lookup_many([address]))
        return found

    with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("error")
        assert list(pool.map(work, range(8))) == [20] * 8
    assert len(store.lookup_many(numbered(160))) == 160


@pytest.mark.skipif(sys.platform == "win32", reason="does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_can_use_the_store(store: ReplyStore) -> None:
    """The workers of joblib and multiprocessing are forked."""
    store.finish({"a": REPLY}, NOON)
    child = multiprocessing.get_context("fork").Process(
        target=lambda: store.finish({"b": store.lookup_many(["a"])["a"]}, NOON)
    )
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert store.lookup_many(["a", "b"]) == {"a": REPLY, "b": REPLY}


# --- disks that fail


def not_a_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("a user's own notes, put here by mistake" * 100)


def newer_layout(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def other_column(path: Path) -> None:
    ReplyStore(path).finish({"a": REPLY}, NOON)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE replies RENAME COLUMN text TO words")


def file_in_place_of_the_folder(path: Path) -> None:
    path.parent.write_text("a file")


def folder_in_place_of_the_file(path: Path) -> None:
    path.mkdir(parents=True)


@pytest.mark.parametrize(
    "spoil",
    [
        not_a_database,
        newer_layout,
        other_column,
        file_in_place_of_the_folder,
        folder_in_place_of_the_file,
    ],
)
def test_an_unusable_file_gives_one_warning(store: ReplyStore, spoil) -> None:
    """Lookups find nothing, claims are granted, and the existing file is not changed."""
    spoil(store.path)
    before = store.path.read_bytes() if store.path.is_file() else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert store.lookup_many(["a"]) == {}
        store.finish({"a": REPLY}, NOON)
        assert store.claim(["a"], "one", NOON, NOON + 60) == {"a"}
        store.release(["a"], "one")
        assert store.lookup_many(["a"]) == {}
    (warning,) = caught
    assert (warning.category, warning.filename) == (LedgerWarning, "arche_magic")
    assert str(store.path) in str(warning.message)
    assert store.problem in str(warning.message)
    assert (store.path.read_bytes() if store.path.is_file() else None) == before


FULL_DISK = """
import resource, sys, warnings
from pathlib import Path
from arche_magic.llm_providers.reply_cache.store import ReplyStore
from arche_magic.llm_providers.reply import Reply

store = ReplyStore(Path(sys.argv[1]))
store.finish({"a": Reply("kept")}, 1.0)
size = store.path.stat().st_size
sys.dont_write_bytecode = True  # Python 3.11 would leave cut files
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for number in range(3):
        store.finish({f"{number}": Reply("x" * 100_000)}, 1.0)
print(len(caught), *store.lookup_many(["a", "0", "1", "2"]).values())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_kept_replies_survive_a_full_disk(store: ReplyStore) -> None:
    """There is one warning, and no incomplete reply."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(store.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["1", "kept"], done.stderr


READ_ONLY = """
import os, sys, warnings
from pathlib import Path
from arche_magic.llm_providers.reply_cache.store import ReplyStore
from arche_magic.llm_providers.reply import Reply

if os.getuid() == 0:
    os.setuid(65534)  # root may write everywhere
store = ReplyStore(Path(sys.argv[1]))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = store.lookup_many(["a"])
    print(len(caught), *found.values())
    store.finish({"b": Reply("new")}, 1.0)
    store.finish({"b": Reply("new")}, 1.0)
    print(len(caught), *store.lookup_many(["a", "b"]).values())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has other permissions")
def test_a_read_only_file_can_be_read() -> None:
    """It may be in someone else's checkout. Keeping more replies gives one warning."""
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "llm_replies.sqlite"
        ReplyStore(path).finish({"a": Reply("kept")}, NOON)
        path.chmod(0o444)
        folder.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(path)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert done.stdout.splitlines() == ["0 kept", "1 kept"], done.stderr
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_lone_surrogate_is_replaced_in_the_file(store: ReplyStore) -> None:
    """A model's invalid JSON can contain half a surrogate pair, which no file can hold."""
    store.finish({"a": Reply("cut \ud83d")}, NOON)
    assert store.lookup_many(["a"]) == {"a": "cut \ufffd"}
