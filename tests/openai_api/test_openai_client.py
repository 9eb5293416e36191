"""The official OpenAI client in this process, answered by the best open route."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import openai
import pytest
from http_libraries import LIBRARIES
from provider_parts import NOON, Clock, Start, asked

import arche_magic
from arche_magic.llm_providers import ConfigurationError, InvalidRequest, get_llm_provider
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.reply import Reply
from arche_magic.openai_api.replies import route_header

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def outcomes() -> list[str]:
    return [attempt.outcome for attempt in attempt_log(get_configuration().store).session()]


def counted_requests(key: str) -> float:
    """Today's requests for a key in the ledger."""
    summary = get_llm_provider().quota_tracker.get_usage_summary()
    return float(summary[key.partition("_")[0]][key]["requests_per_day"]["used"])


# --- replies


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_model_can_have_any_name(library: Any) -> None:
    """The header with the name is ASCII, and one line."""
    reply = Reply("Hello", provider="ollama", key="ollama_key_1", model="größe\r\nx: 1")
    response = library.Response(200, headers=route_header(reply.route))
    assert response.headers["x-arche-route"] == "ollama ollama_key_1 gr%C3%B6%C3%9Fe%0D%0Ax: 1"


def test_a_completion_is_an_official_object(sandbox: Sandbox) -> None:
    """With text, usage, the real model, the route, duration and cost."""
    raw = arche_magic.openai_client().chat.completions.with_raw_response.create(
        model="auto", messages=HELLO
    )
    completion: Any = raw.parse()
    (choice,) = completion.choices
    assert "You asked: “Hello”" in choice.message.content
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert completion.id.startswith("chatcmpl-")
    assert completion.model == "openai/gpt-oss-120b"
    count = sandbox.usage()["groq_key_1"]["openai/gpt-oss-120b"]
    assert completion.usage.prompt_tokens == count["input_tokens"]
    assert completion.usage.completion_tokens == count["output_tokens"]
    assert raw.headers["x-arche-route"] == "groq groq_key_1 openai/gpt-oss-120b"
    route = {"provider": "groq", "key": "groq_key_1", "model": "openai/gpt-oss-120b"}
    assert completion.arche["route"] == route
    assert [attempt["outcome"] for attempt in completion.arche["attempts"]] == ["served"]
    assert (completion.arche["cost"], completion.arche["waited"]) == (0.0, 0.0)


@pytest.mark.parametrize("provider", ["groq", "mistral", "google", "openai"])
def test_a_stream_has_chunks_and_the_usage(sandbox: Sandbox, provider: str) -> None:
    """The role, the pieces of the text, the end with the route, and the usage on request."""
    client = arche_magic.openai_client()
    stream = client.chat.completions.create(
        model=provider, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    first, *pieces, end, usage = list(stream)
    assert first.choices[0].delta.role == "assistant"
    assert len(pieces) > 5
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert "You asked: “Hello”" in text
    assert end.choices[0].finish_reason == "stop"
    assert end.arche["route"]["provider"] == provider  # type: ignore[attr-defined]
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens > 10
    assert {chunk.id for chunk in (first, *pieces, end, usage)} == {first.id}
    assert stream.response.headers["x-arche-route"].startswith(f"{provider} {provider}_key_1 ")


def test_the_usage_is_not_sent_unless_requested(sandbox: Sandbox) -> None:
    """OpenAI does the same. Some libraries fail on a chunk without choices."""
    client = arche_magic.openai_client()
    chunks = list(client.chat.completions.create(model="auto", messages=HELLO, stream=True))
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in chunks)


def test_a_kept_reply_is_streamed(sandbox: Sandbox) -> None:
    """The second stream sends nothing to a provider and names the original route."""
    client = arche_magic.openai_client(keep=True)

    def streamed() -> tuple[str, str, Any]:
        stream = client.chat.completions.create(model="auto", messages=HELLO, stream=True)
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        return text, chunks[0].model, chunks[-1].arche  # type: ignore[attr-defined]

    new, kept = streamed(), streamed()
    assert kept[:2] == new[:2]
    assert new[2]["from_memory"] is None
    assert kept[2]["from_memory"]
    assert len(sandbox.requests) == 1


