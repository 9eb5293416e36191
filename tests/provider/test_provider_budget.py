"""`[budget]`: paid routes are used until the budget is spent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from provider_parts import NOON, Clock, Start, asked

from arche_magic.llm_providers import (
    ConfigurationError,
    NoRouteAvailable,
    get_llm_provider,
    get_quota_tracker,
)
from arche_magic.llm_providers.config import (
    get_configuration,
    load_configuration,
    use_configuration,
)
from arche_magic.llm_providers.quota.merging import merge_documents
from arche_magic.llm_providers.quota_tracker import Hold
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.types import Budget

MODEL = "gpt-4.1-mini"
DAY = 86_400.0


def spend(per_day: float | None, per_month: float | None = None, price: float = 1000.0) -> None:
    """Set a budget, and the price of a million tokens of the paid model."""
    configuration = get_configuration()
    openai = replace(configuration.providers["openai"], prices={MODEL: (price, price)})
    providers = {**configuration.providers, "openai": openai}
    budget = Budget(per_day, per_month)
    use_configuration(replace(configuration, providers=providers, budget=budget))


def test_a_paid_route_is_closed_once_the_budget_is_spent(start: Start, clock: Clock) -> None:
    """It opens at the next midnight UTC; the error says what was spent."""
    start(keys={"openai": 1}, clock=clock)
    spend(per_day=0.30)
    provider = get_llm_provider("openai")
    costs: list[float] = []

    def ask_on() -> None:
        prompts = (f"Prompt {number}" for number in range(20))
        costs.extend(provider.generate(p, max_tokens=100, patience=0).cost for p in prompts)

    with pytest.raises(NoRouteAvailable, match="budget") as caught:
        ask_on()
    total = sum(costs)
    assert 0.10 < total <= 0.30
    assert caught.value.next_available_at.timestamp() == NOON + DAY / 2
    (use,) = get_quota_tracker().budget()
    assert use.spent == pytest.approx(total)
    clock.now += DAY / 2
    assert provider.generate("A new day", max_tokens=100, patience=0).provider == "openai"


def test_the_monthly_budget_is_separate(start: Start, clock: Clock) -> None:
    """Money left for the day does not help."""
    start(keys={"openai": 1}, clock=clock)
    spend(per_day=100, per_month=0.20)
    provider = get_llm_provider("openai")

    def ask_on() -> None:
        for number in range(20):
            provider.generate(f"Prompt {number}", max_tokens=80, patience=0)

    with pytest.raises(NoRouteAvailable, match="this month") as caught:
        ask_on()
    assert caught.value.next_available_at.day == 1


def test_free_routes_stay_open(start: Start, clock: Clock) -> None:
    """A budget of zero allows only free routes."""
    sandbox = start(keys={"groq": 1, "openai": 1}, clock=clock)
    spend(per_day=0)
    assert get_llm_provider().generate("Hello").provider == "groq"
    sandbox.fail("groq", "server_error")
    with pytest.raises(NoRouteAvailable):
        get_llm_provider().generate("Hello", patience=0)
    assert "openai" not in asked(sandbox)


def test_a_model_with_an_unknown_price_is_not_used(start: Start, clock: Clock) -> None:
    """Otherwise the rest of the budget would be unknown."""
    sandbox = start(keys={"openai": 1}, clock=clock)
    spend(per_day=5)
    with pytest.raises(NoRouteAvailable, match="its price is unknown"):
        get_llm_provider("openai").generate("Hello", model="openai/no-such-model", patience=0)
    assert asked(sandbox) == []


def test_a_request_that_may_cost_more_than_the_budget_is_not_sent(
    start: Start, clock: Clock
) -> None:
    """Its longest allowed reply is included."""
    sandbox = start(keys={"openai": 1}, clock=clock)
    spend(per_day=0.50)
    with pytest.raises(NoRouteAvailable, match=r"is more than the budget of 0\.50 a day"):
        get_llm_provider("openai").generate("Hello", max_tokens=4000, patience=0)
    assert asked(sandbox) == []


def test_a_refused_request_costs_nothing(start: Start, clock: Clock) -> None:
    """The amount reserved for it is available again."""
    sandbox = start(keys={"openai": 1}, clock=clock)
    spend(per_day=0.30)
    sandbox.fail("openai", "unauthorized")
    with pytest.raises(NoRouteAvailable):
        get_llm_provider("openai").generate("Hello", max_tokens=100, patience=0)
    (use,) = get_quota_tracker().budget()
    assert use.spent == 0


def test_the_receipt_shows_the_rest_of_the_budget(start: Start, clock: Clock) -> None:
    """Next to what is left of the limits."""
    start(keys={"openai": 1}, clock=clock)
    spend(per_day=3)
    reply = get_llm_provider("openai").generate("Hello", max_tokens=100)
    (use,) = get_quota_tracker().budget()
    assert reply.standing.endswith(f" · {use.left}")
    assert use.left.endswith("of 3.00 USD left today")


def test_a_call_that_never_ended_counts_as_reserved(start: Start, clock: Clock) -> None:
    """Its kernel was killed, and the service may have answered."""
    start(keys={"openai": 1}, clock=clock)
    spend(per_day=3)
    tracker = get_quota_tracker()
    request = Request((Message("user", "Hello"),), max_tokens=100)
    assert isinstance(tracker.hold(tracker.configuration.routes()[0], request), Hold)
    (held,) = tracker.budget()
    assert held.spent > 0.1
    clock.now += request.timeout + 60
    reply = get_llm_provider("openai").generate("Hello", max_tokens=100)
    (use,) = tracker.budget()
    assert use.spent == pytest.approx(held.spent + reply.cost)


def test_costs_counted_while_redis_was_down_are_added() -> None:
    """Each copy of the ledger has its own part of the day."""
    before = {"spent": {"2026-11-25": 1.0}, "held": {"ended": {"usd": 0.5, "expires": 9.0}}}
    ours = {"spent": {"2026-11-25": 1.4}, "held": {}}
    theirs = {
        "spent": {"2026-11-25": 1.25},
        "held": {"ended": {"usd": 0.5, "expires": 9.0}, "other": {"usd": 0.1, "expires": 9.0}},
    }
    merge_documents("budget of all providers", before, ours, theirs, NOON)
    assert theirs["spent"]["2026-11-25"] == pytest.approx(1.65)
    assert list(theirs["held"]) == ["other"]


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[budget]\nper_dya = 1", "unknown setting 'per_dya'; did you mean 'per_day'?"),
        ("[budget]\nper_day = -1", "per_day is -1; it must be USD, 0 or more"),
        ("[budget]\nper_day = '1'", "per_day is '1'"),
        ("budget = 3", "budget is 3; it must be a table"),
    ],
)
def test_an_invalid_budget_is_refused_in_one_line(toml: str, words: str) -> None:
    """The error names the file and the valid values."""
    Path("arche_magic.toml").write_text(toml)
    with pytest.raises(ConfigurationError) as caught:
        load_configuration()
    assert words in str(caught.value)


def test_a_budget_is_read_from_the_settings() -> None:
    """The amounts are in USD."""
    Path("arche_magic.toml").write_text("[budget]\nper_day = 0.5\nper_month = 5\n")
    assert load_configuration().budget == Budget(0.5, 5.0)
    Path("arche_magic.toml").write_text("")
    assert load_configuration().budget is None
