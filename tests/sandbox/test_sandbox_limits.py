"""Limits of the sandbox: each provider's headers, refusals and windows."""

from __future__ import annotations

import math
import re

import pytest
from sdk_clients import MODELS

TRY_AGAIN = re.compile(
    r"on (?P<dim>[a-z ]+) \((?P<abbr>[A-Z]+)\): Limit (?P<limit>\d+), Used (?P<used>\d+), "
    r"Requested (?P<requested>\d+)\. Please try again in (?P<wait>[0-9hms.]+)\."
)


def detail(refused, name):
    """One entry of a Google error's details, by the end of its @type."""
    return next(d for d in refused.body["error"]["details"] if d["@type"].endswith(name))


# --- headers of a success


def test_groq_headers_show_requests_per_day_and_tokens_per_minute(start, connect, clock):
    """Groq's two header families are requests per day and tokens per minute, in Go durations."""
    reply = connect(start(clock=clock), "groq").ask()
    used = reply.input_tokens + reply.output_tokens
    assert reply.headers["x-ratelimit-limit-requests"] == "1000"
    assert reply.headers["x-ratelimit-remaining-requests"] == "999"
    assert reply.headers["x-ratelimit-reset-requests"] == "1m26.4s"
    assert reply.headers["x-ratelimit-limit-tokens"] == "8000"
    assert reply.headers["x-ratelimit-remaining-tokens"] == str(8000 - used)
    # reset = used / limit * window, as in all recorded responses
    expected = round(used / 8000 * 60_000)
    assert reply.headers["x-ratelimit-reset-tokens"] == f"{expected}ms"
    assert "retry-after" not in reply.headers


def test_openai_headers_show_requests_per_minute_and_the_account(start, connect, clock):
    """OpenAI names requests per minute, and whose quota is spent."""
    headers = connect(start(clock=clock, accounts={"openai_key_1": "team"}), "openai").ask().headers
    assert headers["x-ratelimit-limit-requests"] == "500"
    assert headers["x-ratelimit-remaining-requests"] == "499"
    assert headers["x-ratelimit-reset-requests"] == "120ms"
    assert headers["x-ratelimit-limit-tokens"] == "200000"
    assert headers["openai-organization"] == "org-sandbox-team"
    assert headers["openai-project"] == "proj_sandbox_team"


def test_openai_headers_show_requests_per_day_where_that_is_the_limit(start, connect, clock):
    """If an account has only a limit per day, the same header shows that limit."""
    limits = {"openai": {"requests_per_minute": None, "requests_per_day": 200}}
    headers = connect(start(clock=clock, limits=limits), "openai").ask().headers
    assert headers["x-ratelimit-limit-requests"] == "200"
    assert headers["x-ratelimit-reset-requests"] == "7m12s"


def test_mistral_headers_are_plain_numbers_and_absent_from_streams(start, connect, clock):
    """Mistral shows limits and the call's cost, but no reset, and nothing on a stream."""
    client = connect(start(clock=clock), "mistral")
    reply = client.ask()
    cost = reply.input_tokens + reply.output_tokens
    assert reply.headers["x-ratelimit-tokens-query-cost"] == str(cost)
    assert reply.headers["x-ratelimit-limit-req-minute"] == "60"
    assert reply.headers["x-ratelimit-remaining-req-minute"] == "59"
    assert reply.headers["x-ratelimit-remaining-tokens-minute"] == str(100_000 - cost)
    assert reply.headers["x-ratelimit-remaining-tokens-month"] == str(1_000_000_000 - cost)
    client.read(client.stream())
    assert not [name for name in client.headers if "ratelimit" in name]


def test_google_has_no_limit_headers(start, connect, clock):
    """Gemini shows nothing about limits before they are hit."""
    headers = connect(start(clock=clock), "google").ask().headers
    assert not [name for name in headers if "ratelimit" in name or "retry" in name]


@pytest.mark.parametrize("provider", ["groq", "openai"])
def test_streams_carry_limit_headers(start, connect, clock, provider):
    """Groq and OpenAI send the same headers with a stream, before its output is counted."""
    client = connect(start(clock=clock), provider)
    reply = client.read(client.stream())
    assert "x-ratelimit-remaining-tokens" in reply.headers


# --- refusals and refills


