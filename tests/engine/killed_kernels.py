"""Kills kernels repeatedly: `python killed_kernels.py FOLDER KILLS write|calls|replies`.

Processes are forked, so that a kill costs milliseconds. After each kill, the program reads the
files as the next kernel would. It prints the result as JSON, and exits with an error if data was
lost.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from engine_parts import Clock, a_route, ask, custom_configuration, used

from arche_magic.llm_providers.attempt_log import AttemptLog
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker, Settlement
from arche_magic.llm_providers.reply import Attempt, Reply
from arche_magic.llm_providers.reply_cache.store import ReplyStore
from arche_magic.llm_providers.storage import JsonFileStorage
from arche_magic.llm_providers.storage.ledger_file import parse
from arche_magic.llm_providers.types import Limit, Usage

# The first of a month. Each kill moves the clock on by twenty minutes, so that all holds end.
BEGIN, BETWEEN_KILLS = 1_764_590_000.0, 1200.0
MONTH = Limit("requests", "month", 1e9, "calendar", evidence="configured")
PAGES = 20_000
LONG = Reply("x" * 9000)
ADDRESSES = [f"{number:064x}" for number in range(6000)]


def count(document: dict[str, Any]) -> int:
    """Several pages long, so that a write can be cut in the middle; each change rewrites all."""
    document["n"] = document.get("n", 0) + 1
    document["pages"] = [document["n"]] * PAGES
    return int(document["n"])


def write_on(folder: Path, _number: int) -> None:
    storage = JsonFileStorage(folder / "ledger.json")
    with (folder / "told").open("ab", buffering=0) as told:
        while True:
            storage.update("counter", count)
            told.write(b".")


def call_on(folder: Path, number: int) -> None:
    """Hold, call, settle, record the attempt; the server counts in its own file."""
    tracker = tracker_of(folder, number)
    log = AttemptLog(folder / "llm_calls.jsonl")
    route = a_route(tracker.configuration)
    with (folder / "told").open("ab", buffering=0) as server:
        while True:
            hold = tracker.hold(route, ask())
            if isinstance(hold, Hold):
                server.write(b".")
                tracker.settle(Settlement(hold, Usage(5, 5)))
                log.append([Attempt("groq", "groq_key_1", "model-a", "served", at=time.time())])


def keep_on(folder: Path, _number: int) -> None:
    """Keep three replies of several pages with each change."""
    store = ReplyStore(folder / "replies.sqlite")
    with (folder / "told").open("ab", buffering=0) as told:
        while True:
            first = len(store.lookup_many(ADDRESSES))
            store.finish(dict.fromkeys(ADDRESSES[first : first + 3], LONG), BEGIN)
            told.write(b"...")


def tracker_of(folder: Path, number: int) -> QuotaTracker:
    clock = Clock(BEGIN + number * BETWEEN_KILLS)
    configuration = custom_configuration([MONTH], clock=clock)
    return QuotaTracker(JsonFileStorage(folder / "ledger.json"), configuration)


def told(folder: Path) -> int:
    return (folder / "told").stat().st_size if (folder / "told").exists() else 0


def check_written(folder: Path, number: int) -> None:
    document = JsonFileStorage(folder / "ledger.json").read("counter")
    # At each kill, the last change may have been written without being reported.
    assert told(folder) <= document.get("n", 0) <= told(folder) + number + 1, document.get("n")
    assert set(document.get("pages", ())) <= {document.get("n")}


def check_called(folder: Path, number: int) -> None:
    tracker = tracker_of(folder, number + 1)
    counted = used(tracker, limit="requests_per_month")
    # An unsettled hold counts, whether or not its call was sent: up to two for each kill.
    assert told(folder) <= counted <= told(folder) + 2 * (number + 1), counted
    held = tracker.hold(a_route(tracker.configuration), ask())
    assert isinstance(held, Hold), held
    tracker.fail(held, failure())
    backup = folder / "ledger.json.backup"
    if backup.exists():
        assert parse(backup.read_bytes()) is not None, "the backup is torn"
        # If it is missing, the next kernel writes it.
        backup.unlink()
    attempts = list(AttemptLog(folder / "llm_calls.jsonl").since(0))
    assert len(attempts) <= told(folder)


def check_kept(folder: Path, number: int) -> None:
    kept = ReplyStore(folder / "replies.sqlite").lookup_many(ADDRESSES)
    # A change is complete or missing. At each kill, one may be kept without being reported.
    assert len(kept) % 3 == 0, len(kept)
    assert told(folder) <= len(kept) <= told(folder) + 3 * (number + 1), len(kept)
    assert set(kept.values()) <= {LONG}


def failure() -> Any:
    from arche_magic.llm_providers.provider_failure import ProviderFailure, Remedy

    return ProviderFailure("not sent", Remedy.FIX_REQUEST)


def await_progress(folder: Path) -> None:
    """Before half of the kills, wait until work has begun; the others come at any moment."""
    before, deadline = told(folder), time.monotonic() + 60
    while told(folder) == before:
        assert time.monotonic() < deadline, "the kernels are stuck"
        time.sleep(0.001)


def kill_over_and_over(folder: Path, kills: int, what: str) -> dict[str, int]:
    work, check = {
        "write": (write_on, check_written),
        "calls": (call_on, check_called),
        "replies": (keep_on, check_kept),
    }[what]
    generator = random.Random(7)
    for number in range(kills):
        kernels = []
        for _ in range(2 if what == "calls" else 1):
            kernel = os.fork()
            if not kernel:
                try:
                    work(folder, number)
                finally:
                    os._exit(1)
            kernels.append(kernel)
        if number % 2:
            await_progress(folder)
        time.sleep(generator.uniform(0.0, 0.03))
        for kernel in kernels:
            os.kill(kernel, signal.SIGKILL)
            _, status = os.waitpid(kernel, 0)
            assert os.WIFSIGNALED(status), "a kernel ended by itself"
        check(folder, number)
    return {"kills": kills * len(kernels), "told": told(folder)}


if __name__ == "__main__":
    warnings.simplefilter("error")
    print(json.dumps(kill_over_and_over(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
