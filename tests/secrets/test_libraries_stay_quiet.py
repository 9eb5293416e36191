"""SDKs and HTTP libraries do not log or warn about anything that a server echoes."""

from __future__ import annotations

import logging
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from leaks import leaks_in
from secret_parts import PROVIDERS, all_at

from arche_magic.llm_providers import LLMProviderError, get_llm_provider
from arche_magic.llm_providers.config import load_configuration, use_configuration

OSC = "\x1b]0;owned\x07\x1b]8;;https://evil.example\x07"
GEMINI = '{"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}'


@contextmanager
def raw_server(answer: Callable[[str], bytes]) -> Iterator[str]:
    """A server on loopback that answers each request with bytes made from the caller's key."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(65_536)
                head = request.partition(b"\r\n\r\n")[0].decode()
                headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
                named = {name.lower(): value for name, value in headers.items()}
                bearer = named.get("authorization", "").removeprefix("Bearer ")
                connection.sendall(answer(named.get("x-goog-api-key") or bearer))
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@pytest.fixture
def at(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """An environment that sends all four providers to an address."""
    monkeypatch.chdir(tmp_path)

    def use(url: str) -> None:
        use_configuration(load_configuration({**all_at(url), "ARCHE_QUOTA_STORE": "memory://"}))

    return use


def asked(provider: str, *, streamed: bool) -> str:
    """The reply or the error of one request."""
    llm = get_llm_provider(provider)
    llm.quota_tracker.reopen(f"{provider}_key_1")
    options: dict[str, Any] = {"patience": 0, "timeout": 10}
    try:
        return "".join(llm.stream("Hi", **options)) if streamed else llm.generate("Hi", **options)
    except LLMProviderError as error:
        return f"{error}\n{error.attempts!r}"


def answered(status: str, body: str = "", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "connection: close", *headers, "", body]
    return "\r\n".join(lines).encode()


ECHOES: dict[str, Callable[[str], bytes]] = {
    "reason phrase": lambda key: answered(f"401 no {key} here"),
    "reason phrase of a success": lambda key: answered(f"200 {key}", "{}"),
    "headers": lambda key: answered(
        "429 Too Many Requests", "", f"x-key: {key}", f"x-request-id: {key}", f"retry-after: {key}",
        f"openai-organization: {key}", f"location: /{key}", f"set-cookie: k={key}",
    ),
    "a header's name": lambda key: answered("500 No", "", f"x-{key.encode().hex()}: 1"),
    "content type": lambda key: answered("200 OK", "{}", f"content-type: application/{key}"),
    "a broken status line": lambda key: f"HTTP/1.1 key {key}\r\n\r\n".encode(),
    "a broken header": lambda key: answered("200 OK", "", f"no colon {key}"),
    "a body": lambda key: answered("400 Bad", f'{{"error": {{"message": "{key[:40]}"}}}}'),
    "a body that is no JSON": lambda key: answered("200 OK", f"<p>{key}</p>"),
    "an error event": lambda key: answered(
        "200 OK", f'data: {{"error": {{"message": "m", "code": {key[:20]!r}}}}}\n\n'
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ECHOES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_library_logs_a_key_that_a_server_echoes(
    at: Callable[[str], None], caplog: pytest.LogCaptureFixture, provider: str, name: str
) -> None:
    """It may be in the status line, a header or the body, at DEBUG, with tracebacks."""
    with raw_server(ECHOES[name]) as url, caplog.at_level(logging.DEBUG):
        at(url)
        for streamed in (False, True):
            for logger in ("httpx", "httpcore", "openai", "groq", "mistralai", "google_genai"):
                caplog.set_level(logging.DEBUG, logger)
            assert not leaks_in(asked(provider, streamed=streamed))
    assert "HTTP Request" in caplog.text or name.startswith("a broken")
    assert "receive_response_headers" in caplog.text
    assert not leaks_in(caplog.text), leaks_in(caplog.text)


def test_logs_of_other_programs_do_not_change(
    at: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A program that uses httpx itself sees its usual log."""
    key = "a-key-that-is-not-planted"
    with raw_server(lambda _: answered(f"401 {key}")) as url:
        at(url)
        use_configuration(
            load_configuration({"GROQ_API_KEY": key, "GROQ_BASE_URL": url}, Path.cwd())
        )
        asked("groq", streamed=False)
        with caplog.at_level(logging.INFO, "httpx"):
            httpx.get(url)
    assert f"HTTP/1.1 401 {key}" in caplog.text


WORDS = {
    "finish reason": lambda word: GEMINI.replace("STOP", word),
    "block reason": lambda word: f'{{"promptFeedback": {{"blockReason": "{word}"}}}}',
    "escaped name": lambda word: GEMINI.replace("STOP", word).replace("finishR", "finish\\u0052"),
    "other name": lambda word: GEMINI.replace('"STOP"', f'"STOP", "finish_reason": "{word}"'),
    "safety rating": lambda word: GEMINI.replace(
        '"STOP"', f'"STOP", "safetyRatings": [{{"category": "{word}", "probability": "{word}"}}]'
    ),
    "traffic type": lambda word: GEMINI.replace(
        "{", f'{{"usageMetadata": {{"trafficType": "{word}", "promptTokensDetails": '
        f'[{{"modality": "{word}"}}]}}, ', 1,
    ),
    "code in a part": lambda word: GEMINI.replace(
        '{"text": "Hi"}',
        f'{{"text": "Hi", "codeExecutionResult": {{"outcome": "{word}", "output": "{word}"}}}}',
    ),
}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", WORDS)
def test_unknown_words_of_gemini_are_not_printed(
    at: Callable[[str], None], capfd: pytest.CaptureFixture[str], name: str, streamed: bool
) -> None:
    """The SDK warns of unknown words, which could contain terminal escapes or the key."""

    def answer(key: str) -> bytes:
        word = (key + OSC).replace("\x1b", "\\u001b").replace("\x07", "\\u0007")
        body = WORDS[name](word)
        return answered("200 OK", f"data: {body}\n\n" if streamed else body)

    with raw_server(answer) as url, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        at(url)
        shown = asked("google", streamed=streamed)
    assert [str(warning.message) for warning in caught] == []
    out, err = capfd.readouterr()
    assert not leaks_in(out + err + shown)
    assert "\x1b" not in out + err + shown
    assert "ended" in shown or "filtered" in shown or shown == "Hi"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_servers_message_is_shown_without_control_characters(
    at: Callable[[str], None], provider: str
) -> None:
    """Escapes, reordering marks and invisible characters are removed."""
    tricks = "\x1b\x9b\u202e\u2066\u200b\u2060\u3164\u00ad\ufeff\U000e0041\u115f\x07\r\n"
    message = f"no{tricks}thing".encode("unicode_escape").decode().replace("\\x", "\\u00")
    message = message.replace("\\U000e0041", "\\udb40\\udc41")
    body = f'{{"error": {{"message": "{message}"}}, "message": "{message}"}}'
    with raw_server(lambda _: answered("400 Bad Request", body)) as url:
        at(url)
        shown = asked(provider, streamed=False)
    assert "request refused (400)" in shown
    assert not [sign for sign in tricks.strip() if sign in shown]
