"""A loopback server that answers requests with a test's function, and counts them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from loopback import Handler, serving

Answer = tuple[int, Any]
MODEL_LIST = "GET"


@dataclass(frozen=True)
class Received:
    """One request: method, path, and body as JSON."""

    method: str
    path: str
    body: dict[str, Any]


@dataclass
class RefusingServer:
    """Answers requests with a function of the test.

    Attributes:
        answer: from a request to the status and the body: JSON, or a text, which is sent as a web
            page if it begins with `<`, otherwise as plain text.
        received: requests in order, except those to paths below `/healthy`.
    """

    url: str = ""
    answer: Callable[[Received], Answer] = lambda request: (500, {})
    received: list[Received] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """Requests for a reply so far."""
        return sum(request.method == "POST" for request in self.received)


def completion(text: str) -> dict[str, Any]:
    """A chat completion with this text."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 5, "completion_tokens": 5}
    return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


def _events(text: str) -> str:
    chunk = {"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}
    return f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"


@contextmanager
def refusing_server() -> Iterator[RefusingServer]:
    """The server. Below `/healthy`, it answers every request with `{"answer": 1}`."""
    script = RefusingServer()

    class Answers(Handler):
        def do_GET(self) -> None:
            self._take("GET", {})

        def do_POST(self) -> None:
            self._take("POST", json.loads(self.body()))

        def _take(self, method: str, body: dict[str, Any]) -> None:
            if self.path.startswith("/healthy"):
                return self._send(200, completion('{"answer": 1}'), body.get("stream"))
            request = Received(method, self.path, body)
            script.received.append(request)
            return self._send(*script.answer(request), body.get("stream"))

        def _send(self, status: int, body: Any, stream: bool | None) -> None:
            kind = "application/json"
            if isinstance(body, str):
                text, kind = body, "text/html" if body.startswith("<") else "text/plain"
            elif stream and status == 200 and "choices" in body:
                text, kind = _events(body["choices"][0]["message"]["content"]), "text/event-stream"
            else:
                text = json.dumps(body)
            self.answer(status, text.encode(), {"content-type": kind})

    with serving(Answers) as url:
        script.url = url
        yield script