# --- model=


@pytest.mark.parametrize(
    ("model", "provider", "answered"),
    [
        ("auto", "groq", "openai/gpt-oss-120b"),
        ("google", "google", "gemini-3.5-flash-lite"),
        ("groq/openai/gpt-oss-20b", "groq", "openai/gpt-oss-20b"),
        ("openai/gpt-oss-20b", "groq", "openai/gpt-oss-20b"),
        ("gpt-4.1-mini", "openai", "gpt-4.1-mini"),
        ("fast", "groq", "openai/gpt-oss-20b"),
        ("gpt-4o", "mistral", "mistral-small-latest"),
    ],
)
def test_model_is_auto_a_provider_a_model_or_an_alias(
    start: Start, model: str, provider: str, answered: str
) -> None:
    """An alias can replace a model's name, for libraries that use a fixed one."""
    aliases = {"fast": "groq/openai/gpt-oss-20b", "gpt-4o": "mistral-small-latest"}
    start(settings={"aliases": aliases})
    client = arche_magic.openai_client()
    completion: Any = client.chat.completions.create(model=model, messages=HELLO)
    assert (completion.arche["route"]["provider"], completion.model) == (provider, answered)
    retrieved: Any = client.models.retrieve(model)
    assert retrieved.id == model
    assert retrieved.owned_by == (provider if model != "auto" else "arche_magic")


def test_the_list_of_models_says_what_they_support(start: Start) -> None:
    """It lists the models of providers with a key, and each of them can be used."""
    start(keys={"groq": 1, "google": 1}, settings={"aliases": {"fast": "groq/openai/gpt-oss-20b"}})
    client = arche_magic.openai_client()
    listed: dict[str, Any] = {model.id: model for model in client.models.list()}
    assert list(listed)[:3] == ["auto", "fast", "groq"]
    assert not any(name.startswith(("mistral", "openai/")) for name in listed)
    assert listed["fast"].context_window == 131_072
    assert listed["fast"].takes["images"] is False
    assert listed["google/gemini-3.5-flash-lite"].takes["images"] is True
    assert client.models.retrieve("groq/openai/gpt-oss-20b").id == "groq/openai/gpt-oss-20b"


# --- options


def test_defaults_apply_unless_a_request_overrides_them(sandbox: Sandbox) -> None:
    """Options of the engine and of the request; the request's own take precedence."""
    client = arche_magic.openai_client(provider="mistral", tag="report", temperature=0.5)
    client.chat.completions.create(model="auto", messages=HELLO)
    client.chat.completions.create(model="groq", messages=HELLO, temperature=0.1)
    tagged = {"x-arche-tag": "notes"}
    client.chat.completions.create(model="auto", messages=HELLO, extra_headers=tagged)
    assert asked(sandbox) == ["mistral", "groq", "mistral"]
    assert [request.body["temperature"] for request in sandbox.requests] == [0.5, 0.1, 0.5]
    attempts = attempt_log(get_configuration().store).session()
    assert [attempt.tag for attempt in attempts] == ["report", "report", "notes"]


@pytest.mark.parametrize(
    ("defaults", "error", "says"),
    [
        ({"patiense": 3}, InvalidRequest, "unknown option 'patiense'; did you mean 'patience'?"),
        ({"patience": -1}, InvalidRequest, "patience is -1; it must be 0 or more"),
        ({"provider": "gorq"}, ConfigurationError, "unknown provider 'gorq'; did you mean 'groq'?"),
        ({"model": "gpt-oss-20c"}, ConfigurationError, "did you mean 'openai/gpt-oss-20b'?"),
    ],
)
@pytest.mark.parametrize(
    "make",
    [arche_magic.openai_client, arche_magic.async_openai_client, arche_magic.openai_transport],
)
def test_an_invalid_default_is_refused_at_once(
    sandbox: Sandbox, make: Callable[..., Any], defaults: dict[str, Any], error: type, says: str
) -> None:
    """Otherwise every request of the client would fail."""
    with pytest.raises(error) as caught:
        make(**defaults)
    assert says in str(caught.value)


