"""The connections of an adapter: calls share them, and none is used after it broke."""

from __future__ import annotations

import socket
import socketserver
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import loopback
import pytest

from arche_magic.llm_providers.adapters.connections import keep_time

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = b"x" * 100_000
MOST_IDLE = 256
ANOTHER_RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong"


class Server(loopback.Server):
    """A server that answers each GET and counts its connections."""

    def __init__(self) -> None:
        self.connections = 0
        # Released once for each connection that the server has closed.
        self.closed = threading.Semaphore(0)
        # A request to /together waits until so many are there.
        self.together = threading.Barrier(8, timeout=10)
        super().__init__(("127.0.0.1", 0), _Handler)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        super().shutdown_request(request)
        self.closed.release()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(loopback.Handler):
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        if self.path == "/together":
            self.server.together.wait()
        body = BODY[:10] if self.path == "/short" else BODY
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        # Some of these bytes arrive together with the end of the body.
        self.wfile.write(body + (ANOTHER_RESPONSE if self.path == "/more" else b""))
        # Without the header that would announce it.
        self.close_connection = self.path == "/last"


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on this machine."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """An HTTP client as adapters have it."""
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        keep_time(client, lambda request, send: send(request))
        yield client


def test_consecutive_calls_use_one_connection(server: Server, client: httpx.Client) -> None:
    for _ in range(5):
        assert client.get("/").content == BODY
    assert server.connections == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not count segments")
def test_head_and_body_of_a_request_are_sent_together() -> None:
    """The server is woken up only once per request."""
    segments: list[int] = []

    class Counting(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            received = b""
            while not received.endswith(BODY[:10_000]):
                received += self.request.recv(100_000)
            counts = self.request.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
            # `tcpi_data_segs_in` of `struct tcp_info` in linux/tcp.h.
            segments.extend(struct.unpack_from("I", counts, 152))
            self.request.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    with (
        socketserver.TCPServer(("127.0.0.1", 0), Counting) as server,
        httpx.Client(trust_env=False) as client,
    ):
        keep_time(client, lambda request, send: send(request))
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        client.post(f"http://127.0.0.1:{server.server_address[1]}", content=BODY[:10_000])
        thread.join()
    assert segments == [1]


def test_concurrent_calls_have_their_own_connections_and_reuse_them(
    server: Server, client: httpx.Client
) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            answers = pool.map(client.get, ["/together"] * 8)
            assert all(answer.content == BODY for answer in answers)
    assert server.connections == 8


def test_a_connection_that_the_server_closed_is_not_used_again(
    server: Server, client: httpx.Client
) -> None:
    for _ in range(3):
        assert client.get("/last").content == BODY
        assert server.closed.acquire(timeout=10)
    assert server.connections == 3


def test_a_response_that_is_not_read_to_its_end_closes_its_connection(
    server: Server, client: httpx.Client
) -> None:
    """The rest of its body would be read as the next answer."""
    with client.stream("GET", "/") as response:
        assert next(response.iter_raw())
    assert client.get("/").content == BODY
    assert server.connections == 2


def test_data_after_a_response_is_not_read_as_the_next_response(
    server: Server, client: httpx.Client
) -> None:
    for _ in range(3):
        assert client.get("/more").content == BODY
    assert server.connections == 3


def test_all_clients_together_keep_a_limited_number_of_idle_connections(server: Server) -> None:
    """Otherwise, many keys with many threads would reach the process's limit of open files."""
    resource = pytest.importorskip("resource")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 4 * MOST_IDLE:
        pytest.skip("fewer open files are allowed here, and so fewer connections")
    clients = [httpx.Client(base_url=server.url, trust_env=False, timeout=30) for _ in range(3)]
    for client in clients:
        keep_time(client, lambda request, send: send(request))
        opened = [
            client.send(client.build_request("GET", "/short"), stream=True) for _ in range(100)
        ]
        for response in opened:
            assert response.read() == BODY[:10]
    try:
        for _ in range(300 - MOST_IDLE):
            assert server.closed.acquire(timeout=10)
        assert not server.closed.acquire(timeout=0.1)
        # Those that were used last are open.
        before = server.connections
        assert clients[-1].get("/short").content == BODY[:10]
        assert server.connections == before
    finally:
        for client in clients:
            client.close()


def test_connections_that_were_idle_for_long_are_closed(
    server: Server, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes adapters that are no longer used."""
    with httpx.Client(base_url=server.url, trust_env=False) as other:
        keep_time(other, lambda request, send: send(request))
        assert other.get("/").content == BODY
        later = time.monotonic() + 60
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert client.get("/").content == BODY
        assert server.closed.acquire(timeout=10)
        assert not server.closed.acquire(timeout=0.1)
