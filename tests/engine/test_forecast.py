"""Forecasts: when a limit runs out at a pace, and how many prompts still fit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arche_magic.llm_providers.quota import forecast
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.types import Standing, Usage

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


def test_the_pace_includes_the_last_hour_of_the_route() -> None:
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


def test_refused_attempts_do_not_count() -> None:
    """The ledger does not count them either."""
    attempts = [attempt(NOW - 10, "refused"), attempt(NOW - 10, "failed"), attempt(NOW - 10)]
    assert forecast.paces(attempts, [standing("requests_per_day", 9, 0)], NOW) == [2 / 3600]


def test_the_pace_of_a_shared_limit_includes_all_keys_of_the_account() -> None:
    """Keys of other accounts are not included."""
    rows = [
        standing("requests_per_day", 1000, 0, key=f"groq_key_{number}", account=account)
        for number, account in ((1, "team"), (2, "team"), (3, "mine"))
    ]
    attempts = [attempt(NOW - 5, key=f"groq_key_{number}") for number in (1, 2, 2, 3)]
    assert forecast.paces(attempts, rows, NOW) == [3 / 3600, 3 / 3600, 1 / 3600]


@pytest.mark.parametrize(
    ("row", "pace", "seconds"),
    [
        (standing("requests_per_minute", 60, 0), 0.5, math.inf),  # refills faster than it is used
        (standing("requests_per_minute", 60, 0), 2.0, 60.0),  # loses one a second
        (standing("requests_per_day", 20, 10, "calendar", resets_at=NOW + 1000), 0.1, 100.0),
        (standing("requests_per_day", 20, 10, "calendar", resets_at=NOW + 50), 0.1, math.inf),
        (standing("requests_per_minute", 60, 30, "rolling"), 2.0, 15.0),
        (standing("requests_per_minute", 60, 30, "rolling"), 0.0, math.inf),
    ],
)
def test_the_forecast_follows_the_window_of_each_limit(
    row: Standing, pace: float, seconds: float
) -> None:
    """A bucket refills, a calendar window may reset first, a rolling window gives nothing back."""
    assert forecast.runs_out_at(row, pace, NOW) - NOW == pytest.approx(seconds)


def test_the_tightest_limit_decides_how_many_prompts_fit() -> None:
    """Requests and tokens both count, and routes are added up."""
    rows = [
        standing("requests_per_minute", 30, 20),
        standing("tokens_per_minute", 8000, 7000),
        standing("requests_per_minute", 30, 29, key="groq_key_2", account="b"),
    ]
    need = {"requests": 1.0, "tokens": 200.0}
    assert forecast.prompts_that_fit(rows, need, NOW, NOW) == 5 + 1
    # In 12 seconds, the buckets refill by 6 requests and 1,600 tokens.
    assert forecast.prompts_that_fit(rows, need, NOW, NOW + 12) == 13 + 7


def test_a_route_whose_limits_do_not_count_the_prompts_is_left_out() -> None:
    """Before the first prompt, nothing is known of its tokens."""
    rows = [
        standing("tokens_per_day", 8000, 0),
        standing("requests_per_day", 9, 2, key="groq_key_2", account="b"),
    ]
    need = forecast.prompt_units(Usage())
    assert forecast.prompts_that_fit(rows, need, NOW, NOW) == 7


def test_keys_of_one_account_are_counted_once() -> None:
    """A second key of the same account adds no prompts."""
    rows = [
        standing("requests_per_day", 100, 40),
        standing("requests_per_day", 100, 40, key="groq_key_2"),
    ]
    assert forecast.prompts_that_fit(rows, {"requests": 1.0}, NOW, NOW) == 60


def test_a_rejected_key_does_not_hide_the_other_keys_of_its_account() -> None:
    """The order of the keys in the table does not matter."""
    refused = {"closed_by": "key refused", "opens_at": math.inf}
    rows = [
        standing("requests_per_day", 100, 40, **refused),
        standing("requests_per_day", 100, 40, key="groq_key_2"),
    ]
    for order in (rows, rows[::-1]):
        assert forecast.prompts_that_fit(order, {"requests": 1.0}, NOW, NOW) == 60


def test_a_prompt_larger_than_a_limit_never_fits() -> None:
    """Waiting does not help.

    An expected reply that is too long does not matter, because it is a guess.
    """
    rows = [standing("tokens_per_minute", 1000, 0), standing("requests_per_minute", 30, 0)]
    large = {"requests": 1.0, "tokens": 1300.0, "input_tokens": 1100.0, "output_tokens": 200.0}
    assert forecast.prompts_that_fit(rows, large, NOW, NOW + 7200) == 0
    long_answer = {**large, "input_tokens": 100.0, "output_tokens": 1200.0}
    assert forecast.prompts_that_fit(rows, long_answer, NOW, NOW) == 1


def test_a_closed_bucket_refills_up_to_its_limit() -> None:
    """A bucket that is closed for an hour has one minute's amount then, and refills from there."""
    closed = {"closed_by": "overloaded", "opens_at": NOW + 3600}
    row = standing("requests_per_minute", 60, 60, **closed)
    fit = [
        forecast.prompts_that_fit([row], {"requests": 1.0}, NOW, NOW + seconds)
        for seconds in (0, 3599, 3600, 3610)
    ]
    assert fit == [0, 0, 60, 70]
    day = standing("requests_per_day", 20, 20, "calendar", time_zone="UTC", **closed)
    turn = NOW - NOW % 86_400 + 86_400
    assert forecast.prompts_that_fit([day], {"requests": 1.0}, NOW, turn + 1) == 20


