"""Keys of one account share its limits as soon as the provider names the account."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from engine_parts import (
    RPD,
    RPM,
    TPM,
    Build,
    Clock,
    a_route,
    ask,
    custom_configuration,
    failed,
    held,
    opens_in,
    proven,
    served,
    set_by_user,
    used,
)

from arche_magic.llm_providers.config import label_keys
from arche_magic.llm_providers.provider_failure import ProviderFailure, Remedy
from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker, Settlement
from arche_magic.llm_providers.storage import Change, MemoryStorage, T
from arche_magic.llm_providers.types import Limit, Observation, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from arche_magic.llm_providers.storage import Storage

DAY = set_by_user(Limit("requests", "day", 100, "calendar"))


def named(tracker: QuotaTracker, key: int, account: str | None = "org_1") -> None:
    """A served call of this key whose reply names the account."""
    served(tracker, a_route(tracker.configuration, key), account=account)


def test_until_something_is_known_each_key_is_its_own_account(tracker_of: Build) -> None:
    """No limits are shared, and no table says that they are."""
    tracker = tracker_of(DAY)
    named(tracker, 1, None)
    assert used(tracker, limit="requests_per_day") == 1
    assert used(tracker, "groq_key_2", "requests_per_day") == 0
    assert tracker.shared_keys() == {}


def test_usage_of_two_keys_is_added_when_they_share_an_account(tracker_of: Build) -> None:
    """What each key used before counts for both from then on."""
    tracker = tracker_of(DAY)
    for key, calls in ((1, 3), (2, 2)):
        for _ in range(calls):
            named(tracker, key, None)
    named(tracker, 1)
    assert used(tracker, "groq_key_2", "requests_per_day") == 2
    named(tracker, 2)
    for label in ("groq_key_1", "groq_key_2"):
        assert used(tracker, label, "requests_per_day") == 7
    assert tracker.shared_keys() == {"groq_key_2": "groq_key_1"}
    assert {row.account for row in tracker.standings()} == {"org_1"}


def test_keys_of_different_accounts_stay_separate(tracker_of: Build) -> None:
    """Different organizations have separate quotas."""
    tracker = tracker_of(DAY)
    named(tracker, 1, "org_1")
    named(tracker, 2, "org_2")
    assert used(tracker, limit="requests_per_day") == 1
    assert tracker.shared_keys() == {}


def test_every_kernel_knows_a_shared_account_even_after_a_restart(
    storage: Storage, clock: Clock
) -> None:
    """A newly opened ledger with the keys in another order uses the same document."""
    configuration = custom_configuration([DAY], clock=clock)
    first = QuotaTracker(storage, configuration)
    second = QuotaTracker(storage, configuration)
    named(second, 2, None)
    named(first, 1)
    named(first, 2)
    assert used(second, "groq_key_2", "requests_per_day") == 3
    keys = label_keys("groq", ["made-up-key-1", "made-up-key-0"])
    third = QuotaTracker(storage, replace(configuration, keys=keys))
    assert third.shared_keys() == {"groq_key_2": "groq_key_1"}
    assert used(third, "groq_key_2", "requests_per_day") == 3


def test_a_429_for_one_key_closes_the_other_keys_of_its_account(tracker_of: Build) -> None:
    """Another key of the same account would be refused as well."""
    tracker = tracker_of(RPM)
    named(tracker, 2)
    refusal = ProviderFailure("429", Remedy.WAIT_FOR_LIMIT, retry_after=42)
    tracker.fail(held(tracker, a_route(tracker.configuration)), refusal, "org_1")
    assert opens_in(tracker, a_route(tracker.configuration, 2)) == 42


def test_a_refusal_that_names_the_account_closes_all_its_keys(
    tracker_of: Build,
) -> None:
    """An account without credit is closed for each of its keys, and other accounts stay open."""
    tracker = tracker_of(RPM, keys=3)
    for key, account in ((1, "org_1"), (2, "org_1"), (3, "org_2")):
        named(tracker, key, account)
    failed(tracker, a_route(tracker.configuration), Remedy.TOP_UP_ACCOUNT)
    opens = [opens_in(tracker, a_route(tracker.configuration, key)) for key in (1, 2, 3)]
    assert opens == [3600, 3600, 0]


def test_a_rejected_key_does_not_close_the_other_keys_of_its_account(
    tracker_of: Build,
) -> None:
    """An invalid key says nothing about its account."""
    tracker = tracker_of()
    named(tracker, 1)
    named(tracker, 2)
    failed(tracker, a_route(tracker.configuration), Remedy.REPLACE_KEY)
    assert opens_in(tracker, a_route(tracker.configuration)) > 1e9
    assert opens_in(tracker, a_route(tracker.configuration, 2)) == 0


def test_closures_of_keys_are_merged_when_their_account_becomes_known(tracker_of: Build) -> None:
    """The longer of two closures is kept."""
    tracker = tracker_of()
    routes = [a_route(tracker.configuration, key) for key in (1, 2)]
    holds = [held(tracker, route) for route in routes]
    failed(tracker, routes[0], Remedy.WAIT_FOR_LIMIT, retry_after=50)
    failed(tracker, routes[1], Remedy.WAIT_FOR_LIMIT, retry_after=900)
    for hold in holds:
        tracker.settle(Settlement(hold, Usage(1, 1), account="org_1"))
    assert [opens_in(tracker, route) for route in routes] == [900, 900]


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_in_progress_is_settled_once_when_the_account_becomes_known(
    tracker_of: Build, fails: bool
) -> None:
    """Its hold moves to the account with everything else."""
    tracker = tracker_of(DAY)
    early = held(tracker, a_route(tracker.configuration, 2))
    named(tracker, 1)
    named(tracker, 2)
    assert used(tracker, limit="requests_per_day") == 3
    if fails:
        tracker.fail(early, ProviderFailure("429", Remedy.WAIT_FOR_LIMIT, retry_after=1))
    else:
        tracker.settle(Settlement(early, Usage(5, 5)))
    assert used(tracker, limit="requests_per_day") == (2 if fails else 3)
    # A hold that stayed behind would be charged when it expires.
    tracker.configuration.clock.sleep(3600)
    assert used(tracker, limit="requests_per_day") == (2 if fails else 3)


def test_a_hold_moves_to_the_account_and_is_charged_there(tracker_of: Build, clock: Clock) -> None:
    """If its kernel dies, the account is charged."""
    tracker = tracker_of(replace(DAY, amount=3))
    held(tracker, a_route(tracker.configuration, 2))
    named(tracker, 1)
    named(tracker, 2)
    assert isinstance(tracker.hold(a_route(tracker.configuration), ask()), RouteState)
    clock.now += 100
    assert used(tracker, limit="requests_per_day") == 3


class Meanwhile(MemoryStorage):
    """Runs a callback just before the next change."""

    def __init__(self) -> None:
        super().__init__()
        self.happens: Callable[[], None] | None = None

    def update(self, name: str, change: Change[T], *others: str) -> T:
        happens, self.happens = self.happens, None
        if happens:
            happens()
        return super().update(name, change, *others)


def test_a_hold_goes_to_the_account_if_another_kernel_moves_the_key(clock: Clock) -> None:
    """The account becomes known between finding the document and changing it."""
    storage = Meanwhile()
    configuration = custom_configuration([replace(DAY, amount=2)], clock=clock)
    one, two = (QuotaTracker(storage, configuration) for _ in range(2))
    named(one, 1)
    storage.happens = lambda: named(one, 2)
    late = two.hold(a_route(configuration, 2), ask())
    assert isinstance(late, RouteState)
    assert used(two, limit="requests_per_day") == 2


def test_limits_learned_with_one_key_apply_to_the_other(tracker_of: Build) -> None:
    """The account has one limit, whichever key revealed it."""
    tracker = tracker_of(DAY)
    seen = [Observation("requests_per_day", 50, 49)]
    served(tracker, a_route(tracker.configuration), observations=seen)
    named(tracker, 1)
    named(tracker, 2)
    row = tracker.get_usage_summary("groq")["groq"]["groq_key_2"]["requests_per_day"]
    assert (row["limit"], row["evidence"], row["used"]) == (50, "header", 3)


def test_remaining_figures_apply_to_the_account_that_the_reply_names(tracker_of: Build) -> None:
    """The first reply of a second key includes the first key's calls: they count once."""
    tracker = tracker_of(DAY)
    for _ in range(10):
        named(tracker, 1)
    tracker.configuration.clock.sleep(1)
    served(
        tracker,
        a_route(tracker.configuration, 2),
        observations=[Observation("requests_per_day", 100, 89)],
        account="org_1",
    )
    assert used(tracker, limit="requests_per_day") == 11


