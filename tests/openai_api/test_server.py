"""The server on 127.0.0.1: official clients use it like OpenAI's API."""

from __future__ import annotations

import gc
import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import openai
import pytest
from server_parts import BODY, CHAT, FREE, HI, attempts, client, send, use, wait_until

from arche_magic.llm_providers import get_quota_tracker
from arche_magic.llm_providers.config import (
    Configuration,
    load_configuration,
    own_settings_folder,
    use_configuration,
)
from arche_magic.llm_providers.errors import ConfigurationError
from arche_magic.llm_providers.stopping import THREAD_NAME
from arche_magic.openai_api.app import client_name
from arche_magic.openai_api.server import Server
from arche_magic.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("configured")


def test_the_official_client_gets_replies_chunks_and_models(server: Server) -> None:
    """It needs only the two variables that the server prints."""
    llm = client(server)
    reply = llm.chat.completions.with_raw_response.create(model="auto", messages=HI)
    assert "You asked: “Hi”" in (reply.parse().choices[0].message.content or "")
    assert reply.headers["x-arche-route"].startswith("groq groq_key_1 ")
    stream = llm.chat.completions.create(model="mistral", messages=HI, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "You asked: “Hi”" in "".join(pieces)
    assert len(pieces) > 5
    assert {"auto", "groq", "mistral"} <= {model.id for model in llm.models.list()}
    assert llm.models.retrieve("groq/openai/gpt-oss-120b").id == "groq/openai/gpt-oss-120b"


def test_a_program_needs_only_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`openai.OpenAI()` without arguments reads it."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    assert openai.OpenAI().chat.completions.create(model="groq", messages=HI).model


def test_fifty_concurrent_streams_lose_nothing(server: Server) -> None:
    """Each client gets its own complete text, and all of them run at the same time."""

    def words(model: str, messages: list[dict[str, str]]) -> str:
        return " ".join(f"{messages[-1]['content']}-{number}" for number in range(200))

    texts: dict[int, str] = {}
    with Sandbox(keys={"groq": 1}, limits={"groq": FREE}, reply=words) as upstream:
        use(upstream)
        llm = client(server)

        def ask(number: int) -> None:
            asked: list[Any] = [{"role": "user", "content": f"client{number}"}]
            stream = llm.chat.completions.create(model="groq", messages=asked, stream=True)
            texts[number] = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == {
        number: " ".join(f"client{number}-{word}" for word in range(200)) for number in range(50)
    }


def test_requests_are_tagged_with_the_name_of_their_client(server: Server) -> None:
    """The tag of the attempts is the header, or else the program's name."""
    client(server).chat.completions.create(model="groq", messages=HI)
    headers = {"x-arche-tag": "my app"}
    client(server, default_headers=headers).chat.completions.create(model="groq", messages=HI)
    send(server, headers={"User-Agent": "litellm/1.80.0"})
    assert [attempt.tag for attempt in attempts()] == ["OpenAI/Python", "my app", "litellm"]
    assert send(server, headers={"x-arche-tag": "x" * 101}).status_code == 400


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        ("OpenAI/Python 3.57.0", "OpenAI/Python"),
        ("AsyncOpenAI/Python 3.57.0", "OpenAI/Python"),
        ("litellm/1.80.0", "litellm"),
        ("python-httpx/0.28.1", "python-httpx"),
        ("Mozilla/5.0 (X11; Linux x86_64)", "Mozilla"),
        ("<b>bold</b>", "bbold/b"),
        ("a" * 300, "a" * 40),
        ("", ""),
    ],
)
def test_the_name_of_a_client_comes_from_its_user_agent(user_agent: str, name: str) -> None:
    """A short word without its version, which is safe to display."""
    assert client_name(user_agent) == name


def test_a_429_says_when_to_ask_again(server: Server, upstream: Sandbox) -> None:
    """The client gets the status and the headers of the handler."""
    upstream.fail("*", "rate_limit_day", times=None)
    refused = send(server, json=BODY | {"model": "auto"})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_21_mb_is_refused(server: Server, upstream: Sandbox, is_chunked: bool) -> None:
    """The client can read the error, whether or not it states the length."""
    part = b"x" * 1_000_000
    content: Any = (part for _ in range(21)) if is_chunked else 21 * part
    refused = send(server, content=content)
    assert refused.status_code == 413
    assert refused.json()["error"]["message"] == "the body is longer than 20 MB"
    assert upstream.requests == ()


