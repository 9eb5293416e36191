"""Failures of one provider are hidden from the user, unless the user has to act."""

from __future__ import annotations

import time
from typing import Any

import pytest
from promptness import in_time
from provider_parts import MODELS, PROVIDERS, Clock, Start, asked

from arche_magic.llm_providers import (
    ContentFiltered,
    IncompleteReply,
    IntelligentLLMOrchestrator,
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
    get_llm_provider,
)
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.events import Discarded, Piece
from arche_magic.sandbox import FAILURE_KINDS, TEMPORARY_KINDS

BREAKS_A_STREAM = (
    "malformed_event",
    "malformed_body",
    "stream_error",
    "cut_stream",
    "broken_connection",
)


def ask(provider: IntelligentLLMOrchestrator, streamed: bool, **options: Any) -> str:
    """The text of a reply, plain or streamed."""
    if streamed:
        return "".join(provider.stream("Hello", **options))
    return provider.generate("Hello", **options)


@pytest.mark.parametrize("kind", TEMPORARY_KINDS)
@pytest.mark.parametrize("name", PROVIDERS)
def test_a_temporary_failure_is_answered_by_the_next_route(
    start: Start, clock: Clock, name: str, kind: str
) -> None:
    """The reply comes from the other route alone: no text is repeated or mixed."""
    other = "mistral" if name != "mistral" else "groq"
    sandbox = start(keys={name: 1, other: 1}, clock=clock)
    whole = get_llm_provider(other).generate("Hello")
    sandbox.fail(name, kind, times=None)
    reply = IntelligentLLMOrchestrator(preferred_provider=name).generate("Hello", patience=0)
    assert reply == whole
    first, last = reply.attempts
    assert (first.provider, last.provider) == (name, other)
    assert first.outcome == ("refused" if kind == "rate_limit_minute" else "failed")
    assert first.error


@pytest.mark.parametrize("kind", TEMPORARY_KINDS)
@pytest.mark.parametrize("name", PROVIDERS)
def test_a_broken_stream_starts_again_on_the_next_route(
    start: Start, clock: Clock, name: str, kind: str
) -> None:
    """The text shown so far is discarded first, so that it is replaced and not continued."""
    other = "mistral" if name != "mistral" else "groq"
    sandbox = start(keys={name: 1, other: 1}, clock=clock)
    whole = get_llm_provider(other).generate("Hello")
    sandbox.fail(name, kind, times=None)
    events = IntelligentLLMOrchestrator(preferred_provider=name).events("Hello", patience=0)
    seen, shown = [], ""
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            reply = end.value
            break
        if isinstance(seen[-1], Discarded):
            assert whole != shown != ""
            shown = ""
        elif isinstance(seen[-1], Piece):
            shown += seen[-1].text
    assert shown == reply == whole
    assert reply.provider == other
    broken = sum(isinstance(event, Discarded) for event in seen)
    assert broken == (kind in BREAKS_A_STREAM)


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("kind", BREAKS_A_STREAM)
def test_a_stream_cut_after_some_text_raises_with_that_text(
    start: Start, clock: Clock, name: str, kind: str
) -> None:
    """`stream()` cannot take back its text, so it says that the reply is incomplete."""
    sandbox = start(clock=clock)
    whole = get_llm_provider(name).generate("Hello")
    sandbox.fail(name, kind, times=None)
    stream = get_llm_provider(name).stream("Hello")
    pieces = []
    with pytest.raises(IncompleteReply, match="broke off") as caught:
        pieces.extend(iter(stream))
    assert caught.value.partial
    assert whole.startswith(caught.value.partial)
    assert len(caught.value.partial) < len(whole)
    assert stream.reply is None
    assert [attempt.outcome for attempt in caught.value.attempts] == ["failed"]
    assert len(sandbox.requests) == 2


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_filtered_prompt_is_not_sent_to_another_provider(
    start: Start, name: str, streamed: bool
) -> None:
    """The user was not asked, and no route is closed."""
    sandbox = start()
    sandbox.fail(name, "content_filter")
    preferred = IntelligentLLMOrchestrator(preferred_provider=name)
    with pytest.raises(ContentFiltered, match=name) as caught:
        ask(preferred, streamed)
    assert asked(sandbox) == [name]
    assert [attempt.outcome for attempt in caught.value.attempts] == ["failed"]
    assert preferred.generate("Hello").provider == name


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_refused_option_sends_the_request_to_the_next_model(
    start: Start, name: str, streamed: bool
) -> None:
    """No route is closed; the other keys of the model are not tried."""
    other = "mistral" if name != "mistral" else "groq"
    sandbox = start(keys={name: 2, other: 1})
    sandbox.fail(name, "invalid_request", times=1)
    preferred = IntelligentLLMOrchestrator(preferred_provider=name)
    ask(preferred, streamed)
    assert asked(sandbox) == [name, other]
    assert preferred.generate("Hello").provider == name