def test_a_key_that_moves_to_another_account_is_counted_there(tracker_of: Build) -> None:
    """Earlier usage stays with the old account; the call that named the new one counts there."""
    tracker = tracker_of(DAY)
    named(tracker, 2, None)
    for key in (1, 2, 1):
        named(tracker, key)
    named(tracker, 2, "org_2")
    assert used(tracker, limit="requests_per_day") == 4
    assert used(tracker, "groq_key_2", "requests_per_day") == 1
    assert tracker.shared_keys() == {}


def test_an_organization_with_or_without_a_project_is_the_same_account(tracker_of: Build) -> None:
    """A reply that omits the project does not separate the key from its account."""
    tracker = tracker_of(DAY)
    for account in ("org-1/proj_a", "org-1", "org-1/proj_a"):
        named(tracker, 1, account)
    assert used(tracker, limit="requests_per_day") == 3
    named(tracker, 2, "org-1/proj_b")
    assert tracker.shared_keys() == {}


def test_a_configured_account_takes_precedence(storage: Storage, clock: Clock) -> None:
    """The user names an account for two keys; the provider gives a third key the same account."""
    configuration = custom_configuration([DAY], clock=clock)
    accounts = {"groq_key_1": "team", "groq_key_2": "team"}
    keys = label_keys("groq", ["one", "two", "three"], accounts)
    tracker = QuotaTracker(storage, replace(configuration, keys=keys))
    assert tracker.shared_keys() == {"groq_key_2": "groq_key_1"}
    named(tracker, 1, None)
    assert used(tracker, "groq_key_2", "requests_per_day") == 1
    assert used(tracker, "groq_key_3", "requests_per_day") == 0
    named(tracker, 3)
    named(tracker, 1)
    assert tracker.shared_keys() == {"groq_key_2": "groq_key_1", "groq_key_3": "groq_key_1"}
    assert used(tracker, "groq_key_3", "requests_per_day") == 3
    assert {row.account for row in tracker.standings()} == {"team"}


