"""Hold, settle, learn, close: the ledger's promises, on every storage."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from engine_parts import NOON, Clock, a_route, ask, custom_configuration
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arche_magic.llm_providers.config import Configuration, label_keys
from arche_magic.llm_providers.errors import AttemptFailed, ConfigurationError, Remedy
from arche_magic.llm_providers.ledger import RouteState
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker
from arche_magic.llm_providers.storage import JsonFileStorage, MemoryStorage, Storage
from arche_magic.llm_providers.types import (
    PERIOD_SECONDS,
    Limit,
    Observation,
    Request,
    Route,
    Usage,
)

RPM = Limit("requests", "minute", 3, "bucket")
RPD = Limit("requests", "day", 100, "bucket")
TPM = Limit("tokens", "minute", 1000, "bucket")


@pytest.fixture(params=["memory", "file"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Each storage in turn: no promise may depend on where the documents live."""
    if request.param == "memory":
        return MemoryStorage()
    return JsonFileStorage(tmp_path / "ledger.json")


@pytest.fixture
def clock() -> Clock:
    return Clock()


Build = Callable[..., QuotaTracker]


@pytest.fixture
def tracker_of(storage: Storage, clock: Clock) -> Build:
    """Build a ledger with some limits on `model-a`."""

    def build(*limits: Limit, **options: Any) -> QuotaTracker:
        return QuotaTracker(storage, custom_configuration(limits, clock=clock, **options))

    return build


def held(tracker: QuotaTracker, route: Route, request: Request | None = None) -> Hold:
    hold = tracker.hold(route, request or ask())
    assert isinstance(hold, Hold), hold
    return hold


def served(tracker: QuotaTracker, route: Route, **options: Any) -> str:
    return tracker.settle(held(tracker, route), Usage(5, 5), **options)


def failed(tracker: QuotaTracker, route: Route, remedy: Remedy, **facts: Any) -> RouteState:
    return tracker.fail(held(tracker, route), AttemptFailed("it failed", remedy, **facts))


def opens_in(tracker: QuotaTracker, route: Route, request: Request | None = None) -> float:
    now = tracker.configuration.clock.time()
    return max(0.0, tracker.state(route, request or ask(), now).opens_at - now)


def used(tracker: QuotaTracker, key: str = "groq_key_1", limit: str = "requests_per_minute") -> Any:
    return tracker.get_usage_summary("groq")[key][limit]["used"]


# --- hold and settle


def test_a_hold_is_taken_from_every_limit_or_from_none(tracker_of: Build) -> None:
    """Where one of several limits has no room, the others keep theirs."""
    tracker = tracker_of(RPM, TPM)
    route = a_route(tracker.configuration)
    tracker.settle(held(tracker, route), Usage(900, 0))
    refused = tracker.hold(route, ask(max_tokens=200))
    assert isinstance(refused, RouteState)
    assert "tokens per minute" in refused.reason
    assert used(tracker) == 1
    assert isinstance(tracker.hold(route, ask(max_tokens=20)), Hold)


def test_two_holds_never_oversell_a_limit(tracker_of: Build, clock: Clock) -> None:
    """What is on hold is gone for the next call, settled or not."""
    tracker = tracker_of(RPM)
    route = a_route(tracker.configuration)
    for _ in range(3):
        held(tracker, route)
    refused = tracker.hold(route, ask())
    assert isinstance(refused, RouteState)
    assert refused.opens_at > clock.now
    assert "on hold" in refused.reason


def test_many_threads_get_no_more_holds_than_the_limit_has(tracker_of: Build) -> None:
    """Eight threads that ask at once share the limit exactly."""
    tracker = tracker_of(replace(RPM, amount=20))
    route = a_route(tracker.configuration)
    granted: list[Hold] = []

    def work() -> None:
        for _ in range(5):
            hold = tracker.hold(route, ask())
            if isinstance(hold, Hold):
                granted.append(hold)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 20


def test_settling_replaces_the_guess_by_the_providers_count(tracker_of: Build) -> None:
    """A call that was held at 500 tokens and took 40 leaves 40 used."""
    tracker = tracker_of(TPM)
    route = a_route(tracker.configuration)
    tracker.settle(held(tracker, route, ask(max_tokens=500)), Usage(10, 30))
    assert used(tracker, limit="tokens_per_minute") == 40


def test_a_call_without_a_count_is_booked_by_its_estimate(tracker_of: Build) -> None:
    """Where the provider does not say what was spent, the hold is what was spent."""
    tracker = tracker_of(TPM)
    route = a_route(tracker.configuration)
    hold = held(tracker, route, ask(max_tokens=100))
    tracker.settle(hold, None)
    assert used(tracker, limit="tokens_per_minute") == hold.amounts["tokens"] > 100


