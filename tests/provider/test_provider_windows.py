"""Services with other windows than the catalog says: a job keeps to their real rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from provider_parts import PROVIDERS, server_count

from arche_magic.llm_providers import get_llm_provider

if TYPE_CHECKING:
    from provider_parts import Clock, Start

    from arche_magic.sandbox import Sandbox

KINDS = ("bucket", "rolling", "calendar", "fixed")
PER_MINUTE, ROWS = 10, 100


def run_job(sandbox: Sandbox, name: str, clock: Clock, pause: float) -> tuple[float, int]:
    """Seconds from start to end with a pause after each row, and the number of refused requests."""
    provider = get_llm_provider(name)
    began = clock.now
    for number in range(ROWS):
        provider.generate(f"Row {number}", max_tokens=100, patience=1e5, timeout=1e6)
        clock.sleep(pause)
    return clock.now - began, server_count(sandbox, "refused")


# Seconds per call, and the second of the minute in which the job begins.
BEGINNINGS = {"burst": (0.0, 0), "late burst": (0.0, 47), "steady": (2.9, 47)}
# Each provider is tried with each kind of window and each start, and each kind with each start.
CASES = [
    (name, kind, list(BEGINNINGS)[(row + column) % len(BEGINNINGS)])
    for row, name in enumerate(PROVIDERS)
    for column, kind in enumerate(KINDS)
]


@pytest.mark.parametrize(("name", "kind", "beginning"), CASES)
def test_a_job_continues_at_the_real_rate_after_a_refusal(
    start: Start, clock: Clock, name: str, kind: str, beginning: str
) -> None:
    """This holds for any window and two accounts, with few refusals."""
    seconds_per_call, begins = BEGINNINGS[beginning]
    clock.now += begins
    limits: dict[str, dict[str, Any]] = {
        name: {"requests_per_minute": PER_MINUTE, "requests_per_day": None}
    }
    sandbox = start(keys={name: 2}, clock=clock, windows={name: kind}, limits=limits)
    seconds, refused = run_job(sandbox, name, clock, seconds_per_call)
    at_best = max(60 * (ROWS / (2 * PER_MINUTE) - 1), ROWS * seconds_per_call)
    assert seconds <= at_best + 62
    assert refused <= 6
