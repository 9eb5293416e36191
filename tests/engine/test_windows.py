"""Window arithmetic, compared with brute-force logs of every charge."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from itertools import accumulate
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arche_magic.llm_providers.quota import windows
from arche_magic.llm_providers.quota.state import Counter
from arche_magic.llm_providers.types import PERIOD_SECONDS, Limit

PACIFIC = ZoneInfo("America/Los_Angeles")
# Sixteenths of a second are exact as floats, so the logs below are exact too.
TICK = 1 / 16
START = 1_763_409_600.0

periods = st.sampled_from(["second", "minute", "hour", "day", "month"])
long_periods = st.sampled_from(["minute", "hour", "day", "month"])


def limit_of(window: str, period: str = "minute", amount: float = 10.0, zone: str = "UTC") -> Limit:
    return Limit("requests", period, amount, window, zone)


@st.composite
def charges(draw: st.DrawFn, period: str) -> list[tuple[float, float]]:
    """Up to 25 charges over about four periods, in the order of their times."""
    longest = int(PERIOD_SECONDS[period] * 0.7 / TICK)
    gaps = draw(st.lists(st.integers(0, longest), min_size=1, max_size=25))
    amounts = draw(
        st.lists(st.integers(1, 6), min_size=len(gaps), max_size=len(gaps)),
    )
    times = [START + 7.25 + ticks * TICK for ticks in accumulate(gaps)]
    return list(zip(times, map(float, amounts), strict=True))


def charged(limit: Limit, log: list[tuple[float, float]]) -> Counter:
    counter: Counter = Counter()
    for at, amount in log:
        windows.charge(limit, counter, amount, at)
    return counter


def pacific(*moment: int) -> float:
    return datetime(*moment, tzinfo=PACIFIC).timestamp()


# --- bucket


@given(st.data(), periods, st.integers(1, 50))
def test_a_bucket_leaks_exactly(data: st.DataObject, period: str, amount: int) -> None:
    """Between charges, the level falls by amount/period per second, and never below zero."""
    limit = limit_of("bucket", period, float(amount))
    log = data.draw(charges(period))
    later = data.draw(st.integers(0, int(PERIOD_SECONDS[period] * 2 / TICK))) * TICK
    level, at = 0.0, log[0][0]
    for moment, units in [*log, (log[-1][0] + later, 0.0)]:
        level = max(0.0, level - (moment - at) * amount / PERIOD_SECONDS[period]) + units
        at = moment
    assert windows.used(limit, charged(limit, log), at) == pytest.approx(level, abs=1e-6)


@given(st.data(), st.integers(1, 50))
def test_a_full_bucket_is_empty_after_at_most_one_period(data: st.DataObject, amount: int) -> None:
    """`resets_at` of a bucket is used / amount × period ahead, as reset headers state it."""
    limit = limit_of("bucket", "minute", float(amount))
    units = data.draw(st.integers(0, amount))
    counter = charged(limit, [(START, float(units))])
    resets = windows.resets_at(limit, counter, START)
    assert resets == pytest.approx(START + units / amount * 60)
    assert windows.used(limit, counter, resets) == pytest.approx(0.0, abs=1e-4)


# --- calendar


@given(st.data(), st.sampled_from(["minute", "day", "month"]))
def test_a_calendar_window_sums_the_charges_of_the_current_period(
    data: st.DataObject, period: str
) -> None:
    """The used amount is the sum of charges in this minute, Pacific day or Pacific month."""
    limit = limit_of("calendar", period, 10.0, "America/Los_Angeles")
    log = data.draw(charges(period))
    now = log[-1][0] + data.draw(st.integers(0, int(PERIOD_SECONDS[period] * 1.5 / TICK))) * TICK

    def which(at: float) -> object:
        local = datetime.fromtimestamp(at, PACIFIC)
        return {
            "minute": int(at // 60),
            "day": local.date(),
            "month": (local.year, local.month),
        }[period]

    expected = sum(amount for at, amount in log if which(at) == which(now))
    assert windows.used(limit, charged(limit, log), now) == expected


@pytest.mark.parametrize(
    ("noon", "hours"),
    [((2026, 3, 8, 12), 23), ((2026, 11, 1, 12), 25), ((2026, 11, 23, 12), 24)],
)
def test_pacific_days_have_23_24_or_25_hours(noon: tuple[int, ...], hours: int) -> None:
    """A day ends at the next local midnight, even when clocks change."""
    end = windows.period_end("day", "America/Los_Angeles", pacific(*noon))
    begin = pacific(*noon[:3])
    assert end - begin == hours * 3600
    assert windows.period_end("day", "America/Los_Angeles", begin) == end
    assert windows.period_end("day", "America/Los_Angeles", end - TICK) == end
    assert windows.period_end("day", "America/Los_Angeles", end) > end


def test_the_repeated_hour_belongs_to_the_same_day() -> None:
    """On the 25-hour day, a charge in the repeated hour counts until midnight."""
    limit = limit_of("calendar", "day", 10.0, "America/Los_Angeles")
    first = pacific(2026, 11, 1, 1, 30)
    counter = charged(limit, [(first, 4.0), (first + 3600, 3.0)])
    midnight = pacific(2026, 11, 2)
    assert windows.used(limit, counter, midnight - TICK) == 7.0
    assert windows.used(limit, counter, midnight) == 0.0


@pytest.mark.parametrize(
    ("at", "end"),
    [
        ((2026, 1, 31, 23), (2026, 2, 1)),
        ((2026, 2, 1), (2026, 3, 1)),
        ((2028, 2, 29, 12), (2028, 3, 1)),
        ((2026, 12, 31, 23), (2027, 1, 1)),
        ((2026, 10, 31, 23), (2026, 11, 1)),
        ((2026, 11, 1, 0), (2026, 12, 1)),
    ],
)
def test_months_end_on_the_first_of_the_next(at: tuple[int, ...], end: tuple[int, ...]) -> None:
    """Long, short and leap months, and the last month of a year, end at a local midnight."""
    assert windows.period_end("month", "America/Los_Angeles", pacific(*at)) == pacific(*end)


def test_a_clock_minute_ends_on_the_full_minute() -> None:
    """A calendar minute that began 50 seconds ago has 10 seconds left."""
    limit = limit_of("calendar")
    minute = START - START % 60
    counter = charged(limit, [(minute + 50, 10.0)])
    assert windows.opens_at(limit, counter, 1.0, minute + 50) == minute + 60
    assert windows.resets_at(limit, counter, minute + 50) == minute + 60


# --- rolling


@given(st.data(), long_periods)
def test_a_rolling_window_never_undercounts_and_forgets_at_most_a_slot_late(
    data: st.DataObject, period: str
) -> None:
    """It counts the whole last period, and nothing older than a period and a sixtieth."""
    limit = limit_of("rolling", period)
    seconds = PERIOD_SECONDS[period]
    log = data.draw(charges(period))
    # Around the time when one of the charges leaves the window.
    at, _ = data.draw(st.sampled_from(log))
    near = int(seconds / 60 * 1.5 / TICK)
    now = max(log[-1][0], at + seconds + data.draw(st.integers(-near, near)) * TICK)
    used = windows.used(limit, charged(limit, log), now)
    exact = sum(amount for at, amount in log if now - at < seconds)
    a_slot_late = sum(amount for at, amount in log if now - at <= seconds * 61 / 60)
    assert exact <= used <= a_slot_late


def test_a_rolling_counter_stays_small() -> None:
    """However many calls there were, it has about as many entries as slots."""
    limit = limit_of("rolling", "minute")
    counter: Counter = Counter()
    for number in range(400):
        windows.charge(limit, counter, 1.0, START + number * 0.7)
    assert len(counter.slots) <= 62


# --- all rules


@given(st.data(), st.sampled_from(["bucket", "calendar", "rolling"]), long_periods)
def test_opens_at_is_the_earliest_time_at_which_the_amount_fits(
    data: st.DataObject, window: str, period: str
) -> None:
    """At that time it fits, and just before it does not."""
    limit = limit_of(window, period, float(data.draw(st.integers(1, 40))), "America/Los_Angeles")
    log = data.draw(charges(period))
    need = float(data.draw(st.integers(1, int(limit.amount))))
    now = log[-1][0] + data.draw(st.integers(0, 64)) * TICK
    counter = charged(limit, log)

    def fits(at: float) -> bool:
        return windows.used(limit, counter, at) + need <= limit.amount + 2e-6

    opens = windows.opens_at(limit, counter, need, now)
    assert opens >= now
    assert fits(opens)
    assert windows.opens_at(limit, counter, need, opens) == opens
    if opens > now:
        granularity = PERIOD_SECONDS[period] * 1e-6 + 1e-5 if window == "bucket" else 1e-3
        assert not fits(max(now, opens - granularity))


@given(st.integers(1, 10**9), periods, st.floats(0, 1))
def test_a_bucket_is_open_at_its_announced_time(amount: int, period: str, share: float) -> None:
    """Rounding of epoch seconds never makes a wait too short, at any rate."""
    limit = limit_of("bucket", period, float(amount))
    counter = charged(limit, [(START + 0.1, float(amount))])
    need = max(1.0, math.floor(amount * share))
    opens = windows.opens_at(limit, counter, need, START + 0.1)
    assert windows.opens_at(limit, counter, need, opens) == opens


@pytest.mark.parametrize("window", ["bucket", "calendar", "rolling"])
def test_an_amount_larger_than_the_limit_never_fits(window: str) -> None:
    """There is no opening time then, nor for a limit of zero."""
    limit = limit_of(window)
    assert windows.opens_at(limit, Counter(), 11.0, START) == math.inf
    assert windows.opens_at(limit, Counter(), 10.0, START) == START
    nothing = limit_of(window, amount=0.0)
    counter = charged(limit, [(START, 5.0)])
    assert windows.opens_at(nothing, counter, 1.0, START) == math.inf
    assert windows.opens_at(nothing, counter, 0.0, START) > START
    assert math.isfinite(windows.resets_at(nothing, counter, START))


@pytest.mark.parametrize("window", ["bucket", "calendar", "rolling"])
@pytest.mark.parametrize("target", [0.0, 2.5, 9.0, 10.0])
def test_set_used_sets_the_counter(window: str, target: float) -> None:
    """The provider's figure counts from now on, whether it is higher or lower than ours."""
    limit = limit_of(window)
    counter = charged(limit, [(START, 2.0), (START + 3, 4.0)])
    windows.set_used(limit, counter, target, START + 5)
    assert windows.used(limit, counter, START + 5) == pytest.approx(target)


