"""Every failure that can be requested, seen through the unmodified SDKs."""

from __future__ import annotations

import contextlib
import json
import re

import groq
import httpx
import openai
import pytest
from google.genai import errors as genai_errors
from mistralai.client.errors import MistralError, ResponseValidationError
from sdk_clients import PROVIDERS

from arche_magic.sandbox import FAILURE_KINDS, TEMPORARY_KINDS, Sandbox

# Kinds that come as an error status: (status, what the body says), by provider.
STATUS = {
    "rate_limit_minute": {
        "groq": (429, "tokens per minute (TPM): Limit 8000, Used 7200, Requested 4000"),
        "mistral": (429, '"code": "1300"'),
        "google": (429, "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
        "openai": (429, "tokens per min (TPM): Limit 200000"),
    },
    "rate_limit_day": {
        "groq": (429, "tokens per day (TPD): Limit 200000, Used 200000, Requested 2000"),
        "mistral": (429, '"code": "1300"'),
        "google": (429, "GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
        "openai": (429, "requests per day (RPD): Limit 200, Used 200, Requested 1"),
    },
    "too_large": {
        "groq": (413, "Request too large for model"),
        "mistral": (429, '"code": "1300"'),
        "google": (429, "GenerateContentInputTokensPerModelPerMinute-FreeTier"),
        "openai": (429, "Request too large for"),
    },
    "unauthorized": {
        "groq": (401, "invalid_api_key"),
        "mistral": (401, "Invalid API Key"),
        "google": (400, "API_KEY_INVALID"),
        "openai": (401, "invalid_api_key"),
    },
    "forbidden": {
        "groq": (403, "Access denied"),
        "mistral": (403, "Forbidden"),
        "google": (403, "SERVICE_DISABLED"),
        "openai": (403, "unsupported_country_region_territory"),
    },
    "no_credit": {
        "groq": (400, "organization_restricted"),
        "mistral": (429, '"code": "1300"'),
        "google": (429, "prepayment credits are depleted"),
        "openai": (429, "insufficient_quota"),
    },
    "not_in_plan": {
        "groq": (404, "model_not_found"),
        "mistral": (403, '"code": "1910"'),
        "google": (429, "limit: 0"),
        "openai": (404, "model_not_found"),
    },
    "model_not_found": {
        "groq": (404, "model_not_found"),
        "mistral": (400, '"code": "1500"'),
        "google": (404, "is not found for API version"),
        "openai": (404, "model_not_found"),
    },
    "model_retired": {
        "groq": (400, "model_decommissioned"),
        "mistral": (400, "invalid_model"),
        "google": (404, "no longer available to new users"),
        "openai": (404, "has been deprecated"),
    },
    "context_too_long": {
        "groq": (400, "Please reduce the length of the messages or completion."),
        "mistral": (400, '"code": "3051"'),
        "google": (400, "exceeds the maximum number of tokens allowed (1048575)"),
        "openai": (400, "context_length_exceeded"),
    },
    "invalid_request": {
        "groq": (400, "temperature"),
        "mistral": (422, "less_than_equal"),
        "google": (400, "temperature"),
        "openai": (400, "decimal_above_max_value"),
    },
    "server_error": {
        "groq": (500, "Internal Server Error"),
        "mistral": (500, '"code": "1000"'),
        "google": (500, "INTERNAL"),
        "openai": (500, "server_error"),
    },
    "overloaded": {
        "groq": (503, "over capacity"),
        "mistral": (503, '"code": "3505"'),
        "google": (503, "UNAVAILABLE"),
        "openai": (503, "server_is_overloaded"),
    },
}
UNREADABLE = (ValueError, MistralError, genai_errors.APIError)
BROKEN = (httpx.HTTPError, groq.APIError, openai.APIError, genai_errors.APIError)


def transport_error(error):
    """The HTTP client's error, which two of the SDKs wrap and two let through."""
    return error if isinstance(error, httpx.HTTPError) else error.__cause__


@pytest.fixture
def one(start, connect):
    """A sandbox whose first key of a provider fails once, and a client with that key."""

    def make(provider, kind):
        sandbox = start()
        sandbox.fail(f"{provider}_key_1", kind)
        return sandbox, connect(sandbox, provider)

    return make


def test_every_kind_is_tested_here():
    """The table above and the tests below cover all kinds of failures."""
    below = {
        "plain_text_error", "echo_key", "redirect", "reset", "stall", "content_filter",
        "empty_reply", "unrelated_json", "malformed_body", "malformed_event", "stream_error",
        "stall_stream", "cut_stream", "broken_connection",
        # In test_sandbox_schemas.py.
        "no_json_schema", "not_json", "misfit_json",
        # In test_sandbox_tools.py.
        "tool_use_failed",
    }  # fmt: skip
    assert set(STATUS) | below == set(FAILURE_KINDS)
    assert set(TEMPORARY_KINDS) < set(FAILURE_KINDS)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", STATUS)
def test_each_kind_of_failure_has_the_status_of_the_provider(start, connect, provider, kind):
    """Each provider has its own status and text for each kind. Nothing is charged."""
    sandbox = start()
    sandbox.fail(provider, kind, times=2)
    client = connect(sandbox, provider)
    status, words = STATUS[kind][provider]
    for streamed in (False, True):
        refused = client.refused(streamed=streamed)
        assert refused.status == status
        assert words in json.dumps(refused.body)
    used = [
        limit["used"]
        for models in sandbox.quota().values()
        for limits in models.values()
        for limit in limits.values()
    ]
    assert set(used) <= {0}
    assert [(r.failure, r.stream, r.status) for r in sandbox.requests] == [
        (kind, False, status),
        (kind, True, status),
    ]
    client.ask()


def test_mistral_without_credit_shows_a_spent_month(one):
    """Mistral's nearest known sign of spent credit: no tokens left this month."""
    refused = one("mistral", "no_credit")[1].refused()
    assert refused.headers["x-ratelimit-remaining-tokens-month"] == "0"


def test_google_names_the_project_of_a_key_in_a_403(start, connect):
    """Two keys of one account have the same project number, another key has another."""
    sandbox = start(keys={"google": 3}, accounts={"google_key_1": "team", "google_key_2": "team"})
    sandbox.fail("google", "forbidden", times=None)
    found = [
        connect(sandbox, "google", n).refused().body["error"]["details"][0]["metadata"]["consumer"]
        for n in (1, 2, 3)
    ]
    assert re.fullmatch(r"projects/\d{12}", found[0])
    assert found[0] == found[1] != found[2]


def test_openai_names_no_account_for_a_bad_key(one):
    """A 401 has no rate-limit or account headers, and shows only part of the key."""
    client = one("openai", "unauthorized")[1]
    refused = client.refused()
    assert not [n for n in refused.headers if "ratelimit" in n or "organization" in n]
    assert client.key not in refused.message
    assert client.key[-4:] in refused.message


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_error_can_be_plain_text(one, provider):
    """A proxy's 503 is plain text, which no SDK can read as its own error."""
    _, client = one(provider, "plain_text_error")
    refused = client.refused()
    assert refused.status == 503
    assert client.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("provider", "kind", "words"),
    [
        ("google", "rate_limit_day", "generate_content_free_tier_requests, limit: 20,"),
        ("groq", "rate_limit_minute", "tokens per minute (TPM): Limit 8000,"),
        ("groq", "rate_limit_day", "tokens per day (TPD): Limit 200000,"),
    ],
)
def test_a_list_of_models_fails_with_figures_of_a_free_tier(one, provider, kind, words):
    """A list has no limits of its own."""
    _, client = one(provider, kind)
    with pytest.raises((groq.RateLimitError, genai_errors.ClientError)) as caught:
        list(client.sdk.models.list())
    assert words in str(caught.value)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_error_can_repeat_the_key(one, provider):
    """The error text contains the whole key, so whoever shows the error must hide it."""
    _, client = one(provider, "echo_key")
    refused = client.refused()
    assert refused.status == 500
    assert client.key in json.dumps(refused.body)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_request_can_be_redirected(one, provider):
    """A 307 redirects the request, and the target records what arrives, without secrets."""
    sandbox, client = one(provider, "redirect")
    # The target does not return a completion, so Mistral's SDK raises.
    with contextlib.suppress(MistralError):
        client.ask()
    assert [r.provider for r in sandbox.requests] == [provider, "elsewhere"]
    assert client.key not in str(sandbox.requests)


def test_a_redirect_can_lead_to_any_address(start, connect):
    """`to` is the target of the redirect."""
    sandbox, other = start(), start()
    sandbox.fail("groq", "redirect", to=f"{other.url}/elsewhere")
    connect(sandbox, "groq").ask()
    assert other.requests[0].provider == "elsewhere"


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_connection_can_be_reset(one, provider, streamed):
    """The connection is reset before any response."""
    sandbox, client = one(provider, "reset")
    with pytest.raises(BROKEN) as caught:
        client.read(client.stream()) if streamed else client.ask()
    reason = transport_error(caught.value)
    assert isinstance(reason, httpx.HTTPError)
    assert sandbox.requests[0].status == 0


@pytest.mark.parametrize("kind", ["stall", "stall_stream"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_response_can_stall(start, connect, provider, kind):
    """Nothing more is sent, so the client's own timeout ends the call."""
    sandbox = start()
    sandbox.fail(provider, kind)
    client = connect(sandbox, provider, timeout=0.3)
    pieces = []
    with pytest.raises(BROKEN) as caught:
        pieces.extend(client.stream())
    assert isinstance(transport_error(caught.value), httpx.TimeoutException)
    assert bool(pieces) == (kind == "stall_stream")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_can_be_empty(one, provider):
    """A complete reply without text."""
    _, client = one(provider, "empty_reply")
    reply = client.ask()
    assert not reply.text
    assert reply.finish in ("stop", "STOP")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_can_be_unrelated_json(one, provider):
    """The JSON is not a completion: three SDKs return an empty object, Mistral's raises."""
    _, client = one(provider, "unrelated_json")
    if provider == "mistral":
        with pytest.raises(ResponseValidationError):
            client.ask()
    else:
        assert client.ask().text is None


@pytest.mark.parametrize("kind", ["malformed_body", "malformed_event"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_can_be_malformed(one, provider, kind):
    """The body, or an event of the stream, is not JSON."""
    sandbox, client = one(provider, kind)
    with pytest.raises(UNREADABLE):
        client.ask()
    sandbox.fail("*", kind)
    with pytest.raises(UNREADABLE):
        client.read(client.stream())
    assert sandbox.usage()[f"{provider}_key_1"].popitem()[1]["requests"] == 2


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_can_contain_an_error(one, provider):
    """After some text, the stream contains an error, with status 200."""
    _, client = one(provider, "stream_error")
    pieces = []
    kinds = (groq.APIError, openai.APIError, genai_errors.ServerError, MistralError)
    with pytest.raises(kinds) as caught:
        pieces.extend(client.stream())
    assert len(pieces) > 10
    # Groq's and OpenAI's SDKs raise no status error here, because the status was 200.
    assert not isinstance(caught.value, (groq.APIStatusError, openai.APIStatusError))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_can_be_cut(one, provider):
    """The stream ends after some text. No SDK raises; only the finish reason is missing."""
    _, client = one(provider, "cut_stream")
    reply = client.read(client.stream())
    assert reply.text.startswith("*Simulated reply")
    assert len(reply.pieces) > 10
    assert reply.finish is None


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_connection_can_break_during_a_reply(one, provider, streamed):
    """The connection is closed after a part of the reply."""
    _, client = one(provider, "broken_connection")
    pieces = []
    with pytest.raises(BROKEN) as caught:
        pieces.extend(client.stream() if streamed else [client.ask()])
    reason = transport_error(caught.value)
    assert isinstance(reason, httpx.HTTPError)
    assert bool(pieces) == streamed


def test_each_provider_filters_in_its_own_way(start, connect):
    """OpenAI refuses in its own field, Gemini finishes with SAFETY, the others with a reason."""
    sandbox = start()
    sandbox.fail("*", "content_filter", times=None)
    client = connect(sandbox, "openai")
    message = client._create("hi", "gpt-4.1-mini", stream=False).choices[0].message
    assert message.content is None
    assert message.refusal
    assert client.read(client.stream()).finish == "content_filter"
    gemini = connect(sandbox, "google").ask()
    assert (gemini.text, gemini.finish) == (None, "SAFETY")
    for provider in ("groq", "mistral"):
        reply = connect(sandbox, provider).ask()
        assert (reply.text, reply.finish) == ("", "content_filter")


# --- when failures happen


def test_times_after_and_target_select_the_failing_requests(start, connect):
    """`after` lets requests succeed first, `times` ends it, and other keys are not affected."""
    sandbox = start()
    first, second = connect(sandbox, "groq", 1), connect(sandbox, "groq", 2)
    sandbox.fail("groq_key_1", "server_error", times=2, after=1)
    second.ask()
    first.ask()
    assert first.refused().status == 500
    second.ask()
    assert first.refused().status == 500
    first.ask()


def test_an_outage_lasts_for_the_given_seconds(start, connect, clock):
    """Every request in that time fails, on the sandbox's clock, and the next one succeeds."""
    sandbox = start(clock=clock)
    sandbox.fail("groq", "overloaded", seconds=20)
    groq_client, openai_client = connect(sandbox, "groq", 3), connect(sandbox, "openai")
    for _ in range(3):
        assert groq_client.refused().status == 503
    openai_client.ask()
    clock.advance(19.9)
    assert groq_client.refused().status == 503
    clock.advance(0.2)
    groq_client.ask()


def test_a_provider_or_all_can_fail_until_cleared(start, connect):
    """Targets may be a provider or everything, and times=None lasts until cleared."""
    sandbox = start()
    sandbox.fail("groq", "overloaded", times=None)
    groq_client, openai_client = connect(sandbox, "groq", 3), connect(sandbox, "openai")
    assert [groq_client.refused().status for _ in range(3)] == [503] * 3
    openai_client.ask()
    sandbox.fail("*", "server_error")
    assert openai_client.refused().status == 500
    sandbox.clear_failures()
    groq_client.ask()


def test_spoiled_replies_are_charged_and_refusals_are_not(start, connect):
    """Generated tokens are charged, even if they did not arrive completely."""
    sandbox = start(keys={"openai": 1})
    client = connect(sandbox, "openai")
    sandbox.fail("*", "server_error")
    client.refused()
    sandbox.fail("*", "cut_stream")
    cut = client.read(client.stream())
    (count,) = sandbox.usage()["openai_key_1"].values()
    assert count["requests"] == 1
    assert count["failed"] == 2
    assert 0 < count["output_tokens"] <= 2 * len(cut.text)


def test_random_failures_follow_the_seed(start, connect):
    """The same seed makes the same requests fail. Their share is about the requested one."""

    def outcomes(seed):
        sandbox = start(seed=seed, limits={"openai": {"requests_per_minute": None}})
        sandbox.fail_randomly(0.3, kinds=["server_error", "overloaded"], target="openai")
        client = connect(sandbox, "openai")
        result = []
        for _ in range(40):
            try:
                client.ask("hi")
                result.append(200)
            except openai.APIStatusError as error:
                result.append(error.status_code)
        return result

    first = outcomes(5)
    assert first == outcomes(5) != outcomes(6)
    assert set(first) == {200, 500, 503}
    assert 4 <= 40 - first.count(200) <= 20


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (("groq_key_1", "explode"), "rate_limit_minute"),
        (("groq_key_7", "reset"), "groq_key_3"),
        (("cerebras", "reset"), "mistral"),
    ],
)
def test_unknown_kinds_and_targets_are_refused_by_name(arguments, known):
    """The ValueError lists what is known."""
    with pytest.raises(ValueError, match=known):
        Sandbox().fail(*arguments)
    with pytest.raises(ValueError, match="share"):
        Sandbox().fail_randomly(1.5)
