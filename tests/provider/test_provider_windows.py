"""Services that count otherwise than the catalog assumes: a job keeps to each one's real rate."""

from __future__ import annotations

import itertools
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
    """Seconds that the rows took with a pause after each, and how many requests were refused."""
    provider = get_llm_provider(name)
    began = clock.now
    for number in range(ROWS):
        provider.generate(f"Row {number}", max_tokens=100, patience=1e5, timeout=1e6)
        clock.sleep(pause)
    return clock.now - began, server_count(sandbox, "refused")


@pytest.mark.parametrize(
    ("seconds_per_call", "begins"),
    [(0.0, 0), (0.0, 47), (2.9, 47)],
    ids=["burst", "late burst", "steady"],
)
@pytest.mark.parametrize(("name", "kind"), [*itertools.product(PROVIDERS, KINDS)])
def test_a_job_goes_on_at_the_real_rate_after_a_refusal(
    start: Start, clock: Clock, name: str, kind: str, seconds_per_call: float, begins: float
) -> None:
    """Whatever the window, with two accounts, and without a refusal for every few replies."""
    clock.now += begins
    limits: dict[str, dict[str, Any]] = {
        name: {"requests_per_minute": PER_MINUTE, "requests_per_day": None}
    }
    sandbox = start(keys={name: 2}, clock=clock, windows={name: kind}, limits=limits)
    seconds, refused = run_job(sandbox, name, clock, seconds_per_call)
    at_best = max(60 * (ROWS / (2 * PER_MINUTE) - 1), ROWS * seconds_per_call)
    assert seconds <= at_best + 62
    assert refused <= 6
