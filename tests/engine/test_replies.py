"""Kept replies in their file: found again, shared by many workers, never in the way of a call."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.reply_cache.store import ReplyStore, reply_store
from arche_magic.llm_providers.storage import LedgerWarning
from arche_magic.llm_providers.tools import ToolCall
from arche_magic.llm_providers.types import Usage, utc

NOON = 1_763_380_800.0
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


# --- found again


def test_a_reply_comes_back_with_the_route_it_came_from(store: ReplyStore) -> None:
    """Text, route, usage and cost of then; when it was given; and no attempt, none being made."""
    store.finish({"a": REPLY}, NOON)
    (kept,) = ReplyStore(store.path).lookup_many(["a", "b"]).values()
    assert kept == REPLY
    assert (kept.provider, kept.key, kept.model) == ("groq", "groq_key_2", "openai/gpt-oss-120b")
    assert (kept.usage, kept.finish_reason, kept.cost) == (Usage(31, 8), "length", 0.25)
    assert (kept.request, kept.seconds) == ("r0123456789ab", 1.5)
    assert kept.from_memory == utc(NOON)
    assert kept.attempts == ()


def test_a_file_of_an_earlier_version_is_read_and_extended(store: ReplyStore) -> None:
    """Its replies have no request; the first new reply adds the columns, and keeps the others."""
    store.finish({"a": REPLY}, NOON)
    with closing(sqlite3.connect(store.path)) as connection, connection:
        for name in ("request", "seconds", "more"):
            connection.execute(f"ALTER TABLE replies DROP COLUMN {name}")
    assert store.lookup_many(["a"])["a"].request == ""
    store.finish({"b": REPLY}, NOON)
    requests = {address: kept.request for address, kept in store.lookup_many(["a", "b"]).items()}
    assert requests == {"a": "", "b": "r0123456789ab"}


def test_nothing_is_written_before_a_reply_is_kept(store: ReplyStore) -> None:
    """Looking up makes no file and no folder."""
    assert store.lookup_many(["a"]) == {}
    assert not store.path.parent.exists()


def test_a_newer_reply_takes_the_place_of_the_older(store: ReplyStore) -> None:
    """One address, one reply."""
    store.finish({"a": REPLY}, NOON)
    store.finish({"a": Reply("newer")}, NOON + 60)
    kept = store.lookup_many(["a"])["a"]
    assert (str(kept), kept.from_memory) == ("newer", utc(NOON + 60))


def test_thousands_are_looked_up_at_once(store: ReplyStore) -> None:
    """More addresses than a statement takes parameters, half of them unknown."""
    known = numbered(30_000)
    store.finish({address: Reply(address[-5:]) for address in known}, NOON)
    found = store.lookup_many([*numbered(20_000, start=20_000)])
    assert list(found) == known[20_000:]
    assert all(found[address] == address[-5:] for address in found)


def test_the_file_is_whole_after_each_change(store: ReplyStore, tmp_path: Path) -> None:
    """A copy taken while the process runs holds everything: there is no second file beside it."""
    store.finish({"a": REPLY}, NOON)
    assert [path.name for path in store.path.parent.iterdir()] == [store.path.name]
    copy = shutil.copy(store.path, tmp_path / "copy.sqlite")
    assert ReplyStore(Path(copy)).lookup_many(["a"]) == {"a": REPLY}


def test_the_file_holds_no_prompt_and_no_key(store: ReplyStore) -> None:
    """Its columns, in full."""
    store.finish({"a": REPLY}, NOON)
    with closing(sqlite3.connect(store.path)) as connection:
        cursor = connection.execute("SELECT * FROM replies")
        columns = [name for name, *_ in cursor.description]
    assert columns == [
        "address", "text", "provider", "key", "model", "input_tokens", "output_tokens",
        "finish_reason", "cost_usd", "parsed", "created_at", "request", "seconds", "more",
    ]  # fmt: skip


def test_calls_of_tools_are_kept_with_the_reply(store: ReplyStore) -> None:
    """Also where the reply has no text, and in a file that earlier versions made."""
    calls = (ToolCall("call_1", "get_weather", '{"city": "Oslo"}', "c2ln"), ToolCall("call_2", "f"))
    store.finish({"old": REPLY}, NOON)
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("ALTER TABLE replies DROP COLUMN more")
    assert store.lookup_many(["old"])["old"] == REPLY
    choices = ({"index": 0, "logprobs": None},)
    store.finish({"new": Reply("", tool_calls=calls, choices=choices)}, NOON)
    kept = store.lookup_many(["new"])["new"]
    assert (kept, kept.tool_calls, kept.choices) == ("", calls, choices)
    assert store.claim(["new", "old"], "one", NOON, NOON + 60) == set()


def test_asking_again_for_a_file_gives_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However its path is written."""
    monkeypatch.chdir(tmp_path)
    assert reply_store(Path("r.sqlite")) is reply_store(tmp_path / "r.sqlite")


