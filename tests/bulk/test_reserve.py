"""A job leaves part of every limit for the user of the notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import arche_magic
from arche_magic.llm_providers import NoRouteAvailable, get_llm_provider

if TYPE_CHECKING:
    from provider_parts import Clock, Start

TEXTS = [f"Row {n}" for n in range(40)]


@pytest.mark.parametrize(("reserve", "fits"), [(0.1, 18), (0.5, 10), (0.0, 20)])
def test_a_job_stops_short_of_the_limit(
    start: Start, clock: Clock, reserve: float, fits: int
) -> None:
    """A cell can use the rest immediately."""
    sandbox = start(clock=clock, limits={"groq": {"requests_per_day": 20}})
    result = arche_magic.map(TEXTS, patience=0, reserve=reserve, pack=1)
    assert result.error.isna().sum() == fits
    llm = get_llm_provider()
    for number in range(20 - fits):
        llm.generate(f"From a cell: {number}", patience=0)
    with pytest.raises(NoRouteAvailable):
        llm.generate("One too many", patience=0)
    assert not any(request.status == 429 for request in sandbox.requests)


def test_a_request_larger_than_what_may_be_spent_waits_for_an_unspent_limit(
    start: Start, clock: Clock
) -> None:
    """It does not wait forever."""
    start(clock=clock, limits={"groq": {"tokens_per_minute": 1000}})
    llm = get_llm_provider()
    assert llm.generate("Hi", max_tokens=900, reserve=0.5)
    with pytest.raises(NoRouteAvailable, match="opens in"):
        llm.generate("Ho", max_tokens=900, reserve=0.5, patience=0)
    assert llm.generate("Ho", max_tokens=900, reserve=0.5, patience=120)


def test_the_reserve_is_not_part_of_an_address(start: Start) -> None:
    """A kept reply is found with any reserve."""
    sandbox = start()
    llm = get_llm_provider()
    llm.generate("Hi", keep=True, reserve=0.3)
    assert llm.generate("Hi", keep=True).from_memory
    assert len(sandbox.requests) == 1