def test_the_client_ignores_environment_variables(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ignores those for the key, the address and the proxy."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-user-12345")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    client = arche_magic.openai_client()
    assert "12345" not in client.api_key
    assert client.base_url.host == "arche-magic.invalid"
    assert client.chat.completions.create(model="auto", messages=HELLO).choices


def test_a_timeout_of_the_client_applies_to_the_request(sandbox: Sandbox) -> None:
    """It limits all routes together, and the official timeout error is raised."""
    client = arche_magic.openai_client()
    client.chat.completions.create(model="auto", messages=HELLO)
    sandbox.latency = 30
    with pytest.raises(openai.APITimeoutError) as caught:
        client.with_options(timeout=0.5).chat.completions.create(model="auto", messages=HELLO)
    assert "No reply within 0.5 s" in str(caught.value.__cause__)


def test_a_wrong_timeout_of_the_client_is_refused(sandbox: Sandbox) -> None:
    """As the other options are."""
    chat = arche_magic.openai_client().chat.completions
    with pytest.raises(openai.BadRequestError, match="timeout is 'x'; it must be a number of sec"):
        chat.create(model="auto", messages=HELLO, timeout="x")  # type: ignore[arg-type]
    assert sandbox.requests == ()


# --- clients of other libraries


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_transport_works_with_httpx_and_httpx2(sandbox: Sandbox, library: Any) -> None:
    """Older official clients use one, newer ones the other."""
    client = library.Client(transport=arche_magic.openai_transport(), timeout=None)
    body = {"model": "auto", "messages": HELLO}
    with client:
        reply = client.post("https://api.openai.com/v1/chat/completions", json=body)
        assert reply.json()["arche"]["route"]["provider"] == "groq"
        body["stream"] = True
        with client.stream("POST", "http://any/some/v1/chat/completions", json=body) as reply:
            lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 5


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_official_client_accepts_either_library(sandbox: Sandbox, library: Any) -> None:
    """Libraries that create the client themselves may use either."""
    http_client = library.Client(transport=arche_magic.openai_transport(tag="library"))
    client = openai.OpenAI(api_key="unused", http_client=http_client, max_retries=0)
    completion: Any = client.chat.completions.create(model="auto", messages=HELLO)
    assert completion.arche["attempts"][0]["tag"] == "library"


# --- limits and failures


def test_a_rate_limit_error_says_what_opens_when(start: Start) -> None:
    """`retry-after` has the seconds until the first route opens."""
    clock = Clock(NOON)
    sandbox = start(keys={"groq": 1}, clock=clock, limits={"groq": {"requests_per_minute": 1}})
    client = arche_magic.openai_client(patience=0)
    client.chat.completions.create(model="auto", messages=HELLO)
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="auto", messages=HELLO, stream=stream)
        error = caught.value
        assert 1 <= int(error.response.headers["retry-after"]) <= 60
        # Clients with automatic retries do not retry.
        assert error.response.headers["x-should-retry"] == "false"
        assert (error.code, error.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert "All Groq API keys have hit rate limits" in error.message
        assert "opens in" in error.message
        assert error.body["arche"]["next_available_at"]  # type: ignore[index]
        (attempt,) = error.body["arche"]["attempts"]  # type: ignore[index]
        assert attempt.startswith("groq · key 1 · gpt-oss-120b ")
    used = len(sandbox.requests)
    clock.sleep(int(error.response.headers["retry-after"]))
    assert client.chat.completions.create(model="auto", messages=HELLO).choices
    assert len(sandbox.requests) == used + 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["overloaded", "unauthorized", "reset", "model_retired"])
def test_the_next_route_answers_if_one_fails_before_its_first_piece(
    start: Start, kind: str, stream: bool
) -> None:
    """This works in streams too."""
    sandbox = start(keys={"groq": 1, "mistral": 1})
    sandbox.fail("groq", kind)
    client = arche_magic.openai_client()
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=HELLO, stream=stream
    )
    assert raw.headers["x-arche-route"].startswith("mistral ")
    assert raw.status_code == 200
    if stream:
        assert "You asked" in "".join(c.choices[0].delta.content or "" for c in raw.parse())  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["cut_stream", "stream_error", "broken_connection"])
