"""Each kind of failure through every real SDK."""

from __future__ import annotations

import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from adapter_calls import (
    HELLO,
    MODELS,
    SECRET,
    WIRES,
    Build,
    Script,
    complete,
    failure_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arche_magic.llm_providers.adapters import build_adapter
from arche_magic.llm_providers.adapters.adapter import Adapter
from arche_magic.llm_providers.provider_failure import AttemptFailed, Remedy
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.types import Key, Timeouts

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox

KINDS = {
    "rate_limit_minute": Remedy.WAIT_FOR_LIMIT,
    "rate_limit_day": Remedy.WAIT_FOR_LIMIT,
    "too_large": Remedy.SHORTEN_PROMPT,
    "unauthorized": Remedy.REPLACE_KEY,
    "forbidden": Remedy.REPLACE_KEY,
    "no_credit": Remedy.TOP_UP_ACCOUNT,
    "not_in_plan": Remedy.CHANGE_PLAN,
    "model_not_found": Remedy.CHANGE_MODEL,
    "model_retired": Remedy.CHANGE_MODEL,
    "context_too_long": Remedy.SHORTEN_PROMPT,
    "invalid_request": Remedy.FIX_REQUEST,
    "content_filter": Remedy.CHANGE_PROMPT,
    "server_error": Remedy.RETRY_LATER,
    "overloaded": Remedy.RETRY_LATER,
    "plain_text_error": Remedy.RETRY_LATER,
    "reset": Remedy.RETRY_LATER,
    "broken_connection": Remedy.RETRY_LATER,
    "cut_stream": Remedy.RETRY_LATER,
    "malformed_body": Remedy.RETRY_LATER,
    "malformed_event": Remedy.RETRY_LATER,
    "stream_error": Remedy.RETRY_LATER,
    "empty_reply": Remedy.RETRY_LATER,
    "unrelated_json": Remedy.RETRY_LATER,
    "echo_key": Remedy.RETRY_LATER,
    "redirect": Remedy.CHECK_ADDRESS,
}
# Where the provider gives the same answer for two kinds.
EXCEPTIONS = {
    ("groq", "forbidden"): Remedy.CHECK_ADDRESS,
    ("openai", "forbidden"): Remedy.CHECK_ADDRESS,
    ("mistral", "too_large"): Remedy.WAIT_FOR_LIMIT,
    ("google", "too_large"): Remedy.WAIT_FOR_LIMIT,
    ("mistral", "no_credit"): Remedy.WAIT_FOR_LIMIT,
    ("groq", "no_credit"): Remedy.REPLACE_KEY,
    ("groq", "not_in_plan"): Remedy.CHANGE_MODEL,
    ("openai", "not_in_plan"): Remedy.CHANGE_MODEL,
}
AFTER_SOME_TEXT = ("cut_stream", "broken_connection", "malformed_event", "stream_error")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_failure_names_its_remedy(
    sandbox: Sandbox, adapters: dict[str, Adapter], kind: str, wire: str, stream: bool
) -> None:
    """Each failure of each provider becomes a one-line error with a remedy."""
    sandbox.fail(wire, kind)
    failure = failure_of(adapters[wire], MODELS[wire], stream=stream)
    assert failure.remedy is EXCEPTIONS.get((wire, kind), KINDS[kind]), failure
    line = str(failure)
    assert "\n" not in line
    assert len(line) <= 200
    assert sandbox.environment()[f"{wire.upper()}_API_KEY"] not in line
    assert complete(adapters[wire], MODELS[wire])


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", AFTER_SOME_TEXT)
def test_a_broken_stream_keeps_the_text_that_arrived(
    sandbox: Sandbox, adapters: dict[str, Adapter], kind: str, wire: str
) -> None:
    """The error of a broken stream has the text that arrived."""
    sandbox.fail(wire, kind)
    pieces: list[str] = []
    stream_of = adapters[wire].complete(HELLO, MODELS[wire], stream=True, timeouts=Timeouts())
    with pytest.raises(AttemptFailed) as caught:
        pieces.extend(completion.text for completion in stream_of)
    assert "".join(pieces)
    assert caught.value.failure.text == "".join(pieces)


def test_the_error_says_how_a_stream_broke(sandbox: Sandbox, adapters: dict[str, Adapter]) -> None:
    """It was an early end, a lost connection, or a malformed event."""
    for kind, words in (
        ("cut_stream", "the stream ended early"),
        ("broken_connection", "connection lost"),
        ("malformed_event", "malformed reply"),
    ):
        sandbox.fail("groq", kind)
        assert str(failure_of(adapters["groq"], MODELS["groq"], stream=True)) == words


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("kind", "stream"), [("stall", False), ("stall", True), ("stall_stream", True)]
)
def test_a_silent_server_times_out(
    sandbox: Sandbox, adapters: dict[str, Adapter], wire: str, kind: str, stream: bool
) -> None:
    """After `timeout` seconds without a byte, the call ends."""
    sandbox.fail(wire, kind)
    failure = failure_of(adapters[wire], MODELS[wire], stream=stream, timeouts=Timeouts(total=0.2))
    assert failure.remedy is Remedy.RETRY_LATER
    assert str(failure) == "no answer within 0.2 s"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_trickling_server_times_out(
    script: Script, build: Build, wire: str, stream: bool
) -> None:
    """Occasional bytes do not keep a call alive forever."""
    script.events(done=False)
    # Google's SDK takes a comment for a broken answer.
    event = b'data: {"modelVersion": "g"}'
    script.endless = (event if wire == "google" else b": still thinking") + b"\n\n"
    if not stream:
        script.answer(200, "")
        script.endless = b" "
    failure = failure_of(build(wire), MODELS[wire], stream=stream, timeouts=Timeouts(total=0.3))
    assert failure.remedy is Remedy.RETRY_LATER
    assert str(failure) == "no answer within 0.3 s"
    assert script.left.wait(2)