def test_settling_says_what_is_left_of_the_tightest_limit(tracker_of: Build) -> None:
    """The receipt names the limit that is closest to its end."""
    tracker = tracker_of(RPM, RPD)
    assert served(tracker, a_route(tracker.configuration)) == "2 of 3 requests left this minute"


def test_estimates_learn_from_the_providers_counts(tracker_of: Build) -> None:
    """After calls that took twice the guessed input, the next guess is larger."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    request = ask("word " * 200, max_tokens=None)
    first = held(tracker, route, request)
    tracker.settle(first, Usage(2 * int(first.plain_tokens), 50))
    second = held(tracker, route, request)
    assert second.amounts["input_tokens"] > first.amounts["input_tokens"]
    assert second.amounts["output_tokens"] < first.amounts["output_tokens"]


def test_a_request_larger_than_a_limit_is_refused_with_the_sizes(tracker_of: Build) -> None:
    """It closes nothing: a shorter one is taken at once."""
    tracker = tracker_of(TPM)
    route = a_route(tracker.configuration)
    refused = tracker.hold(route, ask("word " * 2000))
    assert isinstance(refused, RouteState)
    assert refused.opens_at == math.inf
    assert "too large" in refused.reason
    assert "1,000" in refused.reason
    held(tracker, route)


def test_a_long_prompt_is_not_too_large_for_a_limit_on_output(tracker_of: Build) -> None:
    """A limit on output tokens has nothing to say about the prompt."""
    tracker = tracker_of(Limit("output_tokens", "minute", 100, "bucket"))
    held(tracker, a_route(tracker.configuration), ask("word " * 2000))


def test_an_output_guess_larger_than_the_limit_does_not_refuse_the_prompt(
    tracker_of: Build,
) -> None:
    """`max_tokens` is only an upper bound, so the call is offered when the limit is unused."""
    tracker = tracker_of(TPM)
    route = a_route(tracker.configuration)
    hold = held(tracker, route, ask(max_tokens=5000))
    assert isinstance(tracker.hold(route, ask()), RouteState)
    tracker.settle(hold, Usage(10, 10))
    held(tracker, route)


def test_keys_of_one_account_share_their_limits(storage: Storage, clock: Clock) -> None:
    """A second key of the same account adds nothing."""
    configuration = custom_configuration([RPM], clock=clock)
    accounts = {"groq_key_1": "team", "groq_key_2": "team"}
    keys = label_keys("groq", ["one", "two", "three"], accounts)
    tracker = QuotaTracker(storage, replace(configuration, keys=keys))
    for _ in range(3):
        held(tracker, a_route(tracker.configuration, key=1))
    assert isinstance(tracker.hold(a_route(tracker.configuration, key=2), ask()), RouteState)
    held(tracker, a_route(tracker.configuration, key=3))


# --- kernels that die


def test_the_hold_of_a_dead_kernel_expires_into_what_is_used(
    tracker_of: Build, clock: Clock
) -> None:
    """It counts as on hold while its call may run, and as spent from then on."""
    tracker = tracker_of(Limit("requests", "day", 2, "calendar"))
    route = a_route(tracker.configuration)
    held(tracker, route, ask(timeout=60))
    held(tracker, route, ask(timeout=60))
    clock.now += 60
    assert isinstance(tracker.hold(route, ask()), RouteState)
    clock.now += 31
    assert used(tracker, limit="requests_per_day") == 2
    assert isinstance(tracker.hold(route, ask()), RouteState)


def test_a_settlement_after_the_expiry_is_not_charged_twice(
    tracker_of: Build, clock: Clock
) -> None:
    """A machine that slept through its call has been charged already."""
    tracker = tracker_of(RPD)
    route = a_route(tracker.configuration)
    hold = held(tracker, route, ask(timeout=60))
    clock.now += 3600
    before = used(tracker, limit="requests_per_day")
    tracker.settle(hold, Usage(5, 5))
    assert used(tracker, limit="requests_per_day") == pytest.approx(before, abs=0.01)


@pytest.mark.parametrize("set_back", [600.0, 86_400.0 * 400])
def test_a_hold_made_by_a_clock_that_was_ahead_ends(
    tracker_of: Build, clock: Clock, set_back: float
) -> None:
    """Setting the clock back, by minutes or a year, does not leave a limit on hold for ever."""
    tracker = tracker_of(RPM)
    route = a_route(tracker.configuration)
    clock.now += set_back
    for _ in range(3):
        held(tracker, route)
    clock.now -= set_back
    for _ in range(60):
        if isinstance(tracker.hold(route, ask()), Hold):
            return
        clock.now += 20
    pytest.fail("still on hold after 20 minutes")


def test_a_closure_made_by_a_clock_that_was_ahead_ends(tracker_of: Build, clock: Clock) -> None:
    """A route closed for a minute by a clock a year ahead is open when the clock is right."""
    tracker = tracker_of(RPM)
    route = a_route(tracker.configuration)
    clock.now += 86_400 * 400
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=60)
    clock.now -= 86_400 * 400
    assert opens_in(tracker, route) == 0


# --- what a failed attempt is booked as


@pytest.mark.parametrize(
    ("remedy", "spent"),
    [
        (Remedy.WAIT_FOR_LIMIT, 0),
        (Remedy.TOP_UP_ACCOUNT, 0),
        (Remedy.CHANGE_PLAN, 0),
        (Remedy.REPLACE_KEY, 0),
        (Remedy.CHANGE_MODEL, 0),
        (Remedy.SHORTEN_PROMPT, 0),
        (Remedy.FIX_REQUEST, 0),
        (Remedy.RETRY_LATER, 1),
        (Remedy.CHANGE_PROMPT, 1),
    ],
)
def test_a_failure_counts_only_where_the_provider_may_have_worked(
    tracker_of: Build, remedy: Remedy, spent: int
) -> None:
    """A refusal frees its hold; a timeout or a filtered reply may have been counted, so it is."""
    tracker = tracker_of(RPD)
    failed(tracker, a_route(tracker.configuration), remedy)
    assert used(tracker, limit="requests_per_day") == spent


def test_what_a_broken_attempt_is_known_to_have_spent_is_booked(tracker_of: Build) -> None:
    """Usage that came before a stream broke replaces the guess."""
    tracker = tracker_of(TPM)
    route = a_route(tracker.configuration)
    failed(tracker, route, Remedy.RETRY_LATER, usage=Usage(7, 5))
    assert used(tracker, limit="tokens_per_minute") == 12


# --- learning


def test_a_header_replaces_the_published_limit(tracker_of: Build) -> None:
    """The provider's figure counts from then on, and says where it comes from."""
    tracker = tracker_of(RPM)
    seen = [Observation("requests_per_minute", 30, 28)]
    served(tracker, a_route(tracker.configuration), observations=seen)
    row = tracker.get_usage_summary("groq")["groq_key_1"]["requests_per_minute"]
    assert (row["limit"], row["used"], row["evidence"]) == (30, 2, "header")


