"""What closes a route, for how long, and what the usage summary says; on every storage."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime

import pytest
from engine_parts import (
    NOON,
    RPD,
    RPM,
    Build,
    Clock,
    a_route,
    custom_configuration,
    failed,
    held,
    opens_in,
    proven,
    served,
    used,
)

from arche_magic.llm_providers.errors import ConfigurationError
from arche_magic.llm_providers.provider_failure import ProviderFailure, Remedy
from arche_magic.llm_providers.quota_tracker import QuotaTracker, Settlement
from arche_magic.llm_providers.storage import Storage
from arche_magic.llm_providers.types import Observation, Usage

# --- closures


def test_a_limit_with_a_retry_time_closes_the_model_for_that_key(
    tracker_of: Build, clock: Clock
) -> None:
    """Other models and other keys stay open."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    state = failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=42)
    assert state.opens_at == clock.now + 42
    assert state.reason == "it failed"
    assert opens_in(tracker, a_route(tracker.configuration, model="model-b")) == 0
    assert opens_in(tracker, a_route(tracker.configuration, key=2)) == 0
    clock.now += 42
    served(tracker, route)


def test_a_retry_after_of_zero_still_waits_briefly(tracker_of: Build) -> None:
    """A provider that answers "retry now" is not called in a tight loop."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=0)
    assert 0 < opens_in(tracker, route) <= 1


def test_a_limit_without_a_retry_time_closes_until_our_window_has_room(tracker_of: Build) -> None:
    """If our count says that the minute is full, it also says when there is room again."""
    tracker = tracker_of(RPM)
    route = a_route(tracker.configuration)
    for _ in range(2):
        served(tracker, route)
    seen = [Observation("requests_per_minute", 3, 0, None, "error")]
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, observations=seen)
    assert opens_in(tracker, route) == pytest.approx(20, abs=0.01)


def test_a_limit_without_a_name_or_a_time_doubles_its_wait(tracker_of: Build, clock: Clock) -> None:
    """The wait is one minute, two, four, up to an hour.

    After a served call, it is one minute again.
    """
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    waits = []
    for _ in range(8):
        failed(tracker, route, Remedy.WAIT_FOR_LIMIT)
        waits.append(opens_in(tracker, route))
        clock.now += waits[-1]
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    served(tracker, route)
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT)
    assert opens_in(tracker, route) == 60


def test_setting_the_clock_back_does_not_prolong_a_wait(tracker_of: Build, clock: Clock) -> None:
    """It may take twice as long at most; after an answer, it does not begin again."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=20)
    clock.now -= 15
    assert opens_in(tracker, route) == 35
    clock.now -= 3585
    assert opens_in(tracker, route) == 0
    served(tracker, route)
    clock.now += 3600
    assert opens_in(tracker, route) == 0


def test_concurrent_refusals_double_the_wait_once(tracker_of: Build) -> None:
    """Eight threads that hit the same limit count as one refusal."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    holds = [held(tracker, route) for _ in range(8)]
    for hold in holds:
        tracker.fail(hold, ProviderFailure("429", Remedy.WAIT_FOR_LIMIT))
    assert opens_in(tracker, route) == 60


def test_a_daily_google_limit_closes_until_midnight_pacific(storage: Storage, clock: Clock) -> None:
    """This also applies to tokens, when our own count may still have room."""
    configuration = custom_configuration(name="google", clock=clock)
    tracker = QuotaTracker(storage, configuration)
    route = a_route(configuration)
    seen = Observation("input_tokens_per_day", 1_000_000, None, None, "error")
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, limit="input_tokens_per_day", observations=[seen])
    assert opens_in(tracker, route) == 12 * 3600


def test_the_later_of_two_concurrent_closures_is_kept(
    tracker_of: Build,
) -> None:
    """A short wait that one call states does not shorten a closure of a whole day."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    first, second = held(tracker, route), held(tracker, route)
    for hold, seconds in ((first, 40_000), (second, 3)):
        tracker.fail(hold, ProviderFailure("429", Remedy.WAIT_FOR_LIMIT, retry_after=seconds))
    assert opens_in(tracker, route) == 40_000


def test_a_reply_to_a_call_that_began_before_a_closure_does_not_reopen_it(
    tracker_of: Build, clock: Clock
) -> None:
    """It only shows that there was room when the call began."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    early = held(tracker, route)
    clock.now += 1
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=42)
    clock.now += 1
    tracker.settle(Settlement(early, Usage(5, 5)))
    assert opens_in(tracker, route) == 41


def test_missing_credit_closes_all_models_of_the_account_for_an_hour(
    tracker_of: Build, clock: Clock
) -> None:
    """The account is tried once an hour, and stays open after a reply."""
    tracker = tracker_of()
    route, other = (a_route(tracker.configuration, model=m) for m in ("model-a", "model-b"))
    failed(tracker, route, Remedy.TOP_UP_ACCOUNT)
    assert opens_in(tracker, other) == 3600
    assert opens_in(tracker, a_route(tracker.configuration, key=2)) == 0
    clock.now += 3600
    served(tracker, route)
    assert opens_in(tracker, other) == 0


def test_a_model_outside_the_plan_is_closed_for_an_hour(tracker_of: Build) -> None:
    """The account's other models stay open."""
    tracker = tracker_of()
    failed(
        tracker,
        a_route(tracker.configuration),
        Remedy.CHANGE_PLAN,
        observations=[Observation("requests_per_minute", 0, 0, None, "error")],
    )
    assert opens_in(tracker, a_route(tracker.configuration)) == 3600
    assert opens_in(tracker, a_route(tracker.configuration, model="model-b")) == 0