def test_groq_refuses_the_31st_request_of_a_minute_and_refills(start, connect, clock):
    """A bucket of 30 a minute returns one request every 2 s, regardless of the clock."""
    limits = {"groq": {"tokens_per_minute": None}}
    client = connect(start(clock=clock, limits=limits), "groq")
    for _ in range(30):
        client.ask("hi")
    refused = client.refused("hi")
    words = TRY_AGAIN.search(refused.message)
    assert refused.status == 429
    assert words["dim"] == "requests per minute"
    assert (words["abbr"], words["limit"], words["used"]) == ("RPM", "30", "30")
    assert words["wait"] == "2s"
    assert refused.headers["retry-after"] == "2"
    assert refused.body["error"]["code"] == "rate_limit_exceeded"
    assert "organization `org_sandbox_groq_key_1`" in refused.message
    clock.advance(1.9)
    client.refused("hi")
    clock.advance(0.1)
    client.ask("hi")


def test_groq_states_a_wait_in_minutes_for_a_limit_per_day(start, connect, clock):
    """Requests per day come back one by one too: 1 of 1,000 takes 1m26.4s."""
    sandbox = start(clock=clock, left={"groq_key_1": {"requests_per_day": 1}})
    client = connect(sandbox, "groq")
    client.ask()
    refused = client.refused()
    words = TRY_AGAIN.search(refused.message)
    assert (words["abbr"], words["used"], words["wait"]) == ("RPD", "1000", "1m26.4s")
    assert refused.headers["retry-after"] == "87"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    clock.advance(86.4)
    client.ask()


def test_groq_token_wait_follows_the_recorded_formula(start, connect, clock):
    """The wait is (Used + Requested - Limit) / Limit x 60 s, and is long enough."""
    client = connect(start(clock=clock), "groq")
    client.ask("[tokens=7900]")
    refused = client.refused("x" * 4 * 1000)
    words = TRY_AGAIN.search(refused.message)
    used, requested = int(words["used"]), int(words["requested"])
    wait = (used + requested - 8000) / 8000 * 60
    assert words["wait"] == f"{wait:.3f}".rstrip("0").rstrip(".") + "s"
    assert refused.headers["retry-after"] == str(math.ceil(wait))
    assert refused.body["error"]["type"] == "tokens"
    clock.advance(wait + 0.001)
    client.ask("x" * 4 * 1000)


def test_groq_request_larger_than_the_limit_is_413(start, connect, clock):
    """Waiting does not help a request that is larger than the limit. Nothing is charged."""
    sandbox = start(clock=clock)
    client = connect(sandbox, "groq")
    refused = client.refused("x" * 40_000)
    assert refused.status == 413
    assert refused.message.startswith("Request too large for model `openai/gpt-oss-120b`")
    assert "Requested 10007" in refused.message
    assert all(v["used"] == 0 for v in sandbox.quota()["groq_key_1"][MODELS["groq"]].values())


def test_openai_refusal_has_retry_after_in_milliseconds(start, connect, clock):
    """A bucket of 3 a minute refills one request in 20 s, announced in both headers."""
    limits = {"openai": {"requests_per_minute": 3}}
    client = connect(start(clock=clock, limits=limits), "openai")
    for _ in range(3):
        client.ask()
    refused = client.refused()
    words = TRY_AGAIN.search(refused.message)
    assert (words["dim"], words["abbr"], words["wait"]) == ("requests per min", "RPM", "20s")
    assert refused.headers["retry-after"] == "20"
    assert refused.headers["retry-after-ms"] == "20000"
    assert refused.error.code == "rate_limit_exceeded"
    assert refused.error.type == "requests"
    clock.advance(20)
    client.ask()


def test_openai_request_larger_than_the_limit_is_429_without_retry_after(start, connect, clock):
    """OpenAI does not use 413. It sends the usual 429, without a time to wait."""
    client = connect(start(clock=clock, limits={"openai": {"tokens_per_minute": 50}}), "openai")
    refused = client.refused("x" * 4000)
    assert refused.status == 429
    assert refused.message.startswith("Request too large for gpt-4.1-mini")
    assert "retry-after" not in refused.headers


def test_mistral_counts_the_last_60_seconds(start, connect, clock):
    """Mistral's window rolls: each request is forgotten 60 s after it was made."""
    client = connect(start(clock=clock, limits={"mistral": {"requests_per_minute": 2}}), "mistral")
    client.ask()
    clock.advance(40)
    client.ask()
    refused = client.refused()
    assert refused.status == 429
    assert refused.body == {
        "object": "error",
        "message": "Rate limit exceeded",
        "type": "rate_limited",
        "param": None,
        "code": "1300",
        "raw_status_code": 429,
    }
    assert "retry-after" not in refused.headers
    assert "x-ratelimit-remaining-req-minute" not in refused.headers
    clock.advance(20)
    client.ask()
    client.refused()
    clock.advance(40)
    client.ask()


