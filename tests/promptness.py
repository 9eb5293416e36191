"""Promised times. Tests check them loosely, because the machine may be busy.

`python tests/bench/promptness.py` runs only these tests and checks each promise exactly.
"""

from __future__ import annotations

# In seconds: the end of a request after its `timeout=`, the end after an interrupt in a kernel or a
# terminal, and the visible effect of Stop in JupyterLab.
PROMISED = {"a deadline": 0.5, "an interrupt": 0.3, "Stop": 1.0}
BUSY = 4
measured: dict[str, list[float]] = {what: [] for what in PROMISED}


def in_time(what: str, seconds: float) -> None:
    """Record the delay, and fail if it is longer than a busy machine explains."""
    measured[what].append(seconds)
    assert seconds < BUSY * PROMISED[what], f"{seconds:.2f} s after {what}"