def test_a_limit_nobody_published_is_learned_with_the_providers_window(
    tracker_of: Build, clock: Clock
) -> None:
    """A day limit in a Groq header refills continuously."""
    tracker = tracker_of()
    served(
        tracker,
        a_route(tracker.configuration),
        observations=[Observation("requests_per_day", 1000, 900)],
    )
    assert used(tracker, limit="requests_per_day") == 100
    clock.now += 8640
    assert used(tracker, limit="requests_per_day") == pytest.approx(0, abs=1e-3)


def test_an_error_body_teaches_the_limit_it_names(tracker_of: Build) -> None:
    """ "Limit 200000, Used 199000" makes the ledger say so."""
    tracker = tracker_of()
    seen = Observation("tokens_per_day", 200_000, 1000, None, "error")
    failed(
        tracker,
        a_route(tracker.configuration),
        Remedy.WAIT_FOR_LIMIT,
        retry_after=60,
        observations=[seen],
    )
    row = tracker.get_usage_summary("groq")["groq_key_1"]["tokens_per_day"]
    assert (row["limit"], row["used"], row["evidence"]) == (200_000, 199_000, "error")


def test_a_remaining_figure_without_a_limit_corrects_the_known_one(tracker_of: Build) -> None:
    """Some replies name only what is left."""
    tracker = tracker_of(RPD)
    seen = [Observation("requests_per_day", None, 60)]
    served(tracker, a_route(tracker.configuration), observations=seen)
    assert used(tracker, limit="requests_per_day") == 40


def test_a_figure_lowers_our_count_only_when_the_call_was_alone(
    tracker_of: Build, clock: Clock
) -> None:
    """The header of a slow call does not know the calls that came and went meanwhile."""
    limit = Limit("requests", "day", 100, "calendar")
    tracker = tracker_of(limit)
    route = a_route(tracker.configuration)
    slow = held(tracker, route)
    clock.now += 1
    served(tracker, route)
    clock.now += 1
    tracker.settle(slow, Usage(5, 5), [Observation("requests_per_day", 100, 99)])
    assert used(tracker, limit="requests_per_day") == 2
    clock.now += 1
    served(tracker, route, observations=[Observation("requests_per_day", 100, 99)])
    assert used(tracker, limit="requests_per_day") == 1


