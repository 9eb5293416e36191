"""Recorded refusals, read through the real SDK of each provider.

The bodies come from recordings, reports and documentation of 2024 to 2026.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from adapter_calls import SECRET, WIRES, Build, Script, complete, failure_of

from arche_magic.llm_providers.provider_failure import Remedy
from arche_magic.llm_providers.secrets import redacted
from arche_magic.llm_providers.types import Observation, Usage


def error(message: str = "", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


def groq_limit(words: str, kind: str = "tokens") -> dict[str, Any]:
    start = "Rate limit reached for model `x` in organization `org_01a` service tier `on_demand`"
    return error(f"{start} on {words}", type=kind, code="rate_limit_exceeded")


REQUEST, QUOTA, TOP_UP = "invalid_request_error", "insufficient_quota", "TOP_UP_ACCOUNT"
ADDRESS = "CHECK_ADDRESS"
CHAT = [
    ("groq", 401, error("Invalid API Key", type=REQUEST, code="invalid_api_key"), "REPLACE_KEY"),
    ("groq", 404, error("The model", type=REQUEST, code="model_not_found"), "CHANGE_MODEL"),
    ("groq", 400, error("has been", code="model_decommissioned"), "CHANGE_MODEL"),
    (
        "groq",
        400,
        error(
            "Please reduce the length of the messages or completion.",
            type=REQUEST,
            param="messages",
        ),
        "SHORTEN_PROMPT",
    ),
    ("groq", 400, error("banned", type=REQUEST, code="organization_restricted"), "REPLACE_KEY"),
    ("groq", 400, error("Failed", code="tool_use_failed", failed_generation=""), "RETRY_LATER"),
    ("groq", 400, error("Failed", code="json_validate_failed"), "RETRY_LATER"),
    ("groq", 400, error("top_p", type=REQUEST), "FIX_REQUEST"),
    ("groq", 422, error("no", type=REQUEST), "FIX_REQUEST"),
    ("groq", 498, error("capacity", code="capacity_exceeded"), "RETRY_LATER"),
    ("groq", 400, error("Failed", code="output_parse_failed"), "RETRY_LATER"),
    ("groq", 424, error("Failed Dependency"), "RETRY_LATER"),
    ("groq", 500, error("Internal Server Error", type="internal_server_error"), "RETRY_LATER"),
    ("groq", 502, "bad gateway", "RETRY_LATER"),
    ("groq", 503, error("Service Unavailable", type="service_unavailable"), "RETRY_LATER"),
    ("groq", 413, "payload too large", "SHORTEN_PROMPT"),
    ("openai", 401, error("Incorrect", type=REQUEST, code="invalid_api_key"), "REPLACE_KEY"),
    ("openai", 403, error("Country", code="unsupported_country_region_territory"), ADDRESS),
    ("openai", 403, "<html>Blocked by the firewall</html>", ADDRESS),
    ("openai", 403, "error code: 1020", ADDRESS),
    ("openai", 403, {"title": "Error 1010: Access denied", "cloudflare_error": True}, ADDRESS),
    ("openai", 403, error("The project has no access to model x"), "CHANGE_PLAN"),
    ("groq", 403, error("Access denied. Please check your network settings."), ADDRESS),
    ("mistral", 403, "<!DOCTYPE html><title>Attention Required! | Cloudflare</title>", ADDRESS),
    ("openai", 404, error("deprecated", type=REQUEST, code="model_not_found"), "CHANGE_MODEL"),
    ("openai", 400, error("no", type=REQUEST, code="model_not_found"), "CHANGE_MODEL"),
    ("openai", 404, "404 page not found", ADDRESS),
    ("openai", 404, "<html><title>404 Not Found</title></html>", ADDRESS),
    ("openai", 404, {"detail": "Not Found"}, ADDRESS),
    ("openai", 404, error("Invalid URL (POST /v1/models/x)", type=REQUEST), ADDRESS),
    ("openai", 405, {"detail": "Method Not Allowed"}, ADDRESS),
    ("groq", 404, error("Unknown request URL: POST /x", type=REQUEST, code="unknown_url"), ADDRESS),
    ("mistral", 404, {"message": "no Route matched with those values"}, ADDRESS),
    ("openai", 404, error("No endpoints found for vendor/m.", code=404), "CHANGE_MODEL"),
    ("openai", 404, error("No endpoints found that support tool use.", code=404), "FIX_REQUEST"),
    ("openai", 404, error("No endpoints found matching your data policy"), "CHANGE_PLAN"),
    ("openai", 404, error('model "m" not found, try pulling it first'), "CHANGE_MODEL"),
    ("openai", 400, error("vendor/x is not a valid model ID", code=400), "CHANGE_MODEL"),
    ("openai", 400, {"errors": [{"message": "No such model x or task"}]}, "CHANGE_MODEL"),
    ("openai", 400, error("Invalid model 'x'. Permitted are others."), "CHANGE_MODEL"),
    ("openai", 400, error("Model x: Unknown parameter 'top_k'"), "FIX_REQUEST"),
    ("openai", 400, error("This model no longer supported it", param="top_p"), "FIX_REQUEST"),
    ("openai", 401, error("IP not allowed", code="ip_not_authorized"), ADDRESS),
    ("openai", 404, error("Resource not found", code="404"), ADDRESS),
    ("openai", 400, error("Model Not Exist", type=REQUEST, code=REQUEST), "CHANGE_MODEL"),
    ("openai", 400, error("long", type=REQUEST, code="context_length_exceeded"), "SHORTEN_PROMPT"),
    ("openai", 429, error("exceeded", type=QUOTA, code=QUOTA), "TOP_UP_ACCOUNT"),
    ("openai", 429, error("x", type=QUOTA, code="credit_balance_exhausted"), "TOP_UP_ACCOUNT"),
    ("openai", 429, error("x", code="project_spend_limit_exceeded"), "TOP_UP_ACCOUNT"),
    ("openai", 429, error("x", type=QUOTA, code="organization_spend_limit_exceeded"), TOP_UP),
    ("openai", 429, error("x", type=QUOTA, code="a_billing_code_of_next_year"), TOP_UP),
    ("openai", 429, error("x", code="organization_usage_limit_reached"), "TOP_UP_ACCOUNT"),
    ("openai", 429, error("x", type="rate_limit_error", code="slow_down"), "RETRY_LATER"),
    ("openai", 402, error("Payment required", code=402), "TOP_UP_ACCOUNT"),
    ("openai", 503, error("x", code="server_is_overloaded"), "RETRY_LATER"),
    ("openai", 503, "upstream connect error or disconnect/reset before headers", "RETRY_LATER"),
    ("openai", 500, error("x", type="server_error"), "RETRY_LATER"),
    ("openai", 400, error("x", code="content_policy_violation"), "CHANGE_PROMPT"),
    # github.com/usestrix/strix/issues/1162
    ("openai", 400, error("flagged", type=REQUEST, code="invalid_prompt"), "CHANGE_PROMPT"),
    # console.groq.com/docs/spend-limits
    ("groq", 400, error("blocked", type=REQUEST, code="blocked_api_access"), "TOP_UP_ACCOUNT"),
    ("openai", 400, [error("Google's compatible endpoint wraps it", code=400)], "FIX_REQUEST"),
    ("mistral", 401, {"message": "Unauthorized", "request_id": "1"}, "REPLACE_KEY"),
    ("mistral", 401, {"detail": "Unauthorized"}, "REPLACE_KEY"),
    ("mistral", 401, {"detail": "Invalid API Key"}, "REPLACE_KEY"),
    ("mistral", 401, {"message": "Inactive subscription or usage limit reached"}, TOP_UP),
    ("mistral", 403, {"message": "Inactive subscription or usage limit reached"}, TOP_UP),
    ("mistral", 429, {"message": "Rate limit exceeded", "code": "1300"}, "WAIT_FOR_LIMIT"),
    (
        "mistral",
        429,
        {"message": "Rate limit exceeded", "code": "1300", "raw_status_code": 429},
        "WAIT_FOR_LIMIT",
    ),
    ("mistral", 429, {"type": "service_tier_capacity_exceeded", "code": "3505"}, "RETRY_LATER"),
    ("mistral", 503, {"type": "service_tier_capacity_exceeded", "code": 3505}, "RETRY_LATER"),
    ("mistral", 403, {"type": "tier_not_allowed", "code": "1910"}, "CHANGE_PLAN"),
    ("mistral", 400, {"type": "invalid_model", "code": "1500"}, "CHANGE_MODEL"),
    ("mistral", 400, {"type": "invalid_request_invalid_args", "code": "3051"}, "SHORTEN_PROMPT"),
    ("mistral", 400, {"type": "invalid_request_message_order", "code": "3230"}, "FIX_REQUEST"),
    ("mistral", 500, {"type": "internal_server_error", "code": "1000"}, "RETRY_LATER"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("wire", "status", "body", "remedy"), CHAT)
def test_refusals_of_chat_completions_give_the_right_remedy(
    script: Script, build: Build, wire: str, status: int, body: Any, remedy: str, stream: bool
) -> None:
    """Every recorded refusal of Groq, OpenAI and Mistral gives the right remedy."""
    script.answer(status, body)
    failure = failure_of(build(wire), stream=stream)
    assert failure.remedy is Remedy[remedy]
    assert f"({status}" in str(failure)
    assert failure.retry_after is None


SENTENCES = [
    (
        "groq",
        groq_limit(
            "tokens per minute (TPM): Limit 6000, Used 5447, Requested 783. Please try again in"
            " 2.3s. Need more tokens? Upgrade to Dev Tier today"
        ),
        {"retry-after": "3"},
        ("tokens_per_minute", 6000.0, 553.0, 3.0),
        "tokens per minute used up (limit 6,000, used 5,447, requested 783)",
    ),
    (
        "groq",
        groq_limit(
            "tokens per day (TPD): Limit 200000, Used 197494, Requested 4035."
            " Please try again in 11m0.528s."
        ),
        {},
        ("tokens_per_day", 200000.0, 2506.0, 660.528),
        "tokens per day used up (limit 200,000, used 197,494, requested 4,035)",
    ),
    (
        "groq",
        groq_limit(
            "requests per day (RPD): Limit 1000, Used 1000, Requested 1."
            " Please try again in 1m26.4s.",
            "requests",
        ),
        {"retry-after": "87"},
        ("requests_per_day", 1000.0, 0.0, 87.0),
        "requests per day used up (limit 1,000, used 1,000, requested 1)",
    ),
    (
        "groq",
        groq_limit(
            "input tokens per minute (ITPM): Limit 7000, Used 6900, Requested 200."
            " Please try again in 857ms."
        ),
        {},
        ("input_tokens_per_minute", 7000.0, 100.0, 0.857),
        "input tokens per minute used up (limit 7,000, used 6,900, requested 200)",
    ),
    (
        "groq",
        groq_limit(
            "output tokens per minute (OTPM): Limit 1000, Used 990, Requested 30."
            " Please try again in 1.2s.",
            "compound",
        ),
        {"retry-after": "2"},
        ("output_tokens_per_minute", 1000.0, 10.0, 2.0),
        "output tokens per minute used up (limit 1,000, used 990, requested 30)",
    ),
    (
        "openai",
        error(
            "Rate limit reached for gpt-5.4-mini in organization org-x on requests per day (RPD):"
            " Limit 50, Used 50, Requested 1. Please try again in 28m48s.",
            type="requests",
            code="rate_limit_exceeded",
        ),
        {},
        ("requests_per_day", 50.0, 0.0, 1728.0),
        "requests per day used up (limit 50, used 50, requested 1)",
    ),
    (
        "openai",
        error(
            "Rate limit reached for gpt-3.5-turbo in organization org-x on requests per min (RPM):"
            " Limit 3, Used 3, Requested 1. Please try again in 20s. Visit https://platform",
            type="requests",
            code="rate_limit_exceeded",
        ),
        {"retry-after": "20", "retry-after-ms": "20000"},
        ("requests_per_minute", 3.0, 0.0, 20.0),
        "requests per minute used up (limit 3, used 3, requested 1)",
    ),
    (
        "openai",
        error(
            "Rate limit reached for x in organization org-x on tokens per min (TPM): Limit 1000000,"
            " Used 1000000, Requested 20128. Please try again in 14h29m31.776s.",
            type="tokens",
            code="rate_limit_exceeded",
        ),
        {},
        ("tokens_per_month", 1000000.0, 0.0, 52171.776),
        "tokens per month used up (limit 1,000,000, used 1,000,000, requested 20,128)",
    ),
]


@pytest.mark.parametrize(("wire", "body", "headers", "expected", "line"), SENTENCES)
def test_figures_are_read_from_a_limit_message(
    script: Script,
    build: Build,
    wire: str,
    body: Any,
    headers: dict[str, str],
    expected: tuple[str, float, float, float],
    line: str,
) -> None:
    """A 429 states the limit, what is left and the wait. A wrong label is corrected."""
    script.answer(429, body, headers)
    failure = failure_of(build(wire))
    name, amount, remaining, delay = expected
    assert failure.remedy is Remedy.WAIT_FOR_LIMIT
    assert failure.limit == name
    assert failure.retry_after == pytest.approx(delay)
    (seen,) = failure.observations
    assert (seen.name, seen.amount, seen.remaining, seen.evidence) == (
        name, amount, remaining, "error",
    )  # fmt: skip
    assert str(failure) == line


@pytest.mark.parametrize(("wire", "status"), [("groq", 413), ("openai", 429)])
def test_a_request_larger_than_its_limit_does_not_wait(
    script: Script, build: Build, wire: str, status: int
) -> None:
    """The error states the limit, and its retry-after is ignored."""
    message = "Request too large for x on tokens per min (TPM): Limit 8000, Requested 9000, please"
    body = error(message, type="tokens", code="rate_limit_exceeded")
    script.answer(status, body, {"retry-after": "8"})
    failure = failure_of(build(wire))
    assert failure.remedy is Remedy.SHORTEN_PROMPT
    assert failure.retry_after is None
    assert failure.limit == "tokens_per_minute"
    assert failure.observations == (Observation("tokens_per_minute", 8000.0, None, None, "error"),)


def test_headers_of_a_refusal_are_read_too(script: Script, build: Build) -> None:
    """An OpenAI 429 for requests per minute has headers for requests per day."""
    headers = {
        "x-ratelimit-limit-requests": "200",
        "x-ratelimit-remaining-requests": "196",
        "x-ratelimit-reset-requests": "28m48s",
        "retry-after-ms": "20000",
    }
    message = "on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s."
    script.answer(429, error(message, code="rate_limit_exceeded"), headers)
    failure = failure_of(build("openai"))
    assert failure.limit == "requests_per_minute"
    assert failure.observations == (
        Observation("requests_per_minute", 3.0, 0.0, None, "error", opens_in=20.0, excess=1.0),
        Observation("requests_per_day", 200.0, 196.0, 1728.0, "header", inferred=True),
    )


def test_a_delay_without_figures_is_used(script: Script, build: Build) -> None:
    """Errors about overload and slow_down have the delay that the server asks for."""
    for status, body in (
        (503, error("x", type="service_unavailable_error", code="server_is_overloaded")),
        (429, error("x", type="rate_limit_error", code="slow_down")),
    ):
        script.answer(status, body, {"retry-after": "7"})
        failure = failure_of(build("openai"))
        assert failure.remedy is Remedy.RETRY_LATER
        assert failure.retry_after == 7


def test_a_refused_parameter_is_named(script: Script, build: Build) -> None:
    """The error names the parameter and the model."""
    text = "Unsupported parameter: 'seed'."
    script.answer(400, error(text, type=REQUEST, param="seed", code="unsupported_parameter"))
    assert str(failure_of(build("openai"))) == (
        f"model-x does not take seed (400 unsupported_parameter): {text}"
    )
    problem = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}
    for body in ({"detail": [problem]}, {"message": {"detail": [problem]}}):
        script.answer(422, body)
        failure = failure_of(build("mistral"))
        assert failure.remedy is Remedy.FIX_REQUEST
        assert str(failure) == "model-x does not take the request (422): seed (Extra inputs)"


def test_a_mistral_429_may_not_name_its_limit(script: Script, build: Build) -> None:
    """The recorded one has headers for one limit, which is not used up."""
    full = {
        "x-ratelimit-limit-tokens-minute": "500000",
        "x-ratelimit-remaining-tokens-minute": "500000",
    }
    script.answer(429, {"message": "Rate limit exceeded", "type": "rate_limited"}, full)
    failure = failure_of(build("mistral"))
    assert failure.remedy is Remedy.WAIT_FOR_LIMIT
    assert failure.limit is None
    assert failure.retry_after is None


def test_mistral_limit_zero_is_a_plan_without_the_model(script: Script, build: Build) -> None:
    """Waiting does not help if the limit is 0, but helps if it is used up."""
    script.answer(429, {"code": "1300"}, {"x-ratelimit-limit-req-minute": "0"})
    assert failure_of(build("mistral")).remedy is Remedy.CHANGE_PLAN
    used = {"x-ratelimit-limit-req-minute": "60", "x-ratelimit-remaining-req-minute": "0"}
    script.answer(429, {"code": "1300"}, used)
    failure = failure_of(build("mistral"))
    assert failure.remedy is Remedy.WAIT_FOR_LIMIT
    assert failure.limit == "requests_per_minute"


RPC = "type.googleapis.com/google.rpc."


def google(status: str, message: str = "", *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": 0, "message": message, "status": status, "details": list(details)}}


def quota(*violations: dict[str, str], delay: str | None = "48s") -> dict[str, Any]:
    details: list[dict[str, Any]] = [{"@type": RPC + "Help", "links": []}]
    details.append({"@type": RPC + "QuotaFailure", "violations": list(violations)})
    if delay:
        details.insert(0, {"@type": RPC + "RetryInfo", "retryDelay": delay})
    return google("RESOURCE_EXHAUSTED", "You exceeded your current quota", *details)


def violation(quota_id: str, value: str | None) -> dict[str, str]:
    return {"quotaId": quota_id} | ({} if value is None else {"quotaValue": value})


BAD_KEY = {"@type": RPC + "ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
GEMINI = [
    (400, google("INVALID_ARGUMENT", "API key not valid.", BAD_KEY), "REPLACE_KEY"),
    (400, google("INVALID_ARGUMENT", "API key expired.", BAD_KEY), "REPLACE_KEY"),
    (403, google("PERMISSION_DENIED", "Method doesn't allow unregistered"), "REPLACE_KEY"),
    (403, google("PERMISSION_DENIED", "Your API key was reported as leaked."), "REPLACE_KEY"),
    (401, google("UNAUTHENTICATED"), "REPLACE_KEY"),
    (400, google("FAILED_PRECONDITION", "User location is not supported"), ADDRESS),
    (
        400,
        google(
            "INVALID_ARGUMENT",
            "The input token count (1250060) exceeds the maximum number of tokens allowed",
        ),
        "SHORTEN_PROMPT",
    ),
    (400, google("INVALID_ARGUMENT", "Invalid JSON payload received."), "FIX_REQUEST"),
    (404, google("NOT_FOUND", "models/x is not found for API version v1beta"), "CHANGE_MODEL"),
    (404, google("NOT_FOUND", "is no longer available to new users"), "CHANGE_MODEL"),
    (400, google("FAILED_PRECONDITION", "Please enable billing on your project"), "CHANGE_PLAN"),
    (429, google("RESOURCE_EXHAUSTED", "Quota exceeded, limit: 0, model: x"), "CHANGE_PLAN"),
    (429, google("RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."), "TOP_UP_ACCOUNT"),
    (429, google("RESOURCE_EXHAUSTED", "exceeded its monthly spending cap"), "TOP_UP_ACCOUNT"),
    (429, quota(violation("GenerateRequestsPerDay-FreeTier", None)), "CHANGE_PLAN"),
    (429, quota(violation("GenerateRequestsPerDay-FreeTier", "0")), "CHANGE_PLAN"),
    (503, google("UNAVAILABLE", "The model is overloaded."), "RETRY_LATER"),
    (503, google("UNAVAILABLE", "currently experiencing high demand"), "RETRY_LATER"),
    (500, google("INTERNAL"), "RETRY_LATER"),
    (504, google("DEADLINE_EXCEEDED"), "RETRY_LATER"),
    (503, "upstream connect error", "RETRY_LATER"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "body", "remedy"), GEMINI)
def test_refusals_of_gemini_give_the_right_remedy(
    script: Script, build: Build, status: int, body: Any, remedy: str, stream: bool
) -> None:
    """Every recorded refusal of Gemini gives the right remedy. A bad key is a 400."""
    script.answer(status, body)
    failure = failure_of(build("google"), stream=stream)
    assert failure.remedy is Remedy[remedy]
    assert failure.retry_after is None


PER_MINUTE = "GenerateContentPaidTierInputTokensPerModelPerMinute"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
PER_DAY_TOKENS = "GenerateContentInputTokensPerModelPerDay-FreeTier"


@pytest.mark.parametrize(
    ("violations", "limit", "delay"),
    [
        ([(PER_MINUTE, "1000000")], "input_tokens_per_minute", 49.0),
        ([(PER_DAY, "20")], "requests_per_day", None),
        ([(PER_DAY.replace("PerDay", "PerMinute"), "10")], "requests_per_minute", 49.0),
        ([(PER_DAY_TOKENS.replace("Day", "Minute"), "250000")], "input_tokens_per_minute", 49.0),
        ([(PER_DAY_TOKENS, "1000")], "input_tokens_per_day", None),
        ([(PER_MINUTE, "250000"), (PER_DAY, "20")], "requests_per_day", None),
    ],
)
def test_gemini_limits_are_identified_by_their_quota_id(
    script: Script,
    build: Build,
    violations: list[tuple[str, str]],
    limit: str,
    delay: float | None,
) -> None:
    """Delays per minute are rounded up. The short delay for a limit per day is ignored."""
    script.answer(429, quota(*(violation(*each) for each in violations)))
    failure = failure_of(build("google"))
    assert failure.remedy is Remedy.WAIT_FOR_LIMIT
    assert failure.limit == limit
    assert failure.retry_after == delay
    assert len(failure.observations) == len(violations)
    assert {o.evidence for o in failure.observations} == {"error"}


def test_a_bare_gemini_429_says_nothing_about_limits(script: Script, build: Build) -> None:
    """Without details, the limit and the delay are unknown."""
    script.answer(429, google("RESOURCE_EXHAUSTED", "Resource has been exhausted"))
    failure = failure_of(build("google"))
    assert failure.remedy is Remedy.WAIT_FOR_LIMIT
    assert failure.limit is None
    assert failure.retry_after is None


def test_accounts_are_read_from_replies_and_refusals(script: Script, build: Build) -> None:
    """An adapter learns the account of its key from replies and refusals."""
    script.answer(429, groq_limit("tokens per day (TPD): Limit 2, Used 2, Requested 1."))
    failure_of(build("groq"))
    assert build("groq").account == "org_01a"
    script.answer(500, "", {"openai-organization": "org-x", "openai-project": "proj_1"})
    failure_of(build("openai"))
    assert build("openai").account == "org-x/proj_1"
    info = {"@type": RPC + "ErrorInfo", "metadata": {"consumer": "projects/123"}}
    script.answer(403, google("PERMISSION_DENIED", "disabled", info))
    failure_of(build("google"))
    assert build("google").account == "projects/123"


@pytest.mark.parametrize("detailed", [True, False])
def test_googles_project_is_read_from_a_429_that_names_it(
    script: Script, build: Build, detailed: bool
) -> None:
    """Reported from 2024 on for limits of the whole service, in details and text."""
    text = (
        "Quota exceeded for quota metric 'Generate Content API requests per minute' and limit "
        "'GenerateContent request limit per minute for a region' of service "
        "'generativelanguage.googleapis.com' for consumer 'project_number:456'."
    )
    info = {
        "@type": RPC + "ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "metadata": {"consumer": "projects/456", "quota_limit_value": "1500"},
    }
    details = [info] if detailed else []
    script.answer(429, google("RESOURCE_EXHAUSTED", text, *details))
    assert failure_of(build("google")).remedy is Remedy.WAIT_FOR_LIMIT
    assert build("google").account == "projects/456"


USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


def test_a_refusal_by_the_model_is_a_failure(script: Script, build: Build) -> None:
    """The model's text and its cost are kept."""
    message = {"role": "assistant", "content": None, "refusal": "I can't help with that."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    script.answer(200, {"choices": [choice], "usage": USAGE})
    failure = failure_of(build("openai"))
    assert failure.remedy is Remedy.CHANGE_PROMPT
    assert failure.text == "I can't help with that."
    assert failure.usage == Usage(9, 2)
    script.events(
        {"choices": [{"index": 0, "delta": {"refusal": "I can't "}}]},
        {"choices": [{"index": 0, "delta": {"refusal": "help."}, "finish_reason": "stop"}]},
        {"choices": [], "usage": USAGE},
    )
    failure = failure_of(build("openai"), stream=True)
    assert failure.remedy is Remedy.CHANGE_PROMPT
    assert failure.text == "I can't help."
    assert failure.usage == Usage(9, 2)


def test_a_filtered_reply_keeps_its_text(script: Script, build: Build) -> None:
    """When a filter stops a stream, the text before it is kept."""
    script.events(
        {"choices": [{"index": 0, "delta": {"content": "So far"}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]},
    )
    failure = failure_of(build("groq"), stream=True)
    assert failure.remedy is Remedy.CHANGE_PROMPT
    assert failure.text == "So far"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        {"candidates": [{"finishReason": "SAFETY", "index": 0}]},
        {"candidates": [{"finishReason": "RECITATION"}]},
        {"candidates": [{"finishReason": "PROHIBITED_CONTENT"}]},
        {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
        {"promptFeedback": {"blockReason": "SAFETY"}, "candidates": []},
    ],
)
def test_gemini_blocks_name_their_reason(
    script: Script, build: Build, body: dict[str, Any], stream: bool
) -> None:
    """Blocked prompts and replies are named as such, with Google's reason."""
    body = {**body, "usageMetadata": {"promptTokenCount": 4}}
    if stream:
        script.events(body, done=False)
    else:
        script.answer(200, body)
    failure = failure_of(build("google"), stream=stream)
    assert failure.remedy is Remedy.CHANGE_PROMPT
    assert failure.usage == Usage(4, 0)
    assert any(word in str(failure) for word in ("SAFETY", "RECITATION", "PROHIBITED_CONTENT"))


def test_a_broken_stream_reports_its_minimum_usage(script: Script, build: Build) -> None:
    """Gemini states usage in every chunk, and more may follow the last one."""
    usage = {"promptTokenCount": 4, "candidatesTokenCount": 2, "thoughtsTokenCount": 90}
    parts = {"candidates": [{"content": {"parts": [{"text": "Half"}]}}], "usageMetadata": usage}
    script.events(parts, done=False)
    failure = failure_of(build("google"), stream=True)
    assert failure.remedy is Remedy.RETRY_LATER
    assert failure.usage is None
    assert failure.at_least == Usage(4, 92)


ENDS = {
    "google": [
        {"candidates": [{"content": {"parts": [{"text": "Four."}]}}]},
        {"candidates": [{"content": {"parts": []}, "finishReason": "STOP"}]},
    ],
    "mistral": [
        {
            "id": "1",
            "model": "m",
            "choices": [{"index": 0, "delta": {"content": "Four."}, "finish_reason": None}],
        },
        {
            "id": "1",
            "model": "m",
            "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}],
        },
    ],
    "groq": [
        {"choices": [{"index": 0, "delta": {"content": "Four."}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
    ],
}
ENDS["openai"] = ENDS["groq"]


@pytest.mark.parametrize("wire", WIRES)
def test_broken_data_after_the_end_is_ignored(script: Script, build: Build, wire: str) -> None:
    """After the finish reason, the reply is complete, whatever follows."""
    script.events(*ENDS[wire], 'data: {"cho\n\n', done=False)
    completions = complete(build(wire), "m", stream=True)
    assert "".join(completion.text for completion in completions) == "Four."
    assert completions[-1].finish_reason in ("stop", "length")
    script.events(ENDS[wire][0], 'data: {"cho\n\n', done=False)
    assert failure_of(build(wire), stream=True).text == "Four."


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "LANGUAGE", "OF_NEXT_YEAR"])
def test_gemini_may_end_without_text(script: Script, build: Build, reason: str) -> None:
    """An ending without an answer goes to the next route, with Google's reason."""
    script.answer(200, {"candidates": [{"finishReason": reason}]})
    failure = failure_of(build("google"))
    assert failure.remedy is Remedy.RETRY_LATER
    assert reason in str(failure)


def test_errors_inside_a_stream_keep_their_kind(script: Script, build: Build) -> None:
    """An error event with status 200 is classified like the same error with its status."""
    start = {"choices": [{"index": 0, "delta": {"content": "So far"}}]}
    broken = error("Failed", type=REQUEST, code="tool_use_failed", status_code=400)
    script.events(start, f"event: error\ndata: {json.dumps(broken)}\n\n", done=False)
    failure = failure_of(build("groq"), stream=True)
    assert failure.remedy is Remedy.RETRY_LATER
    assert failure.text == "So far"
    assert "tool_use_failed" in str(failure)
    script.events(start, error("The server had an error", type="server_error"), {"usage": USAGE})
    failure = failure_of(build("openai"), stream=True)
    assert failure.remedy is Remedy.RETRY_LATER
    assert failure.text == "So far"
    script.events(start, error("Slow", type="tokens", code="rate_limit_exceeded"))
    assert failure_of(build("openai"), stream=True).remedy is Remedy.WAIT_FOR_LIMIT
    limit = {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited"}
    script.events({**limit, "code": "1300"})
    assert failure_of(build("mistral"), stream=True).remedy is Remedy.WAIT_FOR_LIMIT
    busy = google("UNAVAILABLE", "The model is overloaded.")
    busy["error"]["code"] = 503
    script.events({"candidates": [{"content": {"parts": [{"text": "So far"}]}}]}, busy, done=False)
    failure = failure_of(build("google"), stream=True)
    assert failure.remedy is Remedy.RETRY_LATER
    assert failure.text == "So far"
    assert "503" in str(failure)


OPENROUTER_FLAGGED = {"reasons": ["violence"], "flagged_input": "…", "provider_name": "x"}
GOOGLES_OWN = google("INVALID_ARGUMENT", "API key not valid.", BAD_KEY)
COMPATIBLE = {
    "llama.cpp: context": (
        400,
        error("the request exceeds the available context size", type="exceed_context_size_error"),
        "SHORTEN_PROMPT",
    ),
    "vLLM: context": (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, you …",
            "type": "BadRequestError",
            "code": 400,
        },
        "SHORTEN_PROMPT",
    ),
    "vLLM: model": (
        404,
        {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError"},
        "CHANGE_MODEL",
    ),
    "Ollama: model": (404, error("model 'x' not found", type="api_error"), "CHANGE_MODEL"),
    "GitHub Models: context": (
        413,
        error("too large", code="tokens_limit_reached"),
        "SHORTEN_PROMPT",
    ),
    "GitHub Models: model": (400, error("Unknown model: x", code="unknown_model"), "CHANGE_MODEL"),
    "Azure: filter": (
        400,
        error("filtered", code="content_filter", param="prompt"),
        "CHANGE_PROMPT",
    ),
    "OpenRouter: credit": (402, error("Insufficient credits", code=402), "TOP_UP_ACCOUNT"),
    "OpenRouter: credit for a shorter reply": (
        402,
        error("This request requires more credits, or fewer max_tokens. You can only afford 9"),
        "FIX_REQUEST",
    ),
    "xAI: no credit": (
        403,
        {"error": "Your newly created team doesn't have any credits yet."},
        "TOP_UP_ACCOUNT",
    ),
    "xAI: spend limit": (
        429,
        {"error": "Your team has used all available credits or its monthly spending limit."},
        "TOP_UP_ACCOUNT",
    ),
    "Moonshot: no credit": (
        429,
        error("Your account is suspended", type="exceeded_current_quota_error"),
        "TOP_UP_ACCOUNT",
    ),
    "Zhipu: no credit": (
        429,
        error("Insufficient balance or no resource package.", code="1113"),
        "TOP_UP_ACCOUNT",
    ),
    "SiliconFlow: no credit": (
        403,
        {"code": 30001, "message": "Sorry, your account balance is insufficient"},
        "TOP_UP_ACCOUNT",
    ),
    "Anthropic: no credit": (
        400,
        error("Your credit balance is too low to access the Anthropic API.", type=REQUEST),
        "TOP_UP_ACCOUNT",
    ),
    "DashScope: no credit": (400, error("Access denied.", code="Arrearage"), "TOP_UP_ACCOUNT"),
    "Fireworks: no credit": (
        412,
        error("Account x is suspended, possibly due to reaching the monthly spending limit"),
        "TOP_UP_ACCOUNT",
    ),
    "Together: a limit": (
        429,
        error("Your rate limit is 60 queries per minute. Upgrade.", type="credit_limit"),
        "WAIT_FOR_LIMIT",
    ),
    "DashScope: free tier": (
        403,
        error("The free tier of the model is exhausted.", code="AllocationQuota.FreeTierOnly"),
        "CHANGE_PLAN",
    ),
    "DashScope: filter": (
        400,
        error("inappropriate content", code="data_inspection_failed"),
        "CHANGE_PROMPT",
    ),
    "Hugging Face: model": (
        400,
        error("The requested model 'x' is not supported", code="model_not_supported"),
        "CHANGE_MODEL",
    ),
    "llama.cpp: older context": (
        400,
        error("the request exceeds the available context size. try increasing it", code=400),
        "SHORTEN_PROMPT",
    ),
    "LM Studio: context": (
        400,
        {"error": "The model is loaded with context length of only 4096 tokens"},
        "SHORTEN_PROMPT",
    ),
    "OpenRouter: moderation": (
        403,
        error("requires moderation", code=403, metadata=OPENROUTER_FLAGGED),
        "CHANGE_PROMPT",
    ),
    "OpenRouter: key limit": (403, error("Key limit exceeded", code=403), "REPLACE_KEY"),
    "xAI: key": (
        400,
        {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: x"},
        "REPLACE_KEY",
    ),
    "Google: key": (400, [GOOGLES_OWN], "REPLACE_KEY"),
    "Google: day": (429, [quota(violation(PER_DAY, "20"))], "WAIT_FOR_LIMIT"),
    "Anthropic: overloaded": (529, error("Overloaded", type="overloaded_error"), "RETRY_LATER"),
    "plain text": (422, "Failed to deserialize the JSON body", "FIX_REQUEST"),
    "a proxy's page": (400, "<html><h1>400 Bad Request</h1></html>", ADDRESS),
    "teapot": (418, error("short and stout"), "RETRY_LATER"),
    "gone": (410, "gone", ADDRESS),
    "Hugging Face: old address": (
        410,
        {"error": "https://api-inference.huggingface.co is no longer supported."},
        ADDRESS,
    ),
    "NVIDIA: retired": (
        410,
        {
            "type": "about:blank",
            "title": "Gone",
            "status": 410,
            "detail": "The model 'x' has reached its end of life and is no longer available.",
        },
        "CHANGE_MODEL",
    ),
    "NVIDIA: model": (
        404,
        {"status": 404, "title": "Not Found", "detail": "Function 'x': Not found for account 'y'"},
        "CHANGE_MODEL",
    ),
    "no content": (204, "", "RETRY_LATER"),
}


@pytest.mark.parametrize(("status", "body", "remedy"), COMPATIBLE.values(), ids=COMPATIBLE)
def test_compatible_services_are_understood_too(
    script: Script, build: Build, status: int, body: Any, remedy: str
) -> None:
    """Status, code, type and details decide. The text is used only if they are missing."""
    script.answer(status, body)
    assert failure_of(build("openai")).remedy is Remedy[remedy]


def test_a_brokers_error_has_the_message_of_its_service(script: Script, build: Build) -> None:
    """OpenRouter's own message says only that there was an error."""
    behind = {"raw": "gemma is temporarily rate-limited upstream", "provider_name": "Chutes"}
    script.answer(429, error("Provider returned error", code=429, metadata=behind))
    assert "Provider returned error: gemma is temporarily" in str(failure_of(build("openai")))


def test_a_brokers_reset_time_is_read(script: Script, build: Build) -> None:
    """OpenRouter's reset is a time in milliseconds, in a header or in the metadata."""
    moment = str(round((time.time() + 3600) * 1000))
    headers = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": moment}
    plain = error("Rate limit exceeded: free-models-per-day", code=429)
    told = error(
        "Rate limit exceeded: free-models-per-day", code=429, metadata={"headers": headers}
    )
    for body, sent in ((plain, headers), (told, {})):
        script.answer(429, body, sent)
        failure = failure_of(build("openai"))
        assert failure.remedy is Remedy.WAIT_FOR_LIMIT
        assert failure.retry_after == pytest.approx(3600, abs=30)
    script.answer(429, plain)
    assert failure_of(build("openai")).retry_after is None


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_in_place_of_a_reply_is_read(script: Script, build: Build, stream: bool) -> None:
    """Brokers such as OpenRouter report errors of other services with status 200."""
    for code, remedy in ((502, "RETRY_LATER"), (429, "WAIT_FOR_LIMIT"), (402, "TOP_UP_ACCOUNT")):
        body = error("Provider returned error", code=code)
        if stream:
            script.events(body)
        else:
            script.answer(200, body)
        failure = failure_of(build("openai"), stream=stream)
        assert failure.remedy is Remedy[remedy]
        assert f"({code}" in str(failure)


def test_an_error_after_text_is_not_an_invalid_request(script: Script, build: Build) -> None:
    """After some text, an error event never makes the request invalid."""
    start = {"choices": [{"index": 0, "delta": {"content": "So far"}}]}
    script.events(start, error("odd", type=REQUEST, code="odd"))
    assert failure_of(build("groq"), stream=True).remedy is Remedy.RETRY_LATER
    script.events(error("odd", type=REQUEST, code="odd"))
    assert failure_of(build("groq"), stream=True).remedy is Remedy.FIX_REQUEST


def test_unknown_errors_are_logged_once(
    script: Script, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """Once per kind and without the key, so that a rule can be added."""
    for word in ("of_monday", "of_monday", "of_tuesday"):
        script.answer(419, error(f"no idea, {SECRET}", code=word))
        failure = failure_of(build("groq"))
        assert failure.remedy is Remedy.RETRY_LATER
        script.events(error(f"no idea, {SECRET}", code=word))
        assert failure_of(build("groq"), stream=True).remedy is Remedy.RETRY_LATER
    assert caplog.messages == [
        f"groq: {words}, treated as a temporary failure: no idea, [key]"
        for day in ("of_monday", "of_tuesday")
        for words in (f"an unexpected response (419 {day})", f"server error (500 {day})")
    ]
    script.answer(500, error("known", type="server_error"))
    failure_of(build("groq"))
    assert len(caplog.messages) == 4


@pytest.mark.parametrize(
    ("status", "body", "sent"),
    [(500, error("x"), Usage()), (503, "busy", Usage()), (429, error("x"), None)],
)
def test_an_error_costs_no_tokens(
    script: Script, build: Build, status: int, body: Any, sent: Usage | None
) -> None:
    """It costs one request at most. The ledger decides what a 429 costs."""
    script.answer(status, body)
    failure = failure_of(build("groq"))
    assert failure.usage == sent
    assert failure.sent


def test_the_text_of_a_message_can_be_in_parts(script: Script, build: Build) -> None:
    """Some services send a list of parts. Parts with reasoning are not text."""
    content = [{"type": "thinking", "text": "Hm."}, {"type": "text", "text": "Fo"}]
    content.append({"type": "text", "text": "ur."})
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    script.answer(200, {"choices": [choice]})
    (completion,) = complete(build("openai"), "m")
    assert completion.text == "Four."


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("status", [400, 403])
def test_no_error_contains_the_key(script: Script, build: Build, wire: str, status: int) -> None:
    """If a provider repeats the key, whole or in part, our error does not."""
    for quoted in (
        SECRET,
        SECRET[:14] + "***" + SECRET[-4:],
        SECRET[3:12],
        SECRET[-9:],
        "sk-other123",
    ):
        script.answer(status, {"error": {"message": f"bad key: {quoted}. Get one\nat https://x"}})
        line = str(failure_of(build(wire)))
        assert "bad key: [key]" in line
        assert "Get one at https://x" in line
        assert quoted not in line


def test_ordinary_words_are_not_redacted() -> None:
    """Redaction keeps prose, parameters and addresses, and shortens long texts."""
    line = "task-based, risk-free: use max_completion_tokens, see https://example.org/docs."
    assert redacted(line, SECRET) == line
    assert len(redacted("word " * 500, SECRET)) == 200
    assert redacted("a short key: abc", "abc") == "a short key: abc"
