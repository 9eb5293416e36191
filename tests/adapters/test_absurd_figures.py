"""Absurd figures from a server break no request, table or summary, and close no key."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from adapter_calls import SECRET, WIRES, Script, reply_of
from clocks import Clock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arche_magic.llm_providers import (
    NoRouteAvailable,
    get_llm_provider,
    get_quota_tracker,
)
from arche_magic.llm_providers.config import load_configuration, use_configuration
from arche_magic.llm_providers.types import Usage

if TYPE_CHECKING:
    from pathlib import Path

ABSURD = (10**15, 10**400, 3 * 10**12, 1_000_000_000, -5, 1e15)
NO_COUNTS = (
    "1e308", "7.5", "true", '"many"', '"12"', "[1]", '{"a": 1}', "1e999", "-1e999", "NaN",
    "1" + 5000 * "0",
)  # fmt: skip
TEXT = "Hello there."


@pytest.fixture
def clock() -> Clock:
    return Clock()


def use(wire: str, script: Script, folder: Path, clock: Clock) -> Any:
    """Use only that wire, with the scripted server and an empty ledger."""
    names = {"google": ("GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL")}
    key, url = names.get(wire, (f"{wire.upper()}_API_KEY", f"{wire.upper()}_BASE_URL"))
    environment = {key: SECRET, url: script.url, "ARCHE_QUOTA_STORE": f"memory://{id(clock)}"}
    configuration = replace(load_configuration(environment, folder), clock=clock)
    use_configuration(configuration)
    return get_llm_provider(wire)


def event(wire: str, inputs: Any, outputs: Any) -> dict[str, Any]:
    """A reply with this usage, as a single event of a stream."""
    whole = reply_of(wire, TEXT, (inputs, outputs))
    if wire == "google":
        return whole
    (choice,) = whole["choices"]
    choice["delta"] = choice.pop("message")
    return whole | {"object": "chat.completion.chunk"}


def everything_is_read() -> None:
    """Read everything that tables and scripts read from a ledger."""
    tracker = get_quota_tracker()
    json.dumps(tracker.get_usage_summary(), default=str)
    json.dumps(get_llm_provider().get_stats(), default=str)
    assert all(row.used < 1_000_000 for row in tracker.standings())


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_absurd_count_is_replaced_by_the_estimate(
    wire: str, stream: bool, script: Script, tmp_path: Path, clock: Clock,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The reply is returned, the key stays open, and there is one warning."""
    monkeypatch.setattr("arche_magic.llm_providers.attempt._warned_of", set())
    llm = use(wire, script, tmp_path, clock)
    with caplog.at_level(logging.WARNING, "arche_magic.attempts"):
        for absurd in ABSURD:
            for inputs, outputs in ((absurd, 3), (9, absurd)):
                if stream:
                    script.events(event(wire, inputs, outputs), done=wire != "google")
                    pieces = llm.stream("Hello", patience=0)
                    assert "".join(pieces) == TEXT
                    reply = pieces.reply
                else:
                    script.answer(200, reply_of(wire, TEXT, (inputs, outputs)))
                    reply = llm.generate("Hello", patience=0)
                    assert reply == TEXT
                assert 0 < reply.usage.input_tokens < 100
                assert 0 < reply.usage.output_tokens < 100
                everything_is_read()
                clock.now += 60
    assert sum("impossible number of tokens" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("wire", WIRES)
def test_a_plausible_count_is_accepted(
    wire: str, script: Script, tmp_path: Path, clock: Clock
) -> None:
    """Hidden reasoning, and documents added by a service, can be many tokens."""
    llm = use(wire, script, tmp_path, clock)
    script.answer(200, reply_of(wire, TEXT, (30_000, 40_000)))
    assert llm.generate("Hello").usage == Usage(30_000, 40_000)


@pytest.mark.parametrize("wire", WIRES)
def test_a_count_above_max_tokens_is_rejected(
    wire: str, script: Script, tmp_path: Path, clock: Clock
) -> None:
    """The service would have cut the reply at max_tokens."""
    llm = use(wire, script, tmp_path, clock)
    script.answer(200, reply_of(wire, TEXT, (9, 40_000)))
    assert llm.generate("Hello", max_tokens=100).usage.output_tokens < 100


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("counted", [None, 10**15])
def test_a_reply_is_charged_by_its_text_up_to_the_longest_possible_one(
    wire: str, counted: int | None, script: Script, tmp_path: Path, clock: Clock
) -> None:
    """Text beyond max_tokens counts, but a server that sends it without end closes no key for
    weeks.
    """
    llm = use(wire, script, tmp_path, clock)
    # The longest reply has 200,000 tokens, or fills the context window.
    for length, least, most in ((4_000, 1_000, 1_000), (4_000_000, 100_000, 200_000)):
        body = reply_of(wire, length * "a", (9, counted))
        if counted is None:
            body.pop("usage", None)
            body.pop("usageMetadata", None)
        script.answer(200, body)
        assert least <= llm.generate("Hello", max_tokens=100).usage.output_tokens <= most
        clock.now += 90_000


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_invalid_count_does_not_lose_the_reply(
    wire: str, stream: bool, script: Script, tmp_path: Path, clock: Clock
) -> None:
    """JSON parsers accept fractions, texts, lists, infinity and NaN."""
    llm = use(wire, script, tmp_path, clock)
    for figure in NO_COUNTS:
        if stream:
            script.events(event(wire, 123454321, 3), done=wire != "google")
        else:
            script.answer(200, reply_of(wire, TEXT, (123454321, 3)))
        script.body = script.body.replace(b"123454321", figure.encode())
        if stream:
            pieces = llm.stream("Hello", patience=0)
            assert "".join(pieces) == TEXT
            reply = pieces.reply
        else:
            reply = llm.generate("Hello", patience=0)
            assert reply == TEXT
        assert 0 < reply.usage.input_tokens < 100
        everything_is_read()
        clock.now += 60


UNREAD = ("id", "object", "created", "model", "service_tier", "responseId", "modelVersion")


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_invalid_unused_field_does_not_lose_the_reply(
    wire: str, stream: bool, script: Script, tmp_path: Path, clock: Clock
) -> None:
    """A missing usage, or one with unknown fields, loses no reply either."""
    llm = use(wire, script, tmp_path, clock)
    whole = event(wire, 9, 3) if stream else reply_of(wire, TEXT, (9, 3))
    usage = "usageMetadata" if wire == "google" else "usage"
    further = {**whole[usage], "prompt_audio_seconds": 7.5, "total_tokens": [], "queue_time": "x"}
    first = "candidates" if wire == "google" else "choices"
    changes = [dict.fromkeys(UNREAD, 123454321)]
    changes += [{usage: 123454321}, {usage: further}, {usage: {}}]
    changes.append({first: [{**whole[first][0], "index": 123454321, "logprobs": 123454321}]})
    for change in changes:
        for figure in ("null", "7.5", "[]", "1" + 5000 * "0"):
            if stream:
                script.events(whole | change, done=wire != "google")
            else:
                script.answer(200, whole | change)
            script.body = script.body.replace(b"123454321", figure.encode())
            reply = "".join(llm.stream("Hello")) if stream else llm.generate("Hello")
            assert reply == TEXT
            clock.sleep(60)


figures = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["1" * 16, "9" * 15, "9" * 400, "inf", "-inf", "nan", "", "1e400", "0x1f"]),
    st.from_regex(r"\A[0-9]{1,17}(ms|s|m|h|d)?\Z"),
)
HEADERS = (
    "retry-after", "retry-after-ms", "date",
    *(
        f"x-ratelimit-{figure}-{metric}"
        for figure in ("limit", "remaining", "reset")
        for metric in ("requests", "tokens", "tokens-minute", "req-minute", "requests-day")
    ),
    "x-ratelimitbysize-limit-minute", "ratelimitbysize-reset",
)  # fmt: skip


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.parametrize("wire", WIRES)
def test_no_header_or_error_body_breaks_a_request_or_a_table(
    wire: str, data: st.DataObject, script: Script, tmp_path: Path
) -> None:
    """Limits, remaining amounts, resets and waits may have any size in headers and texts."""
    clock = Clock()
    llm = use(wire, script, tmp_path, clock)
    figure = lambda: data.draw(figures)  # noqa: E731
    for _ in range(2):
        headers = data.draw(st.dictionaries(st.sampled_from(HEADERS), figures, max_size=6))
        sentence = (
            f"Rate limit reached on tokens per minute (TPM): Limit {figure()}, Used {figure()}, "
            f"Requested {figure()}. Please try again in {figure()}s."
        )
        violation = {
            "quotaId": "GenerateRequestsPerMinutePerProjectPerModel", "quotaValue": figure(),
        }  # fmt: skip
        details = [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": figure()},
        ]
        error = {"message": sentence, "code": data.draw(st.sampled_from(["x", 429, 10**300]))}
        if data.draw(st.booleans()):
            script.answer(429, {"error": error | {"details": details}}, headers)
        else:
            script.answer(200, reply_of(wire, TEXT, (9, 3)), headers)
        with suppress(NoRouteAvailable):
            llm.generate("Hello", patience=0)
        tracker = get_quota_tracker()
        json.dumps(tracker.get_usage_summary(), default=str)
        json.dumps(llm.get_stats(), default=str)
        clock.now += data.draw(st.sampled_from([0.0, 61.0, 90_000.0]))