def test_mistral_can_be_held_to_one_request_a_second(start, connect, clock):
    """The older documented limit of 1 request per second can be turned on."""
    limits = {"mistral": {"requests_per_second": 1}}
    client = connect(start(clock=clock, limits=limits), "mistral")
    client.ask()
    assert client.refused().status == 429
    clock.advance(1)
    client.ask()


def test_google_minute_is_the_clock_minute(start, connect, clock):
    """Gemini's requests per minute reset on the full minute."""
    clock.set("2026-11-23T12:00:48+00:00")
    client = connect(start(clock=clock, limits={"google": {"requests_per_minute": 1}}), "google")
    client.ask()
    refused = client.refused()
    violation = detail(refused, "QuotaFailure")["violations"][0]
    assert refused.status == 429
    assert refused.body["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert violation["quotaId"] == "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
    assert violation["quotaValue"] == "1"
    assert violation["quotaDimensions"]["model"] == "gemini-3.8-flash"
    assert detail(refused, "RetryInfo")["retryDelay"] == "12s"
    assert "Please retry in 12.0" in refused.message
    clock.set("2026-11-23T12:01:00+00:00")
    client.ask()


@pytest.mark.parametrize(
    ("spent_at", "last_refusal", "open_again"),
    [
        # Pacific standard time: midnight is 08:00 UTC.
        ("2026-11-23T09:00:00+00:00", "2026-11-24T07:59:59+00:00", "2026-11-24T08:00:00+00:00"),
        # Clocks go back on 2026-11-01: that day lasts 25 hours.
        ("2026-11-01T07:00:00+00:00", "2026-11-02T07:59:59+00:00", "2026-11-02T08:00:00+00:00"),
        # Clocks go forward on 2026-03-08: that day lasts 23 hours.
        ("2026-03-08T08:00:00+00:00", "2026-03-09T06:59:59+00:00", "2026-03-09T07:00:00+00:00"),
    ],
)
def test_google_day_ends_at_midnight_pacific(
    start, connect, clock, spent_at, last_refusal, open_again
):
    """A spent day opens at midnight in Los Angeles, even if the error names a shorter delay."""
    clock.set(spent_at)
    client = connect(start(clock=clock, limits={"google": {"requests_per_day": 1}}), "google")
    client.ask()
    refused = client.refused()
    violation = detail(refused, "QuotaFailure")["violations"][0]
    assert violation["quotaId"] == "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
    assert int(detail(refused, "RetryInfo")["retryDelay"].rstrip("s")) <= 60
    clock.set(last_refusal)
    client.refused()
    clock.set(open_again)
    client.ask()


def test_google_counts_input_tokens_only(start, connect, clock):
    """Output does not count toward Gemini's tokens per minute."""
    limits = {"google": {"input_tokens_per_minute": 100}}
    sandbox = start(clock=clock, limits=limits)
    client = connect(sandbox, "google")
    client.ask("[tokens=3000]")
    assert sandbox.quota()["google_key_1"]["gemini-3.8-flash"]["input_tokens_per_minute"] == {
        "limit": 100,
        "used": 11,
    }
    refused = client.refused("x" * 360)
    violation = detail(refused, "QuotaFailure")["violations"][0]
    assert violation["quotaId"] == "GenerateContentInputTokensPerModelPerMinute-FreeTier"


def test_google_lists_every_limit_that_is_hit(start, connect, clock):
    """If the minute and the day are spent, the error has both violations."""
    limits = {"google": {"requests_per_minute": 1, "requests_per_day": 1}}
    client = connect(start(clock=clock, limits=limits), "google")
    client.ask()
    violations = detail(client.refused(), "QuotaFailure")["violations"]
    assert len(violations) == 2


# --- not in the plan


def test_pro_models_are_not_in_googles_free_tier(start, connect, clock):
    """A limit of 0 is a 429 that names limit 0 and no quotaValue."""
    refused = connect(start(clock=clock), "google").refused("hi", "gemini-3.8-pro")
    violation = detail(refused, "QuotaFailure")["violations"][0]
    assert refused.status == 429
    assert "limit: 0, model: gemini-3.8-pro" in refused.message
    assert "quotaValue" not in violation


def test_each_provider_reports_a_limit_of_0_in_its_own_way(start, connect, clock):
    """Groq and OpenAI deny the model, Mistral shows a limit of 0."""
    limits = {name: {"requests_per_minute": 0} for name in ("groq", "openai", "mistral")}
    sandbox = start(clock=clock, limits=limits)
    assert connect(sandbox, "groq").refused().body["error"]["code"] == "model_not_found"
    assert connect(sandbox, "openai").refused().error.code == "model_not_found"
    refused = connect(sandbox, "mistral").refused()
    assert refused.status == 429
    assert refused.headers["x-ratelimit-limit-req-minute"] == "0"