def test_lowering_a_rolling_window_drops_the_oldest_charges() -> None:
    """The remaining charges leave the window last, so that room never comes too early."""
    limit = limit_of("rolling")
    counter = charged(limit, [(START, 5.0), (START + 30, 5.0)])
    windows.set_used(limit, counter, 5.0, START + 30)
    assert windows.used(limit, counter, START + 89) == 5.0


@pytest.mark.parametrize("window", ["bucket", "calendar", "rolling"])
@given(back=st.integers(1, 59), later=st.integers(0, 59))
def test_setting_the_clock_back_gives_no_extra_quota(window: str, back: int, later: int) -> None:
    """Charging again afterwards leaves at least what a correct clock would."""
    limit = limit_of(window, amount=100.0)
    honest = charged(limit, [(START, 60.0)])
    counter = charged(limit, [(START, 60.0)])
    windows.charge(limit, counter, 20.0, START - back)
    now = START - back + later
    windows.charge(limit, honest, 20.0, START)
    assert windows.used(limit, counter, now) >= windows.used(limit, honest, START + later) - 1e-6


def test_two_machines_whose_clocks_differ_do_not_refill_a_bucket_twice() -> None:
    """Charges from clocks five seconds apart add up like those of one clock."""
    limit = limit_of("bucket", amount=60.0)
    counter: Counter = Counter()
    for number in range(10):
        windows.charge(limit, counter, 5.0, START + number)
        windows.charge(limit, counter, 5.0, START + number - 5)
    assert windows.used(limit, counter, START + 9) >= 100 - 9 - 1e-6