def test_reopening_a_key_forgets_what_its_account_used(tracker_of: Build) -> None:
    """Usage that was merged from single keys does not come back."""
    tracker = tracker_of(DAY)
    named(tracker, 1, None)
    named(tracker, 1)
    named(tracker, 2)
    tracker.reopen("groq_key_2")
    assert used(tracker, limit="requests_per_day") == 0
    assert tracker.shared_keys() == {"groq_key_2": "groq_key_1"}
    named(tracker, 1)
    assert used(tracker, "groq_key_2", "requests_per_day") == 1


def test_a_merged_bucket_does_not_refill_twice_as_fast(tracker_of: Build, clock: Clock) -> None:
    """Two half-used buckets that were always one bucket are merged into a fully used one."""
    tracker = tracker_of(Limit("requests", "hour", 20, "bucket"))
    for key in (1, 2):
        for _ in range(10):
            named(tracker, key, None)
    clock.now += 1200
    assert used(tracker, limit="requests_per_hour") == pytest.approx(3.33, abs=0.01)
    named(tracker, 1)
    named(tracker, 2)
    assert 20 - 20 / 3 + 2 - 0.01 <= used(tracker, limit="requests_per_hour") <= 17.1


def test_merging_two_hardly_used_keys_leaves_most_of_the_limit(
    tracker_of: Build, clock: Clock
) -> None:
    """Merging two buckets overcounts by at most one slot's refill."""
    tracker = tracker_of(RPD)
    for key in (1, 2):
        for _ in range(10):
            named(tracker, key, None)
    clock.now += 7200
    named(tracker, 1)
    named(tracker, 2)
    assert 20 - 100 / 12 + 2 - 0.01 <= used(tracker, limit="requests_per_day") <= 22


def test_threads_that_learn_the_account_at_once_lose_no_counts(
    storage: Storage, clock: Clock
) -> None:
    """Eight threads use two keys, and each first reply names the account."""
    configuration = custom_configuration([replace(DAY, amount=1000)], clock=clock)
    proven(QuotaTracker(storage, configuration))
    trackers = [QuotaTracker(storage, configuration) for _ in range(8)]

    def work(number: int) -> None:
        for _ in range(5):
            named(trackers[number], 1 + number % 2)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert used(trackers[0], limit="requests_per_day") == 40
    assert isinstance(held(trackers[0], a_route(configuration)), Hold)


def test_the_tokens_of_both_keys_are_counted(tracker_of: Build) -> None:
    """Requests are not the only amounts that are counted."""
    tracker = tracker_of(TPM)
    for key in (1, 2):
        served(tracker, a_route(tracker.configuration, key), account=None)
    named(tracker, 1)
    named(tracker, 2)
    assert used(tracker, limit="tokens_per_minute") == 40


def test_a_call_charged_as_lost_is_not_charged_again() -> None:
    """The machine slept while calls ran that were held together, after one named the account."""
    clock = Clock()
    tracker = proven(QuotaTracker(MemoryStorage(), custom_configuration([DAY], clock=clock)))
    route = a_route(tracker.configuration)
    calls = tracker.hold_all(route, [ask()] * 3)
    assert isinstance(calls, list)
    tracker.settle(Settlement(calls[0], Usage(5, 5), account="org_1"))
    clock.now += 600
    charged = used(tracker, limit="requests_per_day")
    for call in calls[1:]:
        tracker.settle(Settlement(call, Usage(5, 5)))
    assert used(tracker, limit="requests_per_day") == charged == 3
