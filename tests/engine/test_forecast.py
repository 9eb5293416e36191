"""Forecasts: when a limit runs out at a pace, and how many prompts still fit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arche_magic.llm_providers.quota import forecast
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.types import Standing

NOW = 1_795_000_000.0


def standing(
    limit: str, amount: float, used: float, window: str = "bucket", **more: object
) -> Standing:
    values = {
        "provider": "groq", "key": "groq_key_1", "account": "a", "model": "m", "limit": limit,
        "amount": amount, "used": used, "opens_at": NOW, "resets_at": NOW + 40, "window": window,
        "evidence": "published", "evidence_at": NOW, **more,
    }  # fmt: skip
    return Standing(**values)  # type: ignore[arg-type]


def attempt(at: float, outcome: str = "served", key: str = "groq_key_1") -> Attempt:
    return Attempt("groq", key, "m", outcome, None, 10, 20, at=at)  # type: ignore[arg-type]


def test_the_pace_is_that_of_the_last_hour_and_of_the_route() -> None:
    """Older attempts, skipped ones and those of other keys do not count."""
    attempts = [
        attempt(NOW - 10),
        attempt(NOW - 1800),
        attempt(NOW - 4000),
        attempt(NOW - 5, "skipped"),
        attempt(NOW - 5, key="groq_key_2"),
    ]
    rows = [standing("requests_per_day", 1000, 0), standing("tokens_per_minute", 8000, 0)]
    assert forecast.paces(attempts, rows, NOW) == [2 / 3600, 60 / 3600]


@pytest.mark.parametrize(
    ("row", "pace", "seconds"),
    [
        (standing("requests_per_minute", 60, 0), 0.5, math.inf),  # refills faster than spent
        (standing("requests_per_minute", 60, 0), 2.0, 60.0),  # loses one a second
        (standing("requests_per_day", 20, 10, "calendar", resets_at=NOW + 1000), 0.1, 100.0),
        (standing("requests_per_day", 20, 10, "calendar", resets_at=NOW + 50), 0.1, math.inf),
        (standing("requests_per_minute", 60, 30, "rolling"), 2.0, 15.0),
        (standing("requests_per_minute", 60, 30, "rolling"), 0.0, math.inf),
    ],
)
def test_a_limit_runs_out_by_its_own_rule(row: Standing, pace: float, seconds: float) -> None:
    """A bucket refills meanwhile, a calendar window may turn first, a rolling one gives nothing."""
    assert forecast.runs_out_at(row, pace, NOW) - NOW == pytest.approx(seconds)


def test_prompts_fit_as_the_tightest_limit_allows() -> None:
    """Requests and tokens both count, and routes add up."""
    rows = [
        standing("requests_per_minute", 30, 20),
        standing("tokens_per_minute", 8000, 7000),
        standing("requests_per_minute", 30, 29, key="groq_key_2", account="b"),
    ]
    need = {"requests": 1.0, "tokens": 200.0}
    assert forecast.prompts_that_fit(rows, need, NOW, NOW) == 5 + 1
    # In 12 seconds the buckets give 6 requests and 1,600 tokens more.
    assert forecast.prompts_that_fit(rows, need, NOW, NOW + 12) == 13 + 7


def test_keys_of_one_account_fit_once() -> None:
    """A second key of the same account adds nothing."""
    rows = [
        standing("requests_per_day", 100, 40),
        standing("requests_per_day", 100, 40, key="groq_key_2"),
    ]
    assert forecast.prompts_that_fit(rows, {"requests": 1.0}, NOW, NOW) == 60


def test_a_route_shut_for_longer_fits_none() -> None:
    """A refused key has quota, and no use of it."""
    row = standing("requests_per_day", 100, 0, shut_by="key refused", opens_at=math.inf)
    assert forecast.prompts_that_fit([row], {"requests": 1.0}, NOW, NOW + 3600) == 0


@given(
    used=st.integers(0, 30),
    hours=st.integers(0, 30),
    window=st.sampled_from(["bucket", "calendar", "rolling"]),
    period=st.sampled_from(["minute", "hour", "day"]),
)
def test_more_time_never_fits_less(used: int, hours: int, window: str, period: str) -> None:
    """What fits grows with the time, and begins with what is left now."""
    row = standing(f"requests_per_{period}", 30, used, window)
    need = {"requests": 1.0}
    now = forecast.prompts_that_fit([row], need, NOW, NOW)
    later = forecast.prompts_that_fit([row], need, NOW, NOW + hours * 3600)
    much_later = forecast.prompts_that_fit([row], need, NOW, NOW + (hours + 25) * 3600)
    assert now == 30 - used
    assert now <= later < much_later
