"""`timeout=` is kept whatever hangs, and a route that hangs leaves time for the next one."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from lock_holder import locked
from loopback import full_queue
from promptness import in_time
from provider_parts import BASE_URLS, PROVIDERS, Start, used
from redis_server import RedisServer

from arche_magic.llm_providers import (
    IncompleteReply,
    IntelligentLLMOrchestrator,
    LLMProviderError,
    NoRouteAvailable,
    get_llm_provider,
)
from arche_magic.llm_providers.config import (
    get_configuration,
    load_configuration,
    use_configuration,
)
from arche_magic.llm_providers.types import Timeouts

LATE = 0.4  # seconds
HEADERS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
Talk = Callable[[socket.socket], None]


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """The block takes the given time, and hardly more."""
    began = time.monotonic()
    yield
    in_time("a deadline", time.monotonic() - began - seconds)


def point_at(provider: str, address: str, folder: Path) -> IntelligentLLMOrchestrator:
    """Configure one provider with this address."""
    variables = {
        f"{provider.upper()}_API_KEY": "sk-of-nobody-12345678",
        BASE_URLS[provider]: address,
    }
    configuration = load_configuration(variables, folder)
    # The SDK is imported before the time is measured.
    with suppress(LLMProviderError):
        nowhere = load_configuration(
            {**variables, BASE_URLS[provider]: "http://127.0.0.1:9"}, folder
        )
        memory = replace(nowhere, store="memory://nowhere")
        IntelligentLLMOrchestrator(configuration=memory).generate("Hello", patience=0)
    return IntelligentLLMOrchestrator(configuration=configuration)


@contextmanager
def server(talk: Talk) -> Iterator[str]:
    """A server that reads a request and then passes the connection to a function."""

    def serve(connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            connection.recv(65_536)
            talk(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def dribble(start: bytes, again: bytes) -> Talk:
    """Send a beginning, and then the same bytes twenty times a second for 5 s."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(100):
            connection.sendall(again)
            time.sleep(0.05)

    return talk


def expect_late(provider: IntelligentLLMOrchestrator, seconds: float = LATE) -> NoRouteAvailable:
    """Return the error of a request with this timeout."""
    with at_most(seconds), pytest.raises(NoRouteAvailable) as caught:
        provider.generate("Hello", timeout=seconds, patience=0)
    return caught.value


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse what they cannot queue")
@pytest.mark.parametrize("name", PROVIDERS)
def test_an_unreachable_host_takes_at_most_half_of_the_time(tmp_path: Path, name: str) -> None:
    """It gets at most half of the time, so that another route has the rest."""
    with full_queue() as address:
        error = expect_late(point_at(name, address, tmp_path), 0.8)
    assert re.search(r"no connection within 0\.\d+ s", str(error))


