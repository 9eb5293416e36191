"""What requested failures make of an answer: raw ones, withheld replies, spoiled bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .exchange import Answer, Call, Reply
from .wires.groq import Groq

if TYPE_CHECKING:
    from .failures import Failure
    from .wires import Wire


def raw(failure: Failure) -> Answer:
    """Answers that come from a proxy or a broken network, not from a provider."""
    if failure.kind == "plain_text_error":
        text = b"upstream connect error or disconnect/reset before headers. reset reason: overflow"
        return Answer(503, [("content-type", "text/plain")], text)
    if failure.kind == "redirect":
        return Answer(307, [("location", failure.to or "/elsewhere")])
    return Answer(0, [], ending="stall" if failure.kind == "stall" else "reset")


def locate(answer: Answer, base_url: str) -> None:
    """Complete the address of a redirect within the sandbox."""
    answer.headers = [
        (name, base_url + value if name == "location" and value.startswith("/") else value)
        for name, value in answer.headers
    ]


def withheld(reply: Reply, kind: str | None, call: Call) -> Reply:
    """The reply as a requested failure leaves it, before it is put on the wire."""
    if kind == "content_filter":
        pieces = reply.pieces[: len(reply.pieces) // 2] if call.stream else ()
        return replace(reply, text="", pieces=pieces, finish="content_filter", calls=())
    if kind == "empty_reply":
        tokens = reply.thought_tokens
        return replace(reply, text="", pieces=(), output_tokens=tokens, finish="stop", calls=())
    if kind == "tool_use_failed" and reply.calls and call.provider == "google":
        return replace(reply, calls=(), finish="malformed_call")
    if kind == "tool_use_failed":
        # Arguments that are not JSON, as models without constrained decoding write them.
        broken = (replace(made, arguments=made.arguments[:-1]) for made in reply.calls)
        return replace(reply, calls=tuple(broken))
    if kind in ("not_json", "misfit_json") and call.json_wanted:
        text = '{"unexpected": "simulated"}' if kind == "misfit_json" else "Sorry, no JSON today."
        return replace(reply, text=text, pieces=(text,))
    return reply


def spoil(answer: Answer, kind: str, wire: Wire) -> Answer:
    """Spoil an answer that is ready to be sent."""
    if kind == "unrelated_json":
        content = b'{"hello":1}'
        if answer.events is None:
            return replace(answer, body=content)
        return replace(answer, events=[b"data: " + content + b"\n\n"])
    if answer.events is None:
        if kind in ("malformed_body", "malformed_event"):
            return replace(answer, body=answer.body[: len(answer.body) // 2] + b"\xe2<html>")
        if kind in ("cut_stream", "broken_connection"):
            return replace(answer, body=answer.body[: len(answer.body) // 2], ending="broken")
        return answer
    first = answer.events[: max(1, len(answer.events) // 2)]
    if kind == "cut_stream":
        return replace(answer, events=first)
    if kind == "stall_stream":
        return replace(answer, events=first, ending="stall")
    if kind == "broken_connection":
        return replace(answer, events=[*first, b'data: {"id": "chatcm'], ending="broken")
    if kind in ("malformed_event", "malformed_body"):
        return replace(answer, events=[*first, b'data: {"choices": [{"del\n\n'])
    if kind == "stream_error":
        return replace(answer, events=[*first, *wire.broken_off()])
    if kind == "tool_use_failed" and isinstance(wire, Groq):
        return replace(answer, events=[answer.events[0], *wire.failed_call()])
    return answer