def test_a_request_that_all_models_refuse_fails_with_all_reasons(start: Start) -> None:
    """The error has one line per provider and model. Each was asked once."""
    sandbox = start()
    sandbox.fail("*", "invalid_request", times=None)
    with pytest.raises(InvalidRequest) as caught:
        get_llm_provider().generate("Hello")
    assert asked(sandbox) == list(PROVIDERS)
    for name in PROVIDERS:
        assert f"{name} ({MODELS[name]}) does not take the request" in str(caught.value)


@pytest.mark.parametrize("name", PROVIDERS)
def test_another_model_may_answer_a_filtered_prompt_if_allowed(start: Start, name: str) -> None:
    """`fallback_on_filter` allows it. Another key of the same model would filter the prompt too."""
    other = "mistral" if name != "mistral" else "groq"
    sandbox = start(keys={name: 2, other: 1})
    whole = get_llm_provider(other).generate("Hello")
    sandbox.fail(name, "content_filter", times=None)
    preferred = IntelligentLLMOrchestrator(preferred_provider=name)
    reply = preferred.generate("Hello", fallback_on_filter=True)
    assert reply == whole
    assert [attempt.provider for attempt in reply.attempts] == [name, other]
    events, shown = preferred.events("Hello", fallback_on_filter=True), ""
    for event in events:
        if isinstance(event, Discarded):
            assert isinstance(event.error, ContentFiltered)
            assert event.error.partial == shown != ""
            shown = ""
        elif isinstance(event, Piece):
            shown += event.text
    assert shown == whole
    assert asked(sandbox)[1:] == [name, other, name, other]


def test_a_stream_is_not_continued_by_another_model(start: Start) -> None:
    """`stream()` cannot take back its text, whether or not another model may try."""
    sandbox = start()
    sandbox.fail("groq", "content_filter", times=None)
    pieces = []
    with pytest.raises(ContentFiltered) as caught:
        pieces.extend(get_llm_provider().stream("Hello", fallback_on_filter=True))
    assert caught.value.partial == "".join(pieces) != ""
    assert asked(sandbox) == ["groq"]


def test_an_error_about_filters_names_all_models(start: Start) -> None:
    """It is still ContentFiltered, and contains the outcome of every route."""
    sandbox = start()
    sandbox.fail("*", "content_filter", times=None)
    with pytest.raises(ContentFiltered) as caught:
        get_llm_provider().generate("Hello", fallback_on_filter=True, patience=0)
    assert asked(sandbox) == list(PROVIDERS)
    assert [attempt.provider for attempt in caught.value.attempts] == list(PROVIDERS)
    for name in PROVIDERS:
        assert f"{name} · key 1" in str(caught.value)


