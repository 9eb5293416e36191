"""Promises of time. A test bounds them loosely, since it may share its machine with much else.

`python tests/bench/promptness.py` runs those tests by themselves, and holds each promise to the
letter.
"""

from __future__ import annotations

# In seconds: how long after its `timeout=` a request may end, how soon an interrupt is felt in a
# kernel or a terminal, and how soon a press of Stop is seen to act in JupyterLab.
PROMISED = {"a deadline": 0.5, "an interrupt": 0.3, "Stop": 1.0}
BUSY = 5
measured: dict[str, list[float]] = {what: [] for what in PROMISED}


def in_time(what: str, seconds: float) -> None:
    """Note how long after something its end came, and refuse what no busy machine explains."""
    measured[what].append(seconds)
    assert seconds < BUSY * PROMISED[what], f"{seconds:.2f} s after {what}"
