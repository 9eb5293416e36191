"""Delays that a service states only in the text of its refusal."""

from __future__ import annotations

import time
from typing import Any

import pytest
from adapter_calls import WIRES, Build, Script, failure_of

from arche_magic.llm_providers.adapters.limits import stated_delay
from arche_magic.llm_providers.provider_failure import Remedy

NOW = 1_795_910_400.0  # 2026-11-29, midnight UTC


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("You exceeded your quota. Please retry in 41.933985s.", 41.933985),
        ("Rate limit reached, retry after 27 seconds", 27),
        ("Too many requests. Please try again in 1 minute.", 60),
        ("Try again in a minute.", 60),
        ("try again in an hour", 3600),
        ("Please try again in 14h29m11.04s. Visit …", 52151.04),
        ("Please try again in 2 hours, 5 minutes and 30 seconds", 7530),
        ("Please wait 500 ms before the next request", 0.5),
        ("wait 250milliseconds", 0.25),
        ("You have to wait at least 20 secs before retrying", 20),
        ("In 12 seconds, please retry", 12),
        ("The limit resets in 59s", 59),
        ("Retry after: 27", 27),
        ("Please retry after 27.", 27),
        ('{"retry_after": 5.5}', 5.5),
        ("{'retry_after_seconds': 7}", 7),
        ("retryAfter=30", 30),
        ("{'retryAfterMs': 5000}", 5),
        ("retry_after_milliseconds: 250", 0.25),
        ("Retry after 2026-11-29 00:01:30", 90),
        ("{'retry_after': '2026-11-29T00:01:30Z'}", 90),
        ("Quota will be available again in 2 days", 172_800),
        ("Limit resets at 2026-11-29T00:01:30Z", 90),
        ("Try again after 2026-11-29 01:30:00+01:00.", 1800),
        ("retry at 2026-11-28T23:00:00Z", 0),
    ],
)
def test_a_delay_is_read_from_a_sentence(text: str, seconds: float) -> None:
    """The sentences are those of services and gateways."""
    assert stated_delay(text, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Please try again later.",
        "Please retry. The limit is 30 requests per 1 minute.",
        "Retry after 3 attempts",
        "Retry after 1.2.3",
        "Retry after 2026/11/29",
        "retry_after_hours: 5",
        "Limit 6000 tokens per minute, used 5447",
        "You can wait; 10 models are available",
        "try again in 99999999 days",
        "retry at 2026-99-99T00:00:00Z",
        "try again in 5 moments",
        "retry " * 20_000,
        "wait " + "1" * 50_000,
        "in 1s " * 10_000,
    ],
)
def test_a_text_without_a_delay_gives_none(text: str) -> None:
    """Long texts are read quickly, too."""
    began = time.monotonic()
    assert stated_delay(text, NOW) is None
    assert time.monotonic() - began < 1


BODIES: list[Any] = [
    {"error": {"message": "Slow down. Please retry in 41.9s.", "code": 429}},
    {"error": "Too many requests, please retry in 41.9s"},
    {"detail": "Please retry in 41.9s"},
    {"message": "Please retry in 41.9s", "object": "error"},
    "Please retry in 41.9s",
    {"error": {"message": "Upstream", "metadata": {"raw": "retry in 41.9s"}}},
]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("wire", WIRES)
def test_every_wire_reads_a_delay_from_the_text(
    script: Script, build: Build, wire: str, status: int
) -> None:
    """Any field may contain the delay. A header overrides it."""
    for body in BODIES:
        script.answer(status, body)
        failure = failure_of(build(wire))
        assert failure.remedy in (Remedy.WAIT_FOR_LIMIT, Remedy.RETRY_LATER)
        assert failure.retry_after == pytest.approx(41.9)
    if wire != "google":  # it sends no such header
        script.answer(status, BODIES[0], {"retry-after": "7"})
        assert failure_of(build(wire)).retry_after == 7


def test_an_error_event_can_state_a_delay(script: Script, build: Build) -> None:
    """The status of the stream is 200."""
    error = {"message": "Please retry in 41.9s", "type": "rate_limit_exceeded"}
    script.events({"error": error})
    for wire in ("groq", "openai"):
        assert failure_of(build(wire), stream=True).retry_after == pytest.approx(41.9)


def test_a_short_delay_for_a_limit_per_day_is_ignored(script: Script, build: Build) -> None:
    """Gemini states seconds, but the limit resets at midnight."""
    violation = {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "20"}
    kind = "type.googleapis.com/google.rpc.QuotaFailure"
    details = [{"@type": kind, "violations": [violation]}]
    error = {"status": "RESOURCE_EXHAUSTED", "message": "Please retry in 41.9s.", "code": 429}
    script.answer(429, {"error": {**error, "details": details}})
    failure = failure_of(build("google"))
    assert failure.limit == "requests_per_day"
    assert failure.retry_after is None