@pytest.mark.parametrize(
    "kind", [*BREAKS_A_STREAM, "server_error", "content_filter", "empty_reply"]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_usage_of_both_routes_is_counted(
    start: Start, clock: Clock, kind: str, streamed: bool
) -> None:
    """The ledger and the attempts agree, and are never below the provider's count."""
    sandbox = start(keys={"groq": 1, "mistral": 1}, clock=clock)
    sandbox.fail("groq", kind)
    provider = get_llm_provider()
    if streamed:
        events = provider.events("Hello", fallback_on_filter=True)
        for _ in events:
            pass
        attempts = attempt_log(provider.configuration.store).recent
    else:
        attempts = provider.generate("Hello", fallback_on_filter=True).attempts
    failed, served = attempts
    summary, counted = provider.quota_tracker.get_usage_summary(), sandbox.usage()
    for attempt, limit in ((failed, "tokens_per_day"), (served, "tokens_per_month")):
        charged = summary[attempt.provider][attempt.key][limit]["used"]
        assert charged == attempt.input_tokens + attempt.output_tokens
        count = counted[attempt.key][attempt.model]
        assert charged >= count["input_tokens"] + count["output_tokens"]
    assert charged == count["input_tokens"] + count["output_tokens"]


def test_a_call_that_never_left_this_machine_is_not_counted(start: Start, clock: Clock) -> None:
    """Without a connection no quota is used, however often it is tried."""
    sandbox = start(keys={"groq": 1}, clock=clock)
    provider = get_llm_provider()
    provider.generate("Hello")
    before = provider.quota_tracker.get_usage_summary()
    sandbox.stop()
    for _ in range(3):
        with pytest.raises(NoRouteAvailable, match="no connection"):
            provider.generate("Hello", patience=0)
        clock.now += 10
    after = provider.quota_tracker.get_usage_summary()
    for limit, entry in after["groq"]["groq_key_1"].items():
        # Buckets refill meanwhile.
        assert entry["used"] <= before["groq"]["groq_key_1"][limit]["used"]


def test_a_filtered_stream_keeps_its_text(start: Start) -> None:
    """It is in `.partial`, as for a stream that breaks."""
    sandbox = start()
    whole = get_llm_provider("mistral").generate("Hello")
    sandbox.fail("mistral", "content_filter")
    with pytest.raises(ContentFiltered) as caught:
        list(get_llm_provider("mistral").stream("Hello"))
    assert caught.value.partial
    assert whole.startswith(caught.value.partial)


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_rejected_key_is_called_once(start: Start, name: str) -> None:
    """This holds for any number of requests. Another key of the provider still answers."""
    sandbox = start(keys={name: 2})
    dead = f"{name}_key_1"
    sandbox.fail(dead, "unauthorized", times=None)
    provider = get_llm_provider()
    for number in range(8):
        assert provider.generate(f"Prompt {number}").key == f"{name}_key_2"
    # A new object, as after a restart of the kernel, reads it from the ledger.
    assert get_llm_provider(name).generate("Hello").key == f"{name}_key_2"
    assert [request.key for request in sandbox.requests].count(dead) == 1


def test_the_error_names_every_route_that_was_called(start: Start) -> None:
    """It names up to ten of them, a few other routes, and the number of the rest."""
    sandbox = start(keys={"groq": 6, "mistral": 1})
    sandbox.fail("groq", "unauthorized", times=None)
    sandbox.fail("mistral", "no_credit", times=None)
    provider = get_llm_provider()
    with pytest.raises(NoRouteAvailable) as caught:
        provider.generate("Hello", patience=0)
    for number in range(1, 7):
        assert f"groq · key {number} · gpt-oss-120b: key refused (401" in str(caught.value)
    assert "mistral · key 1 · mistral-small-latest" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(NoRouteAvailable, match=r"; and 3 more; "):
        provider.generate("Hello", patience=0)


def test_the_error_about_many_routes_names_those_that_open_first(
    start: Start, clock: Clock
) -> None:
    """And how many more there are."""
    left = {f"groq_key_{number}": {"requests_per_day": 0} for number in range(1, 60)}
    left["groq_key_60"] = {"requests_per_minute": 0}
    sandbox = start(keys={"groq": 60}, clock=clock, left=left)
    with pytest.raises(NoRouteAvailable) as caught:
        get_llm_provider().generate("Hello", patience=0)
    assert len(sandbox.requests) == 60
    first, *others, last = str(caught.value).split("; ")
    assert first.startswith("All Groq API keys have hit rate limits: groq · key 60 · ")
    assert len(others) == 3
    assert last == "and 56 more"


def test_one_of_five_keys_with_quota_is_enough(start: Start, clock: Clock) -> None:
    """All requests are answered, and each spent key is called at most once."""
    spent = {f"groq_key_{number}": {"requests_per_day": 0} for number in range(1, 5)}
    sandbox = start(keys={"groq": 5}, clock=clock, left=spent)
    provider = get_llm_provider("groq")
    replies = [provider.generate(f"Prompt {number}", patience=60) for number in range(40)]
    assert {reply.key for reply in replies} == {"groq_key_5"}
    keys = [request.key for request in sandbox.requests]
    assert all(keys.count(key) <= 1 for key in spent)
    assert provider.get_stats()["errors"] == 0


def test_a_server_that_sends_slowly_does_not_extend_the_timeout(start: Start) -> None:
    """The timeout is for the whole request, not for each piece."""
    sandbox = start(keys={"groq": 1})
    provider = get_llm_provider("groq")
    provider.generate("The first call builds the client.")
    sandbox.seconds_per_chunk = 0.1
    began = time.monotonic()
    with pytest.raises(IncompleteReply):
        list(provider.stream("Hello [tokens=500]", timeout=0.5))
    in_time("a deadline", time.monotonic() - began - 0.5)


def test_every_kind_of_failure_ends_in_a_reply_or_an_error_of_ours(
    start: Start, clock: Clock
) -> None:
    """No exception of an SDK is raised, and every error has its attempts."""
    sandbox = start(clock=clock)
    for kind in sorted(set(FAILURE_KINDS) - {"stall", "stall_stream"}):
        for name in PROVIDERS:
            sandbox.reset()
            clock.now += 200_000
            sandbox.fail(name, kind, times=None)
            provider = get_llm_provider(name)
            provider.quota_tracker.reopen(f"{name}_key_1")
            try:
                reply = provider.generate("Hello", patience=0)
            except LLMProviderError as error:
                attempts = error.attempts
            else:
                attempts = reply.attempts
            assert attempts, (name, kind)
            assert {attempt.model for attempt in attempts} == {MODELS[name]}