def test_a_long_body_is_refused_before_it_arrives(server: Server) -> None:
    """A client that waits before sending its body, as curl does, does not have to send it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head_of(server, 21_000_000))
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_client_with_a_long_body_can_read_the_error(server: Server) -> None:
    """The connection is not reset while the client is still sending."""
    refused = send(server, content=b"x" * 15_000_000, headers={"Authorization": "Bearer wrong"})
    assert refused.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", CHAT, b'{"model": ', 400),
        ("GET", CHAT, b"", 405),
        ("GET", "/v1/models/none", b"", 404),
        ("GET", "/", b"", 404),
        ("POST", "/chat/completions", b"{}", 404),
    ],
)
def test_an_invalid_request_is_an_error_in_openais_format(
    server: Server, upstream: Sandbox, method: str, path: str, content: bytes, status: int
) -> None:
    """All fields are present, and nothing was sent."""
    refused = send(server, path, method, content=content)
    assert refused.status_code == status
    error = refused.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert upstream.requests == ()
    if path == "/chat/completions":
        assert f"the base URL is {server.base_url}" in error["message"]


def test_an_internal_error_is_a_500(server: Server, configured: Configuration) -> None:
    """Without details, because the client cannot fix it."""

    class Broken:
        def time(self) -> float:
            raise ZeroDivisionError("the clock")

    use_configuration(replace(configured, clock=Broken()))
    answer = send(server)
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "message": "the server failed", "type": "server_error", "param": None,
        "code": "internal_error",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio's own
@pytest.mark.parametrize(
    ("kind", "error"), [(partial(Server, port=0), ConfigurationError), (Sandbox, OSError)]
)
def test_a_start_with_too_many_open_files_fails_in_one_line(
    kind: Callable[[], Server | Sandbox], error: type[Exception]
) -> None:
    """The file that cannot be opened may be the port, the token or the event loop."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))
    server, opened, problems = kind(), [], []
    # Files of earlier tests must not be closed in the middle.
    gc.collect()
    try:
        with suppress(OSError):
            while True:
                opened.append(os.dup(2))
        while not server.running:
            # Two, because pytest keeps what a failed start has opened.
            for _ in range(2):
                os.close(opened.pop())
            try:
                server.start()
            except error as problem:
                problems.append(str(problem))
    finally:
        for number in opened:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert all("Too many open files" in problem for problem in problems)
    with server:
        address = server.url if isinstance(server, Sandbox) else server.base_url
        assert httpx.get(address).status_code == 404
    assert not list(own_settings_folder().glob("*.token"))


def test_the_server_does_not_call_itself(server: Server, configured: Configuration) -> None:
    """If this process's OPENAI_BASE_URL is the server, requests would loop forever."""
    environment = {**server.environment(), "ARCHE_QUOTA_STORE": configured.store}
    use_configuration(load_configuration(environment))
    refused = send(server)
    assert refused.status_code == 400
    assert "OPENAI_BASE_URL" in refused.json()["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_ends_when_its_client_disconnects(
    server: Server, upstream: Sandbox, stream: bool
) -> None:
    """It may be streaming or waiting for the reply. Only the tokens used are counted."""
    upstream.seconds_per_chunk, upstream.latency = 0.02, 0.0 if stream else 30.0
    body = json.dumps({"model": "mistral", "stream": stream, "messages": [
        {"role": "user", "content": "[tokens=4000]"}]}).encode()  # fmt: skip
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head_of(server, len(body)) + body)
        if stream:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        else:
            wait_until(lambda: len(upstream.requests) == 1)
    wait_until(lambda: len(attempts()) == 1)
    assert attempts()[0].outcome == "interrupted"
    wait_until(lambda: not request_threads())
    if stream:
        wait_until(lambda: tokens_sent(upstream) > 0)
        assert tokens_sent(upstream) < 400
    # Nothing is reserved: without settling, the estimate for a whole reply would remain.
    used = get_quota_tracker().get_usage_summary()["mistral"]["mistral_key_1"]
    assert used["requests_per_minute"]["used"] == 1
    assert used["tokens_per_minute"]["used"] < 1000


def tokens_sent(upstream: Sandbox) -> int:
    return sum(model["output_tokens"] for model in upstream.usage()["mistral_key_1"].values())


@pytest.mark.parametrize(
    ("constant", "sent"),
    [
        ("server._IDLE_SECONDS", b""),
        ("server._IDLE_SECONDS", b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127."),
        ("app._BODY_SECONDS", b"{head}{half"),
    ],
)
def test_a_connection_with_half_a_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, constant: str, sent: bytes
) -> None:
    """The headers or the body may be missing."""
    monkeypatch.setattr(f"arche_magic.openai_api.{constant}", 0.05)
    with (
        Server(port=0) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection,
    ):
        connection.sendall(sent.replace(b"{head}", head_of(server, 100)))
        received = connection.recv(10_000)
    assert received.startswith(b"HTTP/1.1 408") if constant.startswith("app") else not received


def test_a_request_is_stopped_if_its_client_does_not_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped after a minute without reading. The test uses a shorter time."""
    monkeypatch.setattr("arche_magic.openai_api.app._UNREAD_SECONDS", 0.05)
    many = " ".join(400 * ["x" * 50_000])
    with (
        Sandbox(keys={"groq": 1}, limits={"groq": FREE}, reply=lambda *_: many) as upstream,
        socket.socket() as connection,
    ):
        use(upstream)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        body = json.dumps(BODY | {"stream": True}).encode()
        connection.sendall(head_of(server, len(body)) + body)
        wait_until(lambda: len(attempts()) == 1)
        assert attempts()[0].outcome == "interrupted"
        wait_until(lambda: not request_threads())


def head_of(server: Server, length: int) -> bytes:
    """The headers of a chat completion, for clients that break HTTP."""
    return (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"Authorization: Bearer {server.api_key}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def request_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == THREAD_NAME]


def test_long_headers_are_refused(server: Server) -> None:
    """Their size is limited too."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX-Long: " + 20_000 * b"x")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
