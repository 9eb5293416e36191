"""A kernel killed while it writes: the file always loads, and nothing that was told is lost."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from arche_magic.llm_providers.storage import JsonFileStorage

# Several pages long, so that a write can be cut in its middle; each update changes all of it.
WRITER = """
import sys
from pathlib import Path
from arche_magic.llm_providers.storage import JsonFileStorage

storage = JsonFileStorage(Path(sys.argv[1]))

def count(document):
    document["n"] = document.get("n", 0) + 1
    document["pages"] = [document["n"]] * 20_000
    return document["n"]

while True:
    print(storage.update("counter", count), flush=True)
"""
KILLS = 60


@pytest.mark.skipif(sys.platform == "win32", reason="kills with a signal")
def test_a_killed_writer_loses_nothing_it_has_told(tmp_path: Path) -> None:
    """Killed at any moment, sixty times over; the next reader and writer go on where it was."""
    path = tmp_path / "ledger.json"
    generator = random.Random(7)
    told = 0
    for _ in range(KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        line = writer.stdout.readline()
        time.sleep(generator.uniform(0, 0.02))
        writer.send_signal(signal.SIGKILL)
        lines = [line, *writer.stdout.readlines()]
        writer.wait()
        told = max(told, *(int(line) for line in lines if line.endswith("\n")))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            document = JsonFileStorage(path).read("counter")
        # The one change under way may have been written and not told.
        assert told <= document["n"] <= told + 1
        assert set(document["pages"]) == {document["n"]}
        told = document["n"]
    assert told > KILLS