def test_a_stream_that_breaks_after_its_first_piece_ends_with_an_error(
    start: Start, kind: str
) -> None:
    """It does not look complete, and no other route adds text to it."""
    sandbox = start(keys={"groq": 1, "mistral": 1})
    sandbox.fail("groq", kind)
    client = arche_magic.openai_client()
    seen: list[Any] = []
    with pytest.raises(openai.APIError, match="broke off") as caught:
        seen.extend(client.chat.completions.create(model="auto", messages=HELLO, stream=True))
    assert not isinstance(caught.value, openai.APIStatusError)
    assert asked(sandbox) == ["groq"]


def test_a_filtered_reply_is_an_error(sandbox: Sandbox) -> None:
    """No other provider is asked without the user's permission."""
    sandbox.fail("groq", "content_filter")
    with pytest.raises(openai.BadRequestError, match="refused to answer") as caught:
        arche_magic.openai_client().chat.completions.create(model="auto", messages=HELLO)
    assert caught.value.code == "content_filter"
    assert asked(sandbox) == ["groq"]


def test_a_prompt_too_large_for_every_route_is_refused(start: Start) -> None:
    """The error has both sizes, and nothing is sent."""
    sandbox = start(keys={"groq": 1}, limits={"groq": {"tokens_per_minute": 1000}})
    configured = arche_magic.openai_client()
    configured.chat.completions.create(model="auto", messages=HELLO)
    with pytest.raises(openai.APIStatusError) as caught:
        configured.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "word " * 100_000}]
        )
    assert caught.value.status_code == 413
    assert caught.value.code == "context_length_exceeded"
    assert "too large" in caught.value.message
    assert len(sandbox.requests) == 1


def test_a_prompt_that_the_provider_calls_too_long_is_refused(start: Start) -> None:
    """With the same status, although no limit was known before."""
    start(keys={"groq": 1}).fail("groq", "context_too_long")
    with pytest.raises(openai.APIStatusError, match="the prompt is too long") as caught:
        arche_magic.openai_client().chat.completions.create(model="auto", messages=HELLO)
    assert (caught.value.status_code, caught.value.code) == (413, "context_length_exceeded")


def test_without_a_key_the_error_names_the_variables(tmp_path: Any) -> None:
    """A client can be created before there is a key; its requests say what to set."""
    client = arche_magic.openai_client()
    with pytest.raises(openai.AuthenticationError, match="GROQ_API_KEY"):
        client.chat.completions.create(model="auto", messages=HELLO)


# --- closing early


def test_closing_a_stream_ends_and_counts_the_call(sandbox: Sandbox) -> None:
    """The official client closes its connection in this way."""
    sandbox.seconds_per_chunk = 0.05
    client = arche_magic.openai_client()
    with client.chat.completions.create(model="auto", messages=HELLO, stream=True) as stream:
        assert next(stream).choices[0].delta.role == "assistant"
    assert outcomes() == ["interrupted"]
    assert counted_requests("groq_key_1") == 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_interrupt_stops_a_request(sandbox: Sandbox, stream: bool) -> None:
    """While it waits for the reply, or in the middle of a stream."""
    client = arche_magic.openai_client()
    client.chat.completions.create(model="auto", messages=HELLO)
    if stream:
        sandbox.seconds_per_chunk = 0.2
    else:
        sandbox.latency = 30

    def ctrl_c() -> None:
        while len(sandbox.requests) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Timer(0.3, ctrl_c).start()
    with pytest.raises(KeyboardInterrupt):
        list(client.chat.completions.create(model="auto", messages=HELLO, stream=stream))
    assert outcomes() == ["served", "interrupted"]
    assert counted_requests("groq_key_1") == 2
    sandbox.latency = sandbox.seconds_per_chunk = 0
    assert client.chat.completions.create(model="auto", messages=HELLO).choices