def test_a_name_lookup_that_hangs_ends_at_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's resolver has no timeout, and may try for half a minute."""
    release = threading.Event()
    look_up = socket.getaddrinfo

    def hang(host: str, *arguments: object, **options: object) -> object:
        if host == "groq.invalid":
            release.wait(10)
        return look_up(host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    error = expect_late(point_at("groq", "http://groq.invalid", tmp_path))
    release.set()
    assert re.search(r"no connection within 0\.\d+ s", str(error))
    assert used(get_usage(error, tmp_path), "groq_key_1") == 0


def get_usage(error: NoRouteAvailable, folder: Path) -> dict[str, object]:
    """The Groq part of the ledger in this folder."""
    configuration = load_configuration({"GROQ_API_KEY": "sk-of-nobody-12345678"}, folder)
    provider = IntelligentLLMOrchestrator(configuration=configuration)
    return provider.quota_tracker.get_usage_summary("groq")["groq"]


def test_a_proxy_that_hangs_ends_at_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections through a proxy have the same timeout as direct ones."""
    with server(dribble(b"HTTP/1.1 200 OK\r\nx-filler: ", b"x")) as address:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, address)
        error = expect_late(point_at("openai", "http://openai.invalid/v1", tmp_path))
    assert re.search(r"no answer within 0\.\d+ s", str(error))


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nx-filler: "])
def test_endless_headers_end_at_the_timeout(tmp_path: Path, name: str, start: bytes) -> None:
    """From a silent server, and from one that sends its headers a byte at a time."""
    with server(dribble(start, b"x" if start else b"")) as address:
        error = expect_late(point_at(name, address, tmp_path))
    assert re.search(r"no answer within 0\.\d+ s", str(error))


@pytest.mark.parametrize(
    ("name", "again"),
    [("groq", b": wait\n\n"), ("mistral", b" "), ("google", b"\n\n"), ("openai", b"\n\n")],
)
def test_an_endless_body_ends_at_the_timeout(tmp_path: Path, name: str, again: bytes) -> None:
    """Streamed or not: comments, blanks and empty lines do not extend the time."""
    with server(dribble(HEADERS, again)) as address:
        provider = point_at(name, address, tmp_path)
        began = time.monotonic()
        expect_late(provider)
        assert time.monotonic() - began > 0.75 * LATE
        provider.quota_tracker.reopen(f"{name}_key_1")
        with at_most(LATE), pytest.raises(NoRouteAvailable):
            list(provider.stream("Hello", timeout=LATE, patience=0))


def test_an_endless_refusal_ends_at_the_timeout(tmp_path: Path) -> None:
    """An error page can be sent a byte at a time too."""
    headers = b"HTTP/1.1 500 Oh\r\ncontent-type: text/html\r\n\r\n<html>"
    with server(dribble(headers, b"x")) as address:
        error = expect_late(point_at("groq", address, tmp_path))
    assert "(500)" in str(error)


def test_a_slow_upload_ends_at_the_timeout(tmp_path: Path) -> None:
    """A large prompt is sent only as fast as the server reads it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        provider = point_at("mistral", f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path)
        with at_most(LATE), pytest.raises(NoRouteAvailable):
            provider.generate("word " * 60_000, timeout=LATE, patience=0)


def test_a_wait_for_a_route_ends_at_the_timeout(start: Start) -> None:
    """Patience ends with the time of the request."""
    start(keys={"groq": 1}, limits={"groq": {"requests_per_minute": 1}})
    provider = get_llm_provider()
    provider.generate("One")
    with at_most(LATE), pytest.raises(NoRouteAvailable):
        provider.generate("Two", timeout=LATE, patience=1000)


@pytest.mark.skipif(sys.platform == "win32", reason="locks there are not flock's")
def test_a_request_ends_in_time_if_another_process_locks_the_ledger(start: Start) -> None:
    """The process may be a stopped kernel. When it ends, everything continues."""
    start()
    provider = get_llm_provider()
    provider.generate("Hello")
    with locked(get_configuration().store):
        error = expect_late(provider)
        assert str(error).startswith(f"No reply within {LATE} s: the ledger does not answer; ")
        assert "groq · key 1 · gpt-oss-120b: not asked" in str(error)
        # The second request also ends in time, and reading does not wait.
        expect_late(provider)
        for look in (
            provider.get_stats,
            provider.quota_tracker.get_usage_summary,
            lambda: provider.preview("Hello"),
            IntelligentLLMOrchestrator,
        ):
            with at_most(0.0):
                look()
    assert provider.generate("Hello").attempts[-1].outcome == "served"
    # The hold that was requested too late is released.
    assert used(provider.quota_tracker.get_usage_summary("groq")["groq"], "groq_key_1") <= 2


def test_threads_that_wait_for_a_locked_ledger_keep_their_timeouts(start: Start) -> None:
    """Each keeps its own timeout, although the first one has the lock within the process."""
    start()
    provider = get_llm_provider()
    provider.generate("Hello")
    late: list[float] = []

    def ask() -> None:
        began = time.monotonic()
        with suppress(NoRouteAvailable):
            provider.generate("Hello", timeout=LATE)
        late.append(time.monotonic() - began)

    with locked(get_configuration().store):
        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert len(late) == 6
    in_time("a deadline", max(late) - LATE)


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], threading.Event]]:
    """Opening files whose paths begin like this hangs until the event is set.

    A network drive without a network does the same.
    """
    release, open_file = threading.Event(), os.open

    def begin(path: Path) -> threading.Event:
        def slowly(name: str, *arguments: int, **options: int) -> int:
            if str(name).startswith(str(path)):
                release.wait(10)
            return open_file(name, *arguments, **options)

        monkeypatch.setattr(os, "open", slowly)
        return release

    yield begin
    # Let the threads that still wait go.
    release.set()


def test_a_request_ends_in_time_if_the_disk_of_the_ledger_hangs(
    start: Start, network_drive: Path, hang: Callable[[Path], threading.Event]
) -> None:
    """The request ends in time, and the error says why."""
    start(settings={"store": str(network_drive / "ledger.json")})
    provider = get_llm_provider()
    provider.generate("Hello")
    release = hang(Path(get_configuration().store))
    error = expect_late(provider)
    assert "the ledger does not answer" in str(error)
    release.set()
    assert provider.generate("Hello").attempts[-1].outcome == "served"