# --- shared work


def test_what_one_worker_has_claimed_others_leave_alone(store: ReplyStore) -> None:
    """And what is kept nobody needs to ask."""
    store.finish({"kept": REPLY}, NOON)
    assert store.claim(["kept", "a", "b", "a"], "one", NOON, NOON + 60) == {"a", "b"}
    assert store.claim(["kept", "b", "c"], "two", NOON, NOON + 60) == {"c"}
    assert store.claim(["b"], "one", NOON + 50, NOON + 110) == {"b"}
    assert store.claim(["b"], "two", NOON + 100, NOON + 160) == set()


def test_the_claim_of_a_worker_that_died_runs_out(store: ReplyStore) -> None:
    """At its time, and not before."""
    store.claim(["a"], "one", NOON, NOON + 60)
    assert store.claim(["a"], "two", NOON + 59, NOON + 120) == set()
    assert store.claim(["a"], "two", NOON + 60, NOON + 120) == {"a"}
    assert store.claim(["a"], "one", NOON + 61, NOON + 120) == set()


def test_a_claim_given_up_is_free(store: ReplyStore) -> None:
    """By its owner alone."""
    store.claim(["a", "b"], "one", NOON, NOON + 60)
    store.release(["a"], "two")
    assert store.claim(["a"], "two", NOON, NOON + 60) == set()
    store.release(["a"], "one")
    assert store.claim(["a", "b"], "two", NOON, NOON + 60) == {"a"}


def test_a_finished_claim_leaves_nothing_behind(store: ReplyStore) -> None:
    """Whoever finishes it: the reply is there."""
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
    """Four at a time on the same rows."""
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
    """No lock error, nothing lost."""

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
def test_a_forked_process_uses_it_too(store: ReplyStore) -> None:
    """As joblib and multiprocessing start their workers."""
    store.finish({"a": REPLY}, NOON)
    child = multiprocessing.get_context("fork").Process(
        target=lambda: store.finish({"b": store.lookup_many(["a"])["a"]}, NOON)
    )
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert store.lookup_many(["a", "b"]) == {"a": REPLY, "b": REPLY}


KEEPER = """
import sys
from pathlib import Path
from arche_magic.llm_providers.reply_cache.store import ReplyStore
from arche_magic.llm_providers.reply import Reply

store = ReplyStore(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    store.finish({f"{number + n:064x}": Reply("x" * 9000) for n in range(3)}, 1.0)
    number += 3
    print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills with a signal")
def test_a_killed_process_loses_nothing_it_has_kept(store: ReplyStore) -> None:
    """Killed at any moment, thirty times over, in the middle of changes of several pages."""
    generator = random.Random(7)
    kept = 0
    for _ in range(30):
        keeper = subprocess.Popen(
            [sys.executable, "-c", KEEPER, str(store.path), str(kept)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert keeper.stdout is not None
        line = keeper.stdout.readline()
        time.sleep(generator.uniform(0, 0.02))
        keeper.send_signal(signal.SIGKILL)
        lines = [line, *keeper.stdout.readlines()]
        keeper.wait()
        kept = max(int(line) for line in lines if line.endswith("\n"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = store.lookup_many(numbered(kept + 3))
        # Of the change under way, all or nothing.
        assert len(found) in (kept, kept + 3)
        kept = len(found)
    assert kept > 90


# --- disks that refuse


def not_a_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("a user's own notes, put here by mistake" * 100)


def newer_layout(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def file_in_place_of_the_folder(path: Path) -> None:
    path.parent.write_text("a file")


def folder_in_place_of_the_file(path: Path) -> None:
    path.mkdir(parents=True)


@pytest.mark.parametrize(
    "spoil",
    [not_a_database, newer_layout, file_in_place_of_the_folder, folder_in_place_of_the_file],
)
def test_a_file_that_cannot_be_used_costs_one_warning(store: ReplyStore, spoil) -> None:
    """Lookups find nothing, claims are granted, and what lies there is left as it is."""
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
    assert warning.category is LedgerWarning
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
def test_on_a_full_disk_what_was_kept_stays(store: ReplyStore) -> None:
    """One warning, and no half-written reply."""
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
def test_a_read_only_file_is_read() -> None:
    """As in a checkout of somebody else's project; keeping more costs one warning."""
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


def test_a_text_that_no_file_takes_is_kept_with_a_mark_in_its_place(store: ReplyStore) -> None:
    """Half a surrogate pair, as a model's broken JSON can hold one."""
    store.finish({"a": Reply("cut \ud83d")}, NOON)
    assert store.lookup_many(["a"]) == {"a": "cut \ufffd"}