@pytest.mark.parametrize("wire", WIRES)
def test_a_closed_port_is_a_temporary_failure(wire: str) -> None:
    """A closed port is a temporary failure."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        key = Key.of(wire, f"{wire}_key_1", SECRET)
        adapter = build_adapter(wire, key, f"http://127.0.0.1:{port}")
        failure = failure_of(adapter, MODELS[wire])
        adapter.close()
    assert failure.remedy is Remedy.RETRY_LATER
    assert str(failure) == "no connection"
    assert not failure.sent


@pytest.mark.parametrize("wire", WIRES)
def test_closing_a_stream_drops_the_connection(script: Script, build: Build, wire: str) -> None:
    """If a reader stops, the server stops sending immediately."""
    choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
    head = {"id": "1", "model": "m", "object": "chat.completion.chunk", "created": 1}
    chunk: dict[str, Any] = {**head, "choices": [choice]}
    if wire == "google":
        chunk = {"candidates": [{"content": {"parts": [{"text": "word "}]}}]}
    script.events(chunk, done=False)
    script.endless = script.body
    stream = build(wire).complete(HELLO, "m", stream=True, timeouts=Timeouts())
    assert next(stream).text == "word "
    assert not script.left.is_set()
    stream.close()  # type: ignore[attr-defined]
    assert script.left.wait(2)


@pytest.mark.parametrize("wire", WIRES)
def test_loopback_uses_no_proxy(script: Script, monkeypatch: pytest.MonkeyPatch, wire: str) -> None:
    """The environment's proxy is not used for this machine."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    script.answer(503, "busy")
    key = Key.of(wire, f"{wire}_key_1", SECRET)
    here = build_adapter(wire, key, script.url)
    assert str(failure_of(here, MODELS[wire])) == "overloaded (503): busy"
    here.close()
    elsewhere = build_adapter(wire, key, "http://arche.invalid")
    assert str(failure_of(elsewhere, MODELS[wire])) == "no connection to the proxy in http_proxy"
    assert len(script.received) == 1
    elsewhere.close()


@pytest.mark.parametrize("wire", WIRES)
def test_one_call_is_one_request(script: Script, build: Build, wire: str) -> None:
    """No SDK retries on its own, even when the server asks for it."""
    script.answer(503, {"error": {"message": "x"}}, {"retry-after": "0", "x-should-retry": "true"})
    failure = failure_of(build(wire), MODELS[wire])
    assert failure.remedy is Remedy.RETRY_LATER
    assert failure.retry_after == 0
    assert len(script.received) == 1


