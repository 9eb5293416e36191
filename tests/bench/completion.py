"""The time of Tab completion: `python tests/bench/completion.py` only prints it.

Measured from outside, from a frontend's request to the kernel's answer, in fresh kernels.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "notebook"))

from notebook_kernel import Kernel

LINES = {
    "options": "%%llm --",
    "providers": "%%llm -p ",
    "models": "%%llm -p groq -m ",
    "all models": "%%llm -m ",
    "subcommands": "%llm_keys ",
    "variables": "%%llm\n{{",
}
STARTS, TIMES = 5, 30


def tab(kernel: Kernel, line: str) -> float:
    """Milliseconds from Tab at the end of the line to the answer."""
    began = time.perf_counter()
    reply = kernel.client.complete(line, len(line), reply=True, timeout=30)
    milliseconds = 1000 * (time.perf_counter() - began)
    assert reply["content"]["matches"], line
    return milliseconds


def completion() -> None:
    """Print the times of the first and of later completions in a kernel."""
    first, later = [], {name: [] for name in LINES}
    for _ in range(STARTS):
        with TemporaryDirectory() as folder:
            kernel = Kernel(Path(folder))
            try:
                kernel.run("poet = 'Ada'")
                first.append(tab(kernel, LINES["all models"]))
                for _ in range(TIMES):
                    for name, line in LINES.items():
                        later[name].append(tab(kernel, line))
            finally:
                kernel.stop()
    print("Tab to offers, medians (target < 50 ms)")
    print(f"  the first of a kernel {median(first):6.1f} ms (slowest {max(first):.1f})")
    for name, times in later.items():
        print(f"  {name:21} {median(times):6.1f} ms (slowest {max(times):.1f})")


if __name__ == "__main__":
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    completion()