def test_a_call_that_is_still_under_way_keeps_our_count(tracker_of: Build, clock: Clock) -> None:
    """With another hold open, a lower figure may only be an older one."""
    tracker = tracker_of(Limit("requests", "day", 100, "calendar"))
    route = a_route(tracker.configuration)
    for _ in range(2):
        served(tracker, route)
    clock.now += 1
    held(tracker, route)
    served(tracker, route, observations=[Observation("requests_per_day", 100, 99)])
    assert used(tracker, limit="requests_per_day") == 3


@pytest.mark.parametrize(
    "seen",
    [
        Observation("requests_per_day", math.nan, 5),
        Observation("requests_per_day", math.inf, 5),
        Observation("requests_per_day", -1, 0),
        Observation("requests_per_day", 0, 0),
        Observation("requests_per_day", 100, 101),
        Observation("requests_per_day", 100, -1),
        Observation("requests_per_day", None, math.nan),
        Observation("tokens_per_hour", None, 3),
    ],
)
def test_an_absurd_figure_teaches_nothing(tracker_of: Build, seen: Observation) -> None:
    """What no provider can mean leaves the ledger as it was."""
    tracker = tracker_of(RPD)
    route = a_route(tracker.configuration)
    served(tracker, route, observations=[seen])
    assert used(tracker, limit="requests_per_day") == 1
    assert opens_in(tracker, route) == 0


def test_a_changed_configuration_counts_at_once(storage: Storage, clock: Clock) -> None:
    """A limit the user set once and took back does not stay in the ledger."""
    own = replace(RPD, amount=1, evidence="configured")
    configured = custom_configuration([RPD], clock=clock)
    first = QuotaTracker(storage, replace(configured, limits={"groq_key_1": (own,)}))
    route = a_route(configured)
    served(first, route)
    assert isinstance(first.hold(route, ask()), RouteState)
    second = QuotaTracker(storage, configured)
    assert isinstance(second.hold(route, ask()), Hold)
    assert used(second, limit="requests_per_day") == 1


# --- closures


def test_a_limit_with_a_time_closes_the_model_of_the_key_until_then(
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


def test_a_retry_after_of_zero_still_waits_a_moment(tracker_of: Build) -> None:
    """A provider that says "now" after a refusal is not asked in a tight loop."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=0)
    assert 0 < opens_in(tracker, route) <= 1


def test_a_limit_without_a_time_closes_until_our_own_window_has_room(tracker_of: Build) -> None:
    """If our count says the minute is full, we know when it has room again."""
    tracker = tracker_of(RPM)
    route = a_route(tracker.configuration)
    for _ in range(2):
        served(tracker, route)
    seen = [Observation("requests_per_minute", 3, 0, None, "error")]
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, observations=seen)
    assert opens_in(tracker, route) == pytest.approx(20, abs=0.01)


def test_a_limit_without_a_time_or_a_name_doubles_its_wait(tracker_of: Build, clock: Clock) -> None:
    """A minute, two, four, up to an hour; a served call begins again at a minute."""
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


def test_calls_that_were_refused_together_double_the_wait_once(tracker_of: Build) -> None:
    """Eight threads that meet the same limit are one refusal, not eight."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    holds = [held(tracker, route) for _ in range(8)]
    for hold in holds:
        tracker.fail(hold, AttemptFailed("429", Remedy.WAIT_FOR_LIMIT))
    assert opens_in(tracker, route) == 60


def test_a_daily_limit_of_google_closes_until_midnight_pacific(
    storage: Storage, clock: Clock
) -> None:
    """Also for tokens, where our own count may still see room."""
    configuration = custom_configuration(name="google", clock=clock)
    tracker = QuotaTracker(storage, configuration)
    route = a_route(configuration)
    seen = Observation("input_tokens_per_day", 1_000_000, None, None, "error")
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, limit="input_tokens_per_day", observations=[seen])
    assert opens_in(tracker, route) == 12 * 3600


def test_of_two_closures_from_calls_under_way_together_the_later_stays(
    tracker_of: Build,
) -> None:
    """A short wait named by one call does not reopen what another found shut for the day."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    first, second = held(tracker, route), held(tracker, route)
    for hold, seconds in ((first, 40_000), (second, 3)):
        tracker.fail(hold, AttemptFailed("429", Remedy.WAIT_FOR_LIMIT, retry_after=seconds))
    assert opens_in(tracker, route) == 40_000


def test_an_answer_to_a_call_that_began_before_a_closure_does_not_reopen_it(
    tracker_of: Build, clock: Clock
) -> None:
    """It only says that there was room then."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    early = held(tracker, route)
    clock.now += 1
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=42)
    clock.now += 1
    tracker.settle(early, Usage(5, 5))
    assert opens_in(tracker, route) == 41