def test_a_rejected_key_is_closed_until_the_user_acts(tracker_of: Build, clock: Clock) -> None:
    """All its models stay closed; another key of the same account may still work."""
    tracker = tracker_of()
    failed(tracker, a_route(tracker.configuration), Remedy.REPLACE_KEY)
    clock.now += 365 * 86_400
    assert opens_in(tracker, a_route(tracker.configuration)) == math.inf
    assert opens_in(tracker, a_route(tracker.configuration, model="model-b")) == math.inf
    assert opens_in(tracker, a_route(tracker.configuration, key=2)) == 0


def test_an_unknown_model_is_closed_for_every_key_of_the_provider(tracker_of: Build) -> None:
    """No other key can have it; other models stay open."""
    tracker = tracker_of()
    failed(tracker, a_route(tracker.configuration), Remedy.CHANGE_MODEL)
    assert opens_in(tracker, a_route(tracker.configuration, key=2)) >= 3600
    assert opens_in(tracker, a_route(tracker.configuration, model="model-b")) == 0


def test_an_outage_closes_the_provider_briefly_and_doubles(tracker_of: Build, clock: Clock) -> None:
    """About 1, 2, 4 … seconds with a fifth of jitter, up to about a minute, whichever key fails."""
    tracker = tracker_of()
    route, other = (a_route(tracker.configuration, key) for key in (1, 2))
    waits = []
    for number in range(9):
        failed(tracker, (route, other)[number % 2], Remedy.RETRY_LATER)
        waits.append(opens_in(tracker, (other, route)[number % 2]))
        clock.now += waits[-1] + 0.001
    for wait, expected in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert 0.8 * expected - 1e-3 <= wait <= 1.2 * expected + 1e-3
    assert len({round(wait, 6) for wait in waits[-3:]}) > 1
    served(tracker, route)
    failed(tracker, route, Remedy.RETRY_LATER)
    assert opens_in(tracker, route) <= 1.3


def test_concurrent_connection_failures_count_as_one_outage(tracker_of: Build) -> None:
    """Eight connections that are lost together close the provider for about a second."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    holds = [held(tracker, route) for _ in range(8)]
    for hold in holds:
        tracker.fail(hold, ProviderFailure("503", Remedy.RETRY_LATER))
    assert opens_in(tracker, route) <= 1.3


def test_a_retry_after_of_an_overloaded_provider_is_used(tracker_of: Build) -> None:
    """It replaces our own estimate."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    failed(tracker, route, Remedy.RETRY_LATER, retry_after=17)
    assert opens_in(tracker, route) == 17