def test_a_disk_that_hangs_after_the_reply_has_arrived_loses_nothing(
    start: Start, network_drive: Path, hang: Callable[[Path], threading.Event]
) -> None:
    """The reply is returned, and recorded when the disk works again."""
    start(settings={"store": str(network_drive / "ledger.json")})
    provider = get_llm_provider()
    provider.generate("Hello")
    path = Path(get_configuration().store).with_name("llm_calls.jsonl")
    path.unlink()
    release = hang(path)
    # The reply waits two seconds at most for its record.
    with at_most(2.0):
        assert provider.generate("Hello").provider == "groq"
    assert not path.exists()
    release.set()
    ends = time.monotonic() + 10
    while not path.exists() or not path.read_text():
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert '"served"' in path.read_text()


def test_a_request_ends_in_time_if_redis_hangs(start: Start, tmp_path: Path) -> None:
    """A stopped server neither answers nor refuses."""
    with RedisServer(tmp_path / "redis") as server:
        start(settings={"store": server.url})
        provider = get_llm_provider()
        provider.generate("Hello")
        server.process.send_signal(signal.SIGSTOP)
        try:
            expect_late(provider)
        finally:
            server.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(
    ("kind", "streamed", "limits", "words"),
    [
        ("stall", False, Timeouts(answer=0.6), "no answer within 0.6 s"),
        ("stall", True, Timeouts(first_token=0.6), "no answer within 0.6 s"),
        ("stall_stream", True, Timeouts(silence=0.6), "no data in the stream for 0.6 s"),
    ],
)
def test_a_route_that_hangs_leaves_time_for_the_next(
    start: Start, name: str, kind: str, streamed: bool, limits: Timeouts, words: str
) -> None:
    """Each kind of wait has its own timeout, much shorter than that of the request."""
    other = "mistral" if name != "mistral" else "groq"
    sandbox = start(keys={name: 1, other: 1}, settings={"timeouts": limits})
    for provider in (name, other):
        get_llm_provider(provider).generate("The first call builds the client.")
    sandbox.fail(name, kind, times=None)
    preferring = IntelligentLLMOrchestrator(preferred_provider=name)
    with at_most(0.6 + 0.5):
        if not streamed:
            reply = preferring.generate("Hello")
        elif kind == "stall":
            stream = preferring.stream("Hello")
            list(stream)
            assert stream.reply is not None
            reply = stream.reply
        else:
            with pytest.raises(IncompleteReply, match=words):
                list(preferring.stream("Hello"))
            return
    assert reply.provider == other
    assert reply.attempts[0].error == words


def test_reasoning_does_not_count_as_silence(tmp_path: Path) -> None:
    """Events without text extend the time until the first text."""
    event = b'data: {"choices": [{"index": 0, "delta": {"reasoning": "Hmm."}}]}\n\n'
    end = (
        b'data: {"choices": [{"index": 0, "delta": {"content": "Four."}, "finish_reason": "stop"}]}'
        b"\n\ndata: [DONE]\n\n"
    )

    def talk(connection: socket.socket) -> None:
        connection.sendall(HEADERS)
        for _ in range(4):
            connection.sendall(event)
            time.sleep(0.3)
        connection.sendall(end)

    with server(talk) as address:
        provider = point_at("groq", address, tmp_path)
        limits = Timeouts(first_token=0.9, silence=0.9)
        use_configuration(replace(provider.configuration, timeouts=limits))
        assert "".join(get_llm_provider("groq").stream("2 + 2?")) == "Four."
        use_configuration(
            replace(provider.configuration, timeouts=Timeouts(first_token=9, silence=0.05))
        )
        assert "".join(get_llm_provider("groq").stream("2 + 2?")) == "Four."


def test_a_stream_that_lacks_only_its_end_is_complete(tmp_path: Path) -> None:
    """After the finish reason, the reply is complete, whatever happens to the connection."""
    text = b'data: {"choices": [{"index": 0, "delta": {"content": "Four."}}]}\n\n'
    end = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'

    def reset(connection: socket.socket) -> None:
        connection.sendall(HEADERS.replace(b"\r\n\r\n", b"\r\ncontent-length: 9999\r\n\r\n"))
        connection.sendall(text + end)

    with server(reset) as address:
        stream = point_at("groq", address, tmp_path).stream("2 + 2?")
        assert "".join(stream) == "Four."
        assert stream.reply is not None
        assert stream.reply.finish_reason == "stop"
        assert stream.reply.usage.output_tokens == 2


def test_a_slow_caller_is_not_the_providers_fault(start: Start) -> None:
    """Time that the caller takes between two pieces counts, and the error says so."""
    sandbox = start(keys={"groq": 1})
    provider = get_llm_provider("groq")
    provider.generate("The first call builds the client.")
    sandbox.seconds_per_chunk = 0.01
    stream = provider.stream("Hello [tokens=3000]", timeout=0.5)
    next(stream)
    time.sleep(0.6)
    with at_most(0.0), pytest.raises(IncompleteReply):
        list(stream)
