"""Another process that holds the lock of a ledger, as a stopped kernel would."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLD_THE_LOCK = """
import fcntl, sys, time
lock = open(sys.argv[1], "a")
fcntl.flock(lock, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


@contextmanager
def locked(ledger: Path | str) -> Iterator[subprocess.Popen[str]]:
    """Hold the lock of that ledger; yields the process, which a test may kill."""
    command = [sys.executable, "-c", HOLD_THE_LOCK, f"{ledger}.lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            process.kill()
