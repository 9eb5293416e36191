"""Time from a deadline or an interrupt to the end; for an idle machine.

    python tests/bench/promptness.py

Runs the tests that measure it, which allow more time on a busy machine, and checks the promises
exactly.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import promptness  # noqa: E402  # the path


def main() -> int:
    """Print the measured times; the exit status is 1 if a promise was broken."""
    files = [f for f in sorted(TESTS.rglob("test_*.py")) if "promptness import" in f.read_text()]
    failed = pytest.main(["-p", "no:cacheprovider", *map(str, files)])
    for what, promised in promptness.PROMISED.items():
        seconds = promptness.measured[what]
        if not seconds:
            print(f"{what}: not measured")
            continue
        print(
            f"{what + ':':14} {len(seconds):3} times, ended {statistics.median(seconds):.3f} s"
            f" after, at most {max(seconds):.3f} s; promised {promised} s"
        )
        failed |= max(seconds) > promised
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