@pytest.fixture
def local_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the time zone of this machine."""

    def use(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield use
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("zone", "hour", "fit"),
    [
        # Google's day ends at 17:00 in Tokyo, before midnight, and at 09:00 in Berlin, after it.
        ("Asia/Tokyo", 12, 20 + 3),
        ("Asia/Tokyo", 18, 3),
        ("Europe/Berlin", 12, 3),
        ("Europe/Berlin", 8, 20 + 3),
        ("America/Los_Angeles", 12, 3),
    ],
)
def test_a_provider_day_may_end_before_local_midnight(
    local_zone: Callable[[str], None], zone: str, hour: int, fit: int
) -> None:
    """The forecast until midnight includes the new day in the provider's time zone."""
    local_zone(zone)
    now = datetime(2026, 11, 24, hour, tzinfo=ZoneInfo(zone)).timestamp()
    row = standing(
        "requests_per_day", 20, 17, "calendar", time_zone="America/Los_Angeles", opens_at=now
    )
    until = forecast.midnight(now)
    assert datetime.fromtimestamp(until, ZoneInfo(zone)) == datetime(
        2026, 11, 25, tzinfo=ZoneInfo(zone)
    )
    assert forecast.prompts_that_fit([row], {"requests": 1.0}, now, until) == fit


def test_midnight_is_right_when_clocks_change(local_zone: Callable[[str], None]) -> None:
    """That day has 25 hours in Berlin, and 23 in spring."""
    local_zone("Europe/Berlin")
    for month, day, hours in ((10, 25, 25), (3, 29, 23), (6, 1, 24)):
        begins = datetime(2026, month, day).timestamp()
        assert forecast.midnight(begins) - begins == hours * 3600
        assert forecast.midnight(begins + 1) == forecast.midnight(begins)


def test_a_route_that_stays_closed_fits_no_prompts() -> None:
    """A rejected key has quota that cannot be used."""
    row = standing("requests_per_day", 100, 0, closed_by="key refused", opens_at=math.inf)
    assert forecast.prompts_that_fit([row], {"requests": 1.0}, NOW, NOW + 3600) == 0


@given(
    used=st.integers(0, 30),
    hours=st.integers(0, 30),
    window=st.sampled_from(["bucket", "calendar", "rolling"]),
    period=st.sampled_from(["minute", "hour", "day"]),
)
def test_more_time_never_fits_fewer_prompts(
    used: int, hours: int, window: str, period: str
) -> None:
    """The number grows with time, starting from what is left now."""
    row = standing(f"requests_per_{period}", 30, used, window)
    need = {"requests": 1.0}
    now = forecast.prompts_that_fit([row], need, NOW, NOW)
    later = forecast.prompts_that_fit([row], need, NOW, NOW + hours * 3600)
    much_later = forecast.prompts_that_fit([row], need, NOW, NOW + (hours + 25) * 3600)
    assert now == 30 - used
    assert now <= later < much_later
