"""While another process holds the lock, reads do not wait, and changes wait until a deadline."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engine_parts import NOON, Clock, a_route, ask, custom_configuration
from lock_holder import locked
from promptness import in_time

from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker, Settlement, older_documents
from arche_magic.llm_providers.storage import (
    JsonFileStorage,
    StorageTimeout,
    lock_deadline,
)
from arche_magic.llm_providers.types import Limit, Observation, Usage, utc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks there are not flock's")


@contextmanager
def at_once() -> Iterator[None]:
    """Checks that the block takes almost no time."""
    began = time.monotonic()
    yield
    in_time("a deadline", time.monotonic() - began)


def count(document: dict[str, Any]) -> int:
    document["n"] = document.get("n", 0) + 1
    return int(document["n"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "ledger.json"


def test_a_change_waits_for_a_lock_until_its_deadline(path: Path) -> None:
    """At the deadline it raises an error and changes nothing.

    Without a deadline, it keeps waiting.
    """
    storage = JsonFileStorage(path)
    storage.update("counter", count)
    with locked(path) as process:
        began = time.monotonic()
        with lock_deadline(0.3), pytest.raises(StorageTimeout, match="is locked by another"):
            storage.update("counter", count)
        assert time.monotonic() - began >= 0.3
        in_time("a deadline", time.monotonic() - began - 0.3)
        assert storage.read("counter") == {"n": 1}
        threading.Timer(0.3, process.kill).start()
        assert storage.update("counter", count) == 2


def test_reading_does_not_wait_for_a_lock(path: Path) -> None:
    """Another process may hold the lock, and a thread of this process may wait for it."""
    storage = JsonFileStorage(path)
    storage.update("counter", count)
    with locked(path) as process:
        waiting = threading.Thread(target=storage.update, args=("counter", count))
        waiting.start()
        time.sleep(0.05)
        with at_once():
            assert storage.read("counter") == {"n": 1}
            assert JsonFileStorage(path).read("counter") == {"n": 1}
        process.kill()
        waiting.join(10)
    assert storage.read("counter") == {"n": 2}


def test_a_partly_written_file_under_a_lock_is_read_from_its_copy(path: Path) -> None:
    """Its writer was stopped and may continue, so nothing is repaired."""
    storage = JsonFileStorage(path)
    for _ in range(2):
        storage.update("counter", count)
    half = path.read_bytes()[:40]
    path.write_bytes(half)
    with locked(path), at_once():
        assert storage.read("counter") == {"n": 2}
        assert JsonFileStorage(path).read("counter") == {"n": 2}
        assert path.read_bytes() == half
    assert storage.read("counter") == {"n": 2}
    assert json.loads(path.read_bytes())["documents"] == {"counter": {"n": 2}}


def test_threads_read_while_another_thread_changes(path: Path) -> None:
    """They get the documents from before the change, all in their state at one moment."""
    storage = JsonFileStorage(path)
    storage.update("counter", count)
    inside, go_on = threading.Event(), threading.Event()

    def slowly(one: dict[str, Any], two: dict[str, Any]) -> None:
        count(one)
        count(two)
        inside.set()
        go_on.wait(10)

    change = threading.Thread(target=storage.update, args=("counter", slowly, "other"))
    change.start()
    inside.wait(10)
    with at_once():
        assert storage.read_all("counter", "other") == [{"n": 1}, {}]
    go_on.set()
    change.join(10)
    assert storage.read_all("counter", "other") == [{"n": 2}, {"n": 1}]


def test_reading_waits_one_second_for_a_disk_that_hangs(
    network_drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may be a network drive. Reading then returns the counts that were read last."""
    path = network_drive / "ledger.json"
    storage = JsonFileStorage(path)
    storage.update("counter", count)
    JsonFileStorage(path).update("counter", count)
    hangs, stat = threading.Event(), os.stat

    def hang(name: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if os.fspath(name) == str(path) and not hangs.is_set():
            hangs.wait(30)
        return stat(name, *arguments, **options)

    monkeypatch.setattr(os, "stat", hang)
    began = time.monotonic()
    assert storage.read("counter") == {"n": 1}
    in_time("a deadline", time.monotonic() - began - 1.0)
    with at_once():
        assert [storage.read("counter") for _ in range(10)] == [{"n": 1}] * 10
    hangs.set()
    ends = time.monotonic() + 10
    while storage.read("counter") != {"n": 2}:
        assert time.monotonic() < ends
        time.sleep(0.01)


LIMITS = [Limit("requests", "day", 1000, "bucket"), Limit("tokens", "day", 200_000, "bucket")]


def spend(tracker: QuotaTracker, account: str | None = None) -> None:
    """One call with a hundred tokens."""
    hold = tracker.hold(a_route(tracker.configuration), ask())
    assert isinstance(hold, Hold)
    seen = [Observation("requests_per_day", 1000, 990, None, "header")]
    tracker.settle(Settlement(hold, Usage(50, 50), seen, account))


LOOKS: list[Callable[[QuotaTracker], object]] = [
    lambda tracker: tracker.get_usage_summary(),
    lambda tracker: tracker.standings(),
    lambda tracker: tracker.state(a_route(tracker.configuration), ask(), NOON),
    lambda tracker: tracker.shared_keys(),
    lambda tracker: tracker.closure(tracker.configuration.keys[0]),
    lambda tracker: tracker.account(tracker.configuration.keys[0]),
    lambda tracker: tracker.budget(),
    lambda tracker: tracker.estimate(a_route(tracker.configuration), ask()),
]


@pytest.mark.parametrize("account", [None, "org_1"])
def test_a_new_kernel_can_read_a_locked_ledger(path: Path, account: str | None) -> None:
    """Even if a key's counts are in its account's document, and some calls never ended."""
    clock = Clock(NOON)
    configuration = custom_configuration(LIMITS, clock=clock)
    tracker = QuotaTracker(JsonFileStorage(path), configuration)
    spend(tracker, account)
    assert isinstance(tracker.hold(a_route(configuration), ask()), Hold)
    clock.sleep(10_000)
    with locked(path):
        for ledger in (QuotaTracker(JsonFileStorage(path), configuration), tracker):
            for look in LOOKS:
                with at_once():
                    look(ledger)
            row = ledger.get_usage_summary()["groq"]["groq_key_1"]["requests_per_day"]
            # The call that never ended counts; what was used before has refilled.
            assert row["used"] == 1


def test_older_counts_are_converted_later_if_the_ledger_is_locked(path: Path) -> None:
    """They are not lost."""
    path.parent.mkdir()
    entry = {
        "provider": "groq",
        "api_key_id": "groq_key_1",
        "limit_type": "requests_per_day",
        "limit_value": 1000,
        "used_value": 7,
        "reset_time": "2100-01-01T00:00:00+00:00",
        "last_updated": utc(NOON).isoformat(),
    }
    older = {"groq": {"groq_key_1_requests_per_day": entry}}
    path.write_text(json.dumps(older))
    configuration = custom_configuration(LIMITS, clock=Clock(NOON))
    with pytest.warns(UserWarning, match="older layout"):
        JsonFileStorage(path, older_documents).read("older counts")
    with locked(path):
        QuotaTracker(JsonFileStorage(path, older_documents), configuration)
    tracker = QuotaTracker(JsonFileStorage(path, older_documents), configuration)
    assert tracker.get_usage_summary()["groq"]["groq_key_1"]["requests_per_day"]["used"] == 7