def test_no_credit_closes_every_model_of_the_account_for_an_hour(
    tracker_of: Build, clock: Clock
) -> None:
    """It is asked again once an hour, and opens for good when it answers."""
    tracker = tracker_of()
    route, other = (a_route(tracker.configuration, model=m) for m in ("model-a", "model-b"))
    failed(tracker, route, Remedy.TOP_UP_ACCOUNT)
    assert opens_in(tracker, other) == 3600
    assert opens_in(tracker, a_route(tracker.configuration, key=2)) == 0
    clock.now += 3600
    served(tracker, route)
    assert opens_in(tracker, other) == 0


def test_a_model_outside_the_plan_closes_that_model_alone_for_an_hour(tracker_of: Build) -> None:
    """The account's other models go on."""
    tracker = tracker_of()
    failed(
        tracker,
        a_route(tracker.configuration),
        Remedy.CHANGE_PLAN,
        observations=[Observation("requests_per_minute", 0, 0, None, "error")],
    )
    assert opens_in(tracker, a_route(tracker.configuration)) == 3600
    assert opens_in(tracker, a_route(tracker.configuration, model="model-b")) == 0


def test_a_refused_key_is_shut_until_the_user_acts(tracker_of: Build, clock: Clock) -> None:
    """All its models, for ever; another key of the same account may still work."""
    tracker = tracker_of()
    failed(tracker, a_route(tracker.configuration), Remedy.REPLACE_KEY)
    clock.now += 365 * 86_400
    assert opens_in(tracker, a_route(tracker.configuration)) == math.inf
    assert opens_in(tracker, a_route(tracker.configuration, model="model-b")) == math.inf
    assert opens_in(tracker, a_route(tracker.configuration, key=2)) == 0


def test_a_refused_key_does_not_shut_its_account(storage: Storage, clock: Clock) -> None:
    """The other key of the account is asked next."""
    accounts = {"groq_key_1": "team", "groq_key_2": "team"}
    keys = label_keys("groq", ["one", "two"], accounts)
    configuration = replace(custom_configuration(clock=clock), keys=keys)
    tracker = QuotaTracker(storage, configuration)
    failed(tracker, a_route(configuration), Remedy.REPLACE_KEY)
    assert opens_in(tracker, a_route(configuration, key=2)) == 0


def test_an_unknown_model_is_shut_on_every_key_of_the_provider(tracker_of: Build) -> None:
    """No other key can know it either; other models go on."""
    tracker = tracker_of()
    failed(tracker, a_route(tracker.configuration), Remedy.CHANGE_MODEL)
    assert opens_in(tracker, a_route(tracker.configuration, key=2)) >= 3600
    assert opens_in(tracker, a_route(tracker.configuration, model="model-b")) == 0


def test_trouble_shuts_the_provider_shortly_and_doubling(tracker_of: Build, clock: Clock) -> None:
    """About 1, 2, 4 … seconds with a fifth of jitter, at most about a minute."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    waits = []
    for _ in range(9):
        failed(tracker, route, Remedy.RETRY_LATER)
        waits.append(opens_in(tracker, a_route(tracker.configuration, key=2)))
        clock.now += waits[-1] + 0.001
    for wait, expected in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert 0.8 * expected - 1e-3 <= wait <= 1.2 * expected + 1e-3
    assert len({round(wait, 6) for wait in waits[-3:]}) > 1
    served(tracker, route)
    failed(tracker, route, Remedy.RETRY_LATER)
    assert opens_in(tracker, route) <= 1.3


def test_calls_that_broke_together_are_one_outage(tracker_of: Build) -> None:
    """Eight connections lost at once shut the provider for about a second, not a minute."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    holds = [held(tracker, route) for _ in range(8)]
    for hold in holds:
        tracker.fail(hold, AttemptFailed("503", Remedy.RETRY_LATER))
    assert opens_in(tracker, route) <= 1.3