@pytest.mark.parametrize("wire", WIRES)
def test_a_key_with_invalid_characters_must_be_replaced(wire: str) -> None:
    """The error names a key that cannot be sent in a header (a smart quote, a line end)."""
    for text in ("sk-“quoted”-1234567", "sk-line\nend-1234567"):
        adapter = build_adapter(wire, Key.of(wire, f"{wire}_key_1", text), "http://127.0.0.1:9")
        failure = failure_of(adapter, MODELS[wire])
        adapter.close()
        assert failure.remedy is Remedy.REPLACE_KEY
        assert "key contains a space or another character" in str(failure)


@pytest.mark.parametrize("wire", ["groq", "openai"])
def test_a_prompt_that_cannot_be_encoded_is_an_invalid_request(wire: str) -> None:
    """Half a surrogate pair cannot be encoded in UTF-8, so nothing is sent and no route closes.

    Older versions of httpx send it as a JSON escape, which is correct too.
    """
    key = Key.of(wire, f"{wire}_key_1", SECRET)
    adapter = build_adapter(wire, key, "http://127.0.0.1:9")
    with pytest.raises(AttemptFailed) as caught:
        complete(adapter, "m", Request((Message("user", "\ud800"),)))
    adapter.close()
    escaped = str(caught.value) == "no connection"
    assert escaped or caught.value.failure.remedy is Remedy.FIX_REQUEST


def test_a_summary_never_quotes_the_request(script: Script, build: Build) -> None:
    """It is stored, and the words of an SDK or a server are shown only."""
    field = Request(HELLO.messages, extra={"metadata": ["a secret"]})
    failure = failure_of(build("mistral"), request=field)
    assert failure.summary == "the request could not be sent (ValidationError)"
    assert "a secret" in failure.said
    assert not failure.sent
    error = {"message": "a secret", "code": "unsupported_value", "param": "a secret"}
    script.answer(400, {"error": error})
    failure = failure_of(build("openai"))
    assert "secret" not in failure.summary
    assert failure.said == "a secret"


NAMES = (
    "error message code type param status details detail loc msg metadata violations choices delta "
    "content finish_reason usage prompt_tokens candidates parts text data @type quotaValue quotaId "
    "reason retryDelay promptFeedback x_groq"
)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES.split()) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=JSON | st.binary(max_size=60),
    status=st.sampled_from([200, 200, 200, 201, 302, 400, 401, 403, 404, 413, 422, 429, 500, 529]),
    wire=st.sampled_from(WIRES),
    stream=st.booleans(),
    retry_after=st.none()
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
)
def test_any_response_is_a_reply_or_an_attempt_failed(
    script: Script,
    build: Build,
    body: object,
    status: int,
    wire: str,
    stream: bool,
    retry_after: str | None,
) -> None:
    """For any body, status or header, an adapter raises no other error."""
    headers = {} if retry_after is None else {"retry-after": retry_after}
    if isinstance(body, bytes):
        script.answer(status, "", headers)
        script.body = body
    elif stream and status == 200:
        script.events(body)
    else:
        script.answer(status, body, headers)
    try:
        complete(build(wire), "m", stream=stream)
    except AttemptFailed as error:
        failure = error.failure
        assert len(str(failure)) <= 200
        assert failure.retry_after is None or failure.retry_after >= 0


@pytest.mark.parametrize("wire", WIRES)
def test_an_interrupt_ends_a_stream_at_once(
    sandbox: Sandbox, adapters: dict[str, Adapter], wire: str
) -> None:
    """Ctrl-C and Kernel → Interrupt end the wait for the rest of a stream."""
    assert complete(adapters[wire], MODELS[wire])  # the SDK is imported before the clock starts
    sandbox.fail(wire, "stall_stream")
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
    started = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        complete(adapters[wire], MODELS[wire], stream=True, timeouts=Timeouts())
    assert time.monotonic() - started < 5
    assert complete(adapters[wire], MODELS[wire])


def test_the_sdk_does_not_continue_geminis_replies(script: Script, build: Build) -> None:
    """Google's SDK would send uncounted requests after an unfinished reply."""
    candidate = {
        "content": {"parts": [{"text": "Half"}]},
        "finishReason": "CONTINUATION",
        "continuationToken": "abcd",
    }
    script.answer(200, {"candidates": [candidate]})
    failure = failure_of(build("google"), MODELS["google"])
    assert failure.remedy is Remedy.RETRY_LATER
    assert failure.text == "Half"
    assert len(script.received) == 1