@pytest.mark.parametrize(
    "remedy", [Remedy.SHORTEN_PROMPT, Remedy.FIX_REQUEST, Remedy.CHANGE_PROMPT]
)
def test_an_invalid_request_closes_nothing(tracker_of: Build, remedy: Remedy) -> None:
    """The next request is accepted immediately."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    assert failed(tracker, route, remedy).opens_at <= NOON
    held(tracker, route)


def test_reopening_a_key_clears_its_closures_and_its_usage(tracker_of: Build) -> None:
    """The key, its account, its models and its provider are tried again."""
    tracker = tracker_of(RPD)
    route = a_route(tracker.configuration)
    served(tracker, route)
    holds = [held(tracker, route) for _ in range(4)]
    for hold, remedy in zip(
        holds,
        (Remedy.REPLACE_KEY, Remedy.TOP_UP_ACCOUNT, Remedy.CHANGE_MODEL, Remedy.RETRY_LATER),
        strict=True,
    ):
        tracker.fail(hold, ProviderFailure("closed", remedy))
    assert opens_in(tracker, route) == math.inf
    tracker.reopen("groq_key_1")
    assert opens_in(tracker, route) == 0
    assert used(tracker, limit="requests_per_day") == 0


def test_reopening_a_key_keeps_the_limits_of_another_key(tracker_of: Build) -> None:
    """Those of the provider and of the key itself are forgotten, as they may close the key."""
    tracker = tracker_of()
    for scope in ("groq", "groq/model-a", "groq_key_1", "groq_key_1/model-a", "groq_key_2"):
        tracker.set_limits(scope, requests_per_day=7)
    tracker.reopen("groq_key_1")
    assert {row.key for row in tracker.standings()} == {"groq_key_2"}


def test_reopening_during_a_call_does_not_lose_its_usage(tracker_of: Build) -> None:
    """Settling and failing work on a ledger that was cleared during the call."""
    tracker = tracker_of(RPD)
    route = a_route(tracker.configuration)
    holds = [held(tracker, route) for _ in range(4)]
    tracker.reopen("groq_key_1")
    tracker.settle(Settlement(holds[0], Usage(5, 5), [Observation("requests_per_day", 100, 90)]))
    tracker.reopen("groq_key_1")
    for hold, remedy in zip(
        holds[1:], (Remedy.REPLACE_KEY, Remedy.WAIT_FOR_LIMIT, Remedy.RETRY_LATER), strict=True
    ):
        tracker.fail(hold, ProviderFailure("late", remedy))
    assert opens_in(tracker, route) == math.inf


def test_a_closure_at_another_address_delays_nothing(storage: Storage, clock: Clock) -> None:
    """Calls at a corrected address run side by side, and its first failure is the first."""
    configuration = custom_configuration([replace(RPM, amount=1000)], clock=clock)

    def tracker_at(base_url: str) -> QuotaTracker:
        provider = replace(configuration.providers["groq"], base_url=base_url)
        return QuotaTracker(storage, replace(configuration, providers={"groq": provider}))

    wrong, right = proven(tracker_at("https://wrong.example")), tracker_at("https://right.example")
    for _ in range(4):
        state = failed(wrong, a_route(wrong.configuration), Remedy.CHECK_ADDRESS)
        clock.now = state.opens_at + 1
    failed(wrong, a_route(wrong.configuration), Remedy.CHECK_ADDRESS)
    route = a_route(right.configuration)
    clock.now += 1
    for _ in range(2):
        held(right, route)
    assert failed(right, route, Remedy.CHECK_ADDRESS).opens_at - clock.now == 120


def test_reopening_an_unknown_key_names_the_known_ones(tracker_of: Build) -> None:
    """A misspelled label changes nothing."""
    with pytest.raises(ConfigurationError, match="groq_key_1, groq_key_2"):
        tracker_of().reopen("groq_key_7")


# --- the summary


def test_the_usage_summary_has_the_structure_of_the_older_package(
    tracker_of: Build, clock: Clock
) -> None:
    """Provider, key, limit; times are ISO 8601 strings in UTC and lie in the future."""
    tracker = tracker_of(RPM, RPD)
    served(tracker, a_route(tracker.configuration))
    summary = tracker.get_usage_summary()
    assert set(summary) == {"groq"}
    assert set(summary["groq"]) == {"groq_key_1", "groq_key_2"}
    row = summary["groq"]["groq_key_1"]["requests_per_minute"]
    assert row["used"] == 1
    assert row["limit"] == 3
    assert row["remaining"] == 2
    assert row["usage_percent"] == pytest.approx(100 / 3, abs=0.01)
    assert row["available"] is True
    assert row["reset_time"] == "2025-11-17T20:00:20+00:00"
    assert datetime.fromisoformat(row["reset_time"]).timestamp() == clock.now + 20
    assert row["last_updated"] == "2025-11-17T20:00:00+00:00"
    assert tracker.get_usage_summary("groq")["groq"] == summary["groq"]


def test_a_full_or_closed_limit_is_not_available(tracker_of: Build) -> None:
    """`available` says whether a call would be accepted now."""
    tracker = tracker_of(RPM)
    route = a_route(tracker.configuration)
    for _ in range(3):
        served(tracker, route)
    summary = tracker.get_usage_summary("groq")["groq"]
    assert summary["groq_key_1"]["requests_per_minute"]["available"] is False
    assert summary["groq_key_2"]["requests_per_minute"]["available"] is True
    failed(tracker, a_route(tracker.configuration, key=2), Remedy.REPLACE_KEY)
    summary = tracker.get_usage_summary("groq")["groq"]
    assert summary["groq_key_2"]["requests_per_minute"]["available"] is False


def test_the_summary_of_a_key_shows_its_tightest_model(tracker_of: Build) -> None:
    """The summary names the model of each figure."""
    tracker = tracker_of(RPD)
    served(tracker, a_route(tracker.configuration))
    other = a_route(tracker.configuration, model="model-b")
    served(tracker, other, observations=[Observation("requests_per_day", 100, 20)])
    row = tracker.get_usage_summary("groq")["groq"]["groq_key_1"]["requests_per_day"]
    assert (row["model"], row["used"]) == ("model-b", 80)


def test_a_limit_of_zero_closes_the_model_and_is_shown(storage: Storage, clock: Clock) -> None:
    """Users can turn a model off with a limit of 0, even after it was used."""
    configuration = custom_configuration([RPM], clock=clock)
    served(QuotaTracker(storage, configuration), a_route(configuration))
    nothing = replace(RPM, amount=0, evidence="configured")
    off = QuotaTracker(storage, replace(configuration, limits={"groq/model-a": (nothing,)}))
    assert opens_in(off, a_route(configuration)) == math.inf
    assert (
        off.get_usage_summary("groq")["groq"]["groq_key_1"]["requests_per_minute"]["available"]
        is False
    )
