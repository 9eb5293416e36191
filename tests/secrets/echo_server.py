"""A server that answers every request with the caller's key, in a disguise set by the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from loopback import Handler, serving


@dataclass
class Echo:
    """Sets the next answer, and records the requests.

    Attributes:
        answer: makes status, headers and body from the caller's key.
        received: path and headers of each request, in order.
    """

    url: str = ""
    answer: Callable[[str], tuple[int, dict[str, str], bytes]] = lambda key: (500, {}, b"")
    received: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def message(self, make: Callable[[str], str], status: int = 500) -> None:
        """Answer with an error whose fields contain the key, in each provider's format."""

        def answer(key: str) -> tuple[int, dict[str, str], bytes]:
            text = make(key)
            error = {"message": text, "type": text, "code": text, "status": text, "param": text}
            body = {"error": error, "message": text, "detail": text, "object": "error"}
            headers = {"content-type": "application/json", "openai-organization": key}
            return status, headers, json.dumps(body).encode()

        self.answer = answer


@contextmanager
def echo_server() -> Iterator[Echo]:
    """The server, on loopback."""
    echo = Echo()

    class EchoHandler(Handler):
        def do_POST(self) -> None:  # noqa: N802
            self.rfile.read(int(self.headers.get("content-length", 0)))
            echo.received.append((self.path, dict(self.headers.items())))
            bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
            self.answer(*echo.answer(self.headers.get("x-goog-api-key") or bearer))

    with serving(EchoHandler) as echo.url:
        yield echo
