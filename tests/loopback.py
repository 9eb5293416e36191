"""Small servers on this machine: one with exact answers, and one that accepts no connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """The base of handlers: keeps connections open, and prints nothing."""

    protocol_version = "HTTP/1.1"
    # Otherwise a body that follows its headers waits 40 ms for the client's acknowledgement.
    disable_nagle_algorithm = True

    def body(self) -> bytes:
        """Read the body of the request."""
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def key(self) -> str:
        """Return the key of the request, as the SDKs send it."""
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return self.headers.get("x-goog-api-key") or bearer

    def answer(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a response; JSON unless the headers say otherwise."""
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Server(ThreadingHTTPServer):
    """A server that accepts concurrent connections, and ignores clients that close theirs."""

    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Some tests close connections on purpose."""


@contextmanager
def serving(handler: type[Handler]) -> Iterator[str]:
    """Serve with this handler until the end of the block; yields the URL."""
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def full_queue() -> Iterator[str]:
    """The URL of a server whose queue is full: it neither accepts nor refuses connections."""
    with socket.socket() as server, ExitStack() as waiting:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def free_port() -> int:
    """A port that nothing listens on, for programs that cannot choose one themselves."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
