"""How tests call adapters, and a server with scripted answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from loopback import Handler

from arche_magic.llm_providers.adapters import build_adapter
from arche_magic.llm_providers.adapters.adapter import Adapter
from arche_magic.llm_providers.provider_failure import AttemptFailed, ProviderFailure
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.types import Completion, Key, Timeouts

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox

WIRES = ("groq", "openai", "mistral", "google")
MODELS = {
    "groq": "openai/gpt-oss-20b",
    "openai": "gpt-4.1-mini",
    "mistral": "mistral-small-latest",
    "google": "gemini-3.8-flash",
}
SECRET = "sk-abcdEFGH1234ijklMNOP5678"
TEN_SECONDS = Timeouts(total=10.0)
HELLO = Request((Message("user", "Say hello."),))

Build = Callable[[str], Adapter]


def sandbox_adapter(sandbox: Sandbox, wire: str) -> Adapter:
    """An adapter with the sandbox's key of that provider."""
    environment = sandbox.environment()
    secret = environment[f"{wire.upper()}_API_KEY"]
    base_url = environment[f"{'GOOGLE_GEMINI' if wire == 'google' else wire.upper()}_BASE_URL"]
    return build_adapter(wire, Key.of(wire, f"{wire}_key_1", secret), base_url)


def complete(
    adapter: Adapter,
    model: str,
    request: Request = HELLO,
    *,
    stream: bool = False,
    timeouts: Timeouts = TEN_SECONDS,
) -> list[Completion]:
    """All completions of one call."""
    return list(adapter.complete(request, model, stream=stream, timeouts=timeouts))


def failure_of(
    adapter: Adapter,
    model: str = "model-x",
    request: Request = HELLO,
    *,
    stream: bool = False,
    timeouts: Timeouts = TEN_SECONDS,
) -> ProviderFailure:
    """The failure of one call, which must fail."""
    with pytest.raises(AttemptFailed) as caught:
        complete(adapter, model, request, stream=stream, timeouts=timeouts)
    return caught.value.failure


def text_of(completions: list[Completion]) -> str:
    return "".join(completion.text for completion in completions)


def chunk_of(wire: str, text: str, ending: str | None = None) -> dict[str, Any]:
    """One event of a stream, in that provider's format."""
    if wire == "google":
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}}
        return {"candidates": [candidate | ({"finishReason": "STOP"} if ending else {})]}
    delta = {"role": "assistant", "content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": ending}
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [choice]}


def reply_of(wire: str, text: str, usage: tuple[Any, Any] = (1, 1)) -> dict[str, Any]:
    """A complete reply in that provider's format; `usage` are its input and output tokens."""
    inputs, outputs = usage
    if wire == "google":
        counts = {"promptTokenCount": inputs, "candidatesTokenCount": outputs}
        return {**chunk_of(wire, text, "stop"), "usageMetadata": counts}
    message = {"role": "assistant", "content": text}
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": 2},
    }  # fmt: skip


@dataclass
class Script:
    """The next answers of the scripted server, and the requests it received."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    endless: bytes = b""
    """Sent again and again after the body, until the client leaves (for 5 s at most)."""
    received: list[dict[str, Any]] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    left: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        """Answer every later request in this way; `body` is JSON unless it is text."""
        self.status, self.headers, self.endless = status, dict(headers or {}), b""
        kind = "text/plain" if isinstance(body, str) else "application/json"
        self.body = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.headers.setdefault("content-type", kind)

    def events(self, *events: Any, done: bool = True) -> None:
        """Answer with a stream of these events: JSON values, or texts sent unchanged."""
        self.status, self.headers, self.endless = 200, {"content-type": "text/event-stream"}, b""
        lines = [e if isinstance(e, str) else f"data: {json.dumps(e)}\n\n" for e in events]
        self.body = ("".join(lines) + ("data: [DONE]\n\n" if done else "")).encode()


class ScriptedHandler(Handler):
    script: Script

    def do_POST(self) -> None:
        script = self.script
        # Read once, because a client that expects no body may send the next request before this
        # answer ends.
        status, headers, body, endless = script.status, script.headers, script.body, script.endless
        content = self.body()
        script.received.append({"path": self.path, "headers": dict(self.headers.items())})
        script.received[-1]["body"] = json.loads(content)
        script.connections.add(self.client_address)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not endless:
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.end_headers()
        self.close_connection = True
        try:
            self.wfile.write(body)
            for _ in range(1000):  # some seconds, so that a test can also fail
                if script.left.wait(0.005):
                    break
                self.wfile.write(endless)
        except OSError:
            script.left.set()