def test_an_overloaded_provider_that_names_a_time_is_taken_at_its_word(tracker_of: Build) -> None:
    """Its retry-after replaces our guess."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    failed(tracker, route, Remedy.RETRY_LATER, retry_after=17)
    assert opens_in(tracker, route) == 17


@pytest.mark.parametrize(
    "remedy", [Remedy.SHORTEN_PROMPT, Remedy.FIX_REQUEST, Remedy.CHANGE_PROMPT]
)
def test_a_fault_of_the_request_closes_nothing(tracker_of: Build, remedy: Remedy) -> None:
    """The next request is taken at once."""
    tracker = tracker_of()
    route = a_route(tracker.configuration)
    assert failed(tracker, route, remedy).opens_at <= NOON
    held(tracker, route)


def test_reopening_a_key_forgets_why_it_was_shut_and_what_was_spent(tracker_of: Build) -> None:
    """The user has acted: key, account, model and provider are asked again."""
    tracker = tracker_of(RPD)
    route = a_route(tracker.configuration)
    served(tracker, route)
    holds = [held(tracker, route) for _ in range(4)]
    for hold, remedy in zip(
        holds,
        (Remedy.REPLACE_KEY, Remedy.TOP_UP_ACCOUNT, Remedy.CHANGE_MODEL, Remedy.RETRY_LATER),
        strict=True,
    ):
        tracker.fail(hold, AttemptFailed("shut", remedy))
    assert opens_in(tracker, route) == math.inf
    tracker.reopen("groq_key_1")
    assert opens_in(tracker, route) == 0
    assert used(tracker, limit="requests_per_day") == 0


def test_reopening_during_a_call_does_not_lose_its_reply(tracker_of: Build) -> None:
    """Settling and failing work on a ledger that was cleared meanwhile."""
    tracker = tracker_of(RPD)
    route = a_route(tracker.configuration)
    holds = [held(tracker, route) for _ in range(4)]
    tracker.reopen("groq_key_1")
    tracker.settle(holds[0], Usage(5, 5), [Observation("requests_per_day", 100, 90)])
    tracker.reopen("groq_key_1")
    for hold, remedy in zip(
        holds[1:], (Remedy.REPLACE_KEY, Remedy.WAIT_FOR_LIMIT, Remedy.RETRY_LATER), strict=True
    ):
        tracker.fail(hold, AttemptFailed("late", remedy))
    assert opens_in(tracker, route) == math.inf


def test_reopening_an_unknown_key_names_the_known_ones(tracker_of: Build) -> None:
    """A typing error changes nothing."""
    with pytest.raises(ConfigurationError, match="groq_key_1, groq_key_2"):
        tracker_of().reopen("groq_key_7")


# --- the summary


def test_the_usage_summary_has_the_older_packages_shape(tracker_of: Build, clock: Clock) -> None:
    """Provider, key, limit; times are aware and lie ahead."""
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
    assert row["reset_time"].utcoffset() == timedelta(0)
    assert row["reset_time"].timestamp() == pytest.approx(clock.now + 20)
    assert row["last_updated"].utcoffset() == timedelta(0)
    assert tracker.get_usage_summary("groq") == summary["groq"]


def test_a_full_or_shut_limit_is_not_available(tracker_of: Build) -> None:
    """`available` says whether a call would be taken now."""
    tracker = tracker_of(RPM)
    route = a_route(tracker.configuration)
    for _ in range(3):
        served(tracker, route)
    summary = tracker.get_usage_summary("groq")
    assert summary["groq_key_1"]["requests_per_minute"]["available"] is False
    assert summary["groq_key_2"]["requests_per_minute"]["available"] is True
    failed(tracker, a_route(tracker.configuration, key=2), Remedy.REPLACE_KEY)
    summary = tracker.get_usage_summary("groq")
    assert summary["groq_key_2"]["requests_per_minute"]["available"] is False


def test_a_key_that_used_several_models_is_shown_with_its_tightest(tracker_of: Build) -> None:
    """The summary names the model a figure belongs to."""
    tracker = tracker_of(RPD)
    served(tracker, a_route(tracker.configuration))
    other = a_route(tracker.configuration, model="model-b")
    served(tracker, other, observations=[Observation("requests_per_day", 100, 20)])
    row = tracker.get_usage_summary("groq")["groq_key_1"]["requests_per_day"]
    assert (row["model"], row["used"]) == ("model-b", 80)


def test_a_limit_set_to_nothing_shuts_the_model_and_can_be_shown(
    storage: Storage, clock: Clock
) -> None:
    """A user may switch a model off by a limit of 0, also after it was used."""
    configuration = custom_configuration([RPM], clock=clock)
    served(QuotaTracker(storage, configuration), a_route(configuration))
    nothing = replace(RPM, amount=0, evidence="configured")
    off = QuotaTracker(storage, replace(configuration, limits={"groq/model-a": (nothing,)}))
    assert opens_in(off, a_route(configuration)) == math.inf
    assert off.get_usage_summary("groq")["groq_key_1"]["requests_per_minute"]["available"] is False


def test_an_unknown_provider_is_named_with_the_nearest(tracker_of: Build) -> None:
    """A typing error is no empty summary."""
    with pytest.raises(ConfigurationError, match="did you mean 'groq'"):
        tracker_of().get_usage_summary("grok")


def test_no_key_text_is_ever_stored(tmp_path: Path) -> None:
    """The file knows keys by label and fingerprint."""
    storage = JsonFileStorage(tmp_path / "ledger.json")
    tracker = QuotaTracker(storage, custom_configuration([RPM]))
    route = a_route(tracker.configuration)
    served(tracker, route)
    failed(tracker, route, Remedy.REPLACE_KEY)
    text = storage.path.read_text(encoding="utf-8")
    assert "groq_key_1" in text
    assert route.key.secret() not in text
    json.loads(text)


# --- any interleaving


class ExactServer:
    """A provider that counts every request and token it takes, exactly."""

    def __init__(self, limits: list[Limit]) -> None:
        self.limits = limits
        self.log: list[tuple[float, dict[str, float]]] = []

    def used(self, limit: Limit, now: float) -> float:
        seconds = PERIOD_SECONDS[limit.period]
        entries = [(at, amounts[limit.metric]) for at, amounts in self.log]
        if limit.window == "rolling":
            return sum(amount for at, amount in entries if now - at < seconds)
        if limit.window == "calendar":
            return sum(amount for at, amount in entries if at // seconds == now // seconds)
        level, last = 0.0, 0.0
        for at, amount in [*entries, (now, 0.0)]:
            level = max(0.0, level - (at - last) * limit.amount / seconds) + amount
            last = at
        return level

    def take(self, amounts: dict[str, float], now: float) -> list[Observation]:
        """Serve a call; the ledger must have kept it within every limit."""
        self.log.append((now, amounts))
        for limit in self.limits:
            assert self.used(limit, now) <= limit.amount + 1e-3, f"{limit.name} was oversold"
        return [
            Observation(x.name, x.amount, max(0.0, x.amount - self.used(x, now)))
            for x in self.limits
        ]


class Call:
    def __init__(self, hold: Hold, tracker: QuotaTracker, now: float) -> None:
        self.hold, self.tracker, self.began = hold, tracker, now
        self.spent: Usage | None = None
        self.seen: list[Observation] = []
        self.crashed = False


class LedgerAgainstServer(RuleBasedStateMachine):
    """Two kernels on one ledger, and a server that never may be asked for too much."""

    window = "bucket"
    kernels = 2

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(NOON + 7.3)
        limits = [
            Limit("requests", "minute", 4, self.window),  # type: ignore[arg-type]
            Limit("tokens", "minute", 300, self.window),  # type: ignore[arg-type]
            Limit("requests", "hour", 25, self.window),  # type: ignore[arg-type]
        ]
        self.server = ExactServer(limits)
        self.configuration = custom_configuration(limits, clock=self.clock)
        self.route = a_route(self.configuration)
        self.trackers = [QuotaTracker(s, self.configuration) for s in self.storages()]
        self.calls: list[Call] = []
        self.short = ask(timeout=20.0)
        self.last_hold_ends = 0.0

    def begin(self, hold: Hold, tracker: QuotaTracker) -> None:
        self.calls.append(Call(hold, tracker, self.clock.now))
        self.last_hold_ends = self.clock.now + 51.0

    def storages(self) -> list[Storage]:
        return [MemoryStorage()] * self.kernels

    def open_calls(self, *, arrived: bool | None = None, crashed: bool = False) -> list[Call]:
        return [
            call
            for call in self.calls
            if call.crashed == crashed and arrived in (None, call.spent is not None)
        ]

    @rule(
        kernels=st.lists(st.integers(0, 1), min_size=1, max_size=5),
        max_tokens=st.sampled_from([1, 40, 150]),
        words=st.sampled_from([1, 40]),
    )
    def hold(self, kernels: list[int], max_tokens: int, words: int) -> None:
        request = ask("word " * words, max_tokens, timeout=20.0)
        for kernel in kernels:
            hold = self.trackers[kernel].hold(self.route, request)
            if isinstance(hold, Hold):
                self.begin(hold, self.trackers[kernel])
            else:
                assert hold.opens_at > self.clock.now
                assert hold.reason

    def arrive(self, call: Call, share: float) -> None:
        amounts = call.hold.amounts
        call.spent = Usage(
            int(amounts["input_tokens"] * share), int(amounts["output_tokens"] * share)
        )
        total = float(call.spent.total_tokens)
        call.seen = self.server.take({"requests": 1.0, "tokens": total}, self.clock.now)

    @precondition(lambda self: self.open_calls(arrived=False))
    @rule(most=st.integers(1, 5), share=st.sampled_from([1.0, 0.5, 0.0]))
    def reach_the_server(self, most: int, share: float) -> None:
        for call in self.open_calls(arrived=False)[:most]:
            self.arrive(call, share)

    @precondition(lambda self: self.open_calls(arrived=True))
    @rule(data=st.data(), headers=st.booleans())
    def settle(self, data: st.DataObject, headers: bool) -> None:
        call = data.draw(st.sampled_from(self.open_calls(arrived=True)))
        call.tracker.settle(call.hold, call.spent, call.seen if headers else ())
        self.calls.remove(call)

    @precondition(lambda self: self.open_calls(arrived=False))
    @rule(data=st.data())
    def fail_before_the_server_counted(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.open_calls(arrived=False)))
        refusal = AttemptFailed("429", Remedy.WAIT_FOR_LIMIT, retry_after=2.0)
        call.tracker.fail(call.hold, refusal)
        self.calls.remove(call)

    @precondition(lambda self: self.open_calls(arrived=True))
    @rule(data=st.data())
    def break_after_the_server_counted(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.open_calls(arrived=True)))
        call.tracker.fail(call.hold, AttemptFailed("connection lost", Remedy.RETRY_LATER))
        self.calls.remove(call)

    @precondition(lambda self: self.open_calls())
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.open_calls())).crashed = True

    @precondition(lambda self: self.open_calls(arrived=False, crashed=True))
    @rule(data=st.data(), share=st.floats(0, 1))
    def reach_the_server_after_the_crash(self, data: st.DataObject, share: float) -> None:
        self.arrive(data.draw(st.sampled_from(self.open_calls(arrived=False, crashed=True))), share)

    @rule(seconds=st.sampled_from([1 / 16, 0.5, 3.0, 15.0, 52.0, 59.5, 61.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        # No call outlives its timeout; its hold stays a little longer.
        self.calls = [c for c in self.calls if self.clock.now - c.began <= 20.0]

    @precondition(lambda self: not self.calls)
    @rule()
    def wait_for_the_opening(self) -> None:
        """With nothing under way, the announced moment is the moment."""
        self.clock.now = max(self.clock.now, self.last_hold_ends)
        for _ in range(4):
            state = self.trackers[0].state(self.route, self.short, self.clock.now)
            if state.opens_at <= self.clock.now:
                break
            assert state.opens_at < self.clock.now + 3700
            self.clock.now = state.opens_at
        hold = self.trackers[0].hold(self.route, self.short)
        assert isinstance(hold, Hold), hold
        self.begin(hold, self.trackers[0])

    @invariant()
    def the_ledger_is_never_ahead_of_the_server(self) -> None:
        """With nothing under way or expired, at least what the server counted is used."""
        if self.calls:
            return
        rows = self.trackers[-1].get_usage_summary("groq")["groq_key_1"]
        holds = self.trackers[-1].storage.read(f"groq:{self.route.key.account}")
        if not holds.get("models", {}).get("model-a", {}).get("holds"):
            for limit in self.server.limits:
                assert rows[limit.name]["used"] >= self.server.used(limit, self.clock.now) - 1e-2


class CalendarLedger(LedgerAgainstServer):
    window = "calendar"


class RollingLedger(LedgerAgainstServer):
    window = "rolling"


class FileLedger(LedgerAgainstServer):
    """The same with a file between two kernels."""

    def storages(self) -> list[Storage]:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name, "ledger.json")
        return [JsonFileStorage(path) for _ in range(self.kernels)]

    def teardown(self) -> None:
        self.folder.cleanup()


_thorough = settings(max_examples=100, stateful_step_count=40, deadline=None)
_brief = settings(max_examples=10, stateful_step_count=40, deadline=None)

TestBucketLedger = LedgerAgainstServer.TestCase
TestBucketLedger.settings = _thorough
TestCalendarLedger = CalendarLedger.TestCase
TestCalendarLedger.settings = _thorough
TestRollingLedger = RollingLedger.TestCase
TestRollingLedger.settings = _thorough
TestFileLedger = FileLedger.TestCase
TestFileLedger.settings = _brief


def test_a_configuration_without_keys_has_an_empty_summary(storage: Storage) -> None:
    """Nothing is configured, so there is nothing to show."""
    assert QuotaTracker(storage, Configuration(providers={})).get_usage_summary() == {}