@pytest.mark.parametrize("window", ["bucket", "calendar", "rolling"])
@pytest.mark.parametrize("ahead", [59.0, 130.0, 4 * 365 * 86_400.0])
def test_setting_the_clock_back_does_not_block_for_ever(window: str, ahead: float) -> None:
    """A window filled by a clock that was ahead has room within three periods."""
    limit = limit_of(window)
    counter = charged(limit, [(START + ahead, 10.0)])
    moments = (START + seconds for seconds in range(0, 181, 5))
    assert any(windows.opens_at(limit, counter, 1.0, moment) <= moment for moment in moments)


def test_an_announced_wait_is_long_enough_after_the_clock_was_set_back() -> None:
    """`opens_at` and `resets_at` start at the counter's time if that is ahead."""
    limit = limit_of("bucket", amount=60.0)
    counter = charged(limit, [(START, 60.0)])
    opens = windows.opens_at(limit, counter, 10.0, START - 30)
    assert opens == pytest.approx(START + 10, abs=1e-3)
    assert windows.opens_at(limit, counter, 10.0, opens) == opens
    assert windows.resets_at(limit, counter, START - 30) == pytest.approx(START + 60)


def test_days_depend_on_the_time_zone() -> None:
    """The same time is a different day in UTC than in Los Angeles."""
    evening = pacific(2026, 11, 23, 20)
    midnight = windows.period_end("day", "America/Los_Angeles", evening)
    assert midnight - evening == timedelta(hours=4).total_seconds()
    assert (
        windows.period_end("day", "UTC", evening) - evening == timedelta(hours=20).total_seconds()
    )
