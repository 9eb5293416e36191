"""Which limits a request uses: keys, accounts, models, overrides, and the server's own count."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from sdk_clients import MODELS, PROVIDERS

from arche_magic.sandbox import Sandbox


@pytest.mark.parametrize("provider", PROVIDERS)
def test_keys_of_one_account_share_limits(start, connect, clock, provider):
    """Two keys of one account share a quota. A third key has its own."""
    sandbox = start(
        clock=clock,
        keys={provider: 3},
        limits={provider: {"requests_per_minute": 2}},
        accounts={f"{provider}_key_1": "team", f"{provider}_key_2": "team"},
    )
    connect(sandbox, provider, 1).ask()
    connect(sandbox, provider, 2).ask()
    assert connect(sandbox, provider, 1).refused().status == 429
    assert connect(sandbox, provider, 2).refused().status == 429
    connect(sandbox, provider, 3).ask()
    assert sandbox.quota()["team"][MODELS[provider]]["requests_per_minute"]["used"] == 2


def test_each_model_has_its_own_limits(start, connect, clock):
    """Using up one model does not affect other models of the same key."""
    client = connect(start(clock=clock, limits={"groq": {"requests_per_minute": 1}}), "groq")
    client.ask()
    client.refused()
    client.ask(model="openai/gpt-oss-20b")


def test_the_most_specific_limit_wins(start, connect, clock):
    """A key's limit overrides a model's, which overrides a provider's. None removes a limit."""
    sandbox = start(
        clock=clock,
        limits={
            "groq": {"requests_per_day": 5, "tokens_per_day": None},
            "groq/openai/gpt-oss-20b": {"requests_per_day": 6},
            "groq_key_2": {"requests_per_day": 7},
        },
    )
    small = "openai/gpt-oss-20b"
    shown = [
        connect(sandbox, "groq", number).ask(model=model).headers["x-ratelimit-limit-requests"]
        for number, model in ((1, ""), (1, small), (2, ""), (2, small))
    ]
    assert shown == ["5", "6", "7", "7"]
    assert "tokens_per_day" not in sandbox.quota()["groq_key_1"][small]


def test_an_account_may_have_been_used_before(start, connect, clock):
    """`left` says what remains at the start, for every model of the key."""
    sandbox = start(clock=clock, left={"google_key_1": {"requests_per_day": 2}})
    client = connect(sandbox, "google")
    for model in ("gemini-3.8-flash", "gemini-3.5-flash-lite"):
        client.ask(model=model)
        client.ask(model=model)
        assert client.refused("hi", model).status == 429


def test_an_amount_left_applies_to_each_key_of_a_provider(start, connect, clock):
    """A provider's name applies to all its keys, and a key's own figure overrides it."""
    left = {"groq": {"requests_per_day": 1}, "groq_key_2": {"requests_per_day": 3}}
    sandbox = start(clock=clock, keys={"groq": 2}, left=left)
    remaining = [
        connect(sandbox, "groq", number).ask().headers["x-ratelimit-remaining-requests"]
        for number in (1, 2)
    ]
    assert remaining == ["0", "2"]


def test_refused_requests_cost_nothing(start, connect, clock):
    """A refusal changes no limit, not even those that had room."""
    sandbox = start(clock=clock, limits={"mistral": {"requests_per_minute": 1}})
    client = connect(sandbox, "mistral")
    client.ask()
    before = sandbox.quota()
    client.refused()
    assert sandbox.quota() == before


def test_usage_is_counted_per_key_and_model(start, connect, clock):
    """The server's own count is what the SDK reported."""
    sandbox = start(clock=clock, limits={"groq": {"requests_per_minute": 2}})
    client = connect(sandbox, "groq", 2)
    first, second = client.ask(), client.read(client.stream())
    client.refused()
    assert sandbox.usage() == {
        "groq_key_2": {
            MODELS["groq"]: {
                "requests": 2,
                "input_tokens": first.input_tokens + second.input_tokens,
                "output_tokens": first.output_tokens + second.output_tokens,
                "refused": 1,
                "failed": 0,
            }
        }
    }
    assert [(r.key, r.status, r.stream) for r in sandbox.requests] == [
        ("groq_key_2", 200, False),
        ("groq_key_2", 200, True),
        ("groq_key_2", 429, False),
    ]


def test_reset_goes_back_to_the_start(start, connect, clock):
    """After reset nothing is used, counted, scripted or remembered."""
    sandbox = start(clock=clock, limits={"groq": {"requests_per_minute": 1}})
    client = connect(sandbox, "groq")
    client.ask()
    sandbox.fail("*", "server_error", times=None)
    sandbox.reset()
    assert sandbox.usage() == sandbox.quota() == {}
    assert sandbox.requests == ()
    client.ask()


def test_parallel_calls_never_oversell_a_limit(start, connect, clock):
    """Many threads ask at the same time, and exactly the limit is admitted."""
    sandbox = start(clock=clock, limits={"openai": {"requests_per_minute": 20}})
    client = connect(sandbox, "openai")

    def attempt(_: int) -> bool:
        try:
            client.ask("hi")
        except openai.RateLimitError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(50))) == 20
    assert sandbox.usage()["openai_key_1"][MODELS["openai"]]["refused"] == 30


def test_time_scale_makes_windows_turn_faster(start, connect, clock):
    """At 600 times the speed, a minute's limit is back after a tenth of a second."""
    limits = {"mistral": {"requests_per_minute": 1}}
    sandbox = start(clock=clock, time_scale=600, limits=limits)
    client, began = connect(sandbox, "mistral"), sandbox.clock()
    client.ask()
    clock.advance(0.099)
    client.refused()
    clock.advance(0.002)
    assert sandbox.clock() - began == pytest.approx(60.6, abs=0.01)
    client.ask()


@pytest.mark.parametrize(
    "options",
    [
        {"keys": {"grok": 1}},
        {"limits": {"groq": {"requests_per_fortnight": 1}}},
        {"limits": {"groq/unknown": {"requests_per_day": 1}}},
        {"limits": {"groq_key_9": {"requests_per_day": 1}}},
        {"left": {"grok": {"requests_per_day": 1}}},
        {"accounts": {"groq_key_4": "team"}},
    ],
)
def test_wrong_settings_are_refused_by_name(options):
    """An unknown name raises a ValueError that lists the known names."""
    with pytest.raises(ValueError, match="known: "):
        Sandbox(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keys": {"groq": -1}}, "the number of keys of groq must be at least 0"),
        ({"keys": {"groq": 1_000_000}}, "the number of keys of groq must be at most 10,000"),
        (
            {"limits": {"groq": {"requests_per_day": -5}}},
            "groq.requests_per_day must be at least 0",
        ),
        ({"left": {"groq": {"requests_per_day": -5}}}, "groq.requests_per_day must be at least 0"),
        ({"latency": -1}, "latency must be at least 0"),
        ({"time_scale": float("nan")}, "time_scale must be greater than 0"),
        ({"port": 70_000}, "port must be 0 to 65,535"),
    ],
)
def test_numbers_out_of_range_are_refused(options, words):
    """Nothing is started."""
    with pytest.raises(ValueError, match=words):
        Sandbox(**options)
