"""Failures on request: their kinds, which requests they affect, and how they change answers."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .accounts import check_known
from .types import Answer, Call, Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .wires import Wire

# Kinds that occur before anything is charged. `SPOILED` has those that damage a charged reply.
REFUSALS: Mapping[str, str] = {
    "rate_limit_minute": "429: the provider's own refusal for a limit per minute",
    "rate_limit_day": "429: the provider's own refusal for a limit per day (Mistral: per month)",
    "too_large": "413 (Groq) or 429: the request alone is larger than a token limit",
    "unauthorized": "401 (Google: 400 API_KEY_INVALID): the key is refused",
    "forbidden": "403: the key or its project may not use the service",
    "no_credit": "429 (Groq: 400): the account has no credit left",
    "not_in_plan": "429, 404 or 403: the model is not in the account's plan",
    "model_not_found": "404 (Mistral: 400): there is no such model",
    "model_retired": "400 or 404: the model has been taken out of service",
    "context_too_long": "400: the prompt is longer than the model's context window",
    "invalid_request": "400 (Mistral: 422): a parameter is refused",
    "no_json_schema": "400: the model does not support a JSON schema (other requests pass)",
    "server_error": "500: an internal error",
    "overloaded": "503: no capacity at the moment",
    "plain_text_error": "503 with a plain text body, as from a proxy in between",
    "echo_key": "500 with the caller's key in the error text",
    "redirect": "307 to another address",
    "reset": "the connection is reset before a response",
    "stall": "no byte is sent until the client gives up or the sandbox stops",
}
SPOILED: Mapping[str, str] = {
    "content_filter": "200, but the content is withheld (refusal, SAFETY, content_filter)",
    "empty_reply": "200 with an empty text",
    "not_json": "200 with prose where JSON was asked for (other requests pass)",
    "misfit_json": "200 with JSON that does not fit the schema asked for (other requests pass)",
    "tool_use_failed": "a broken tool call: 400 or an error event (Groq), finish reason "
    "MALFORMED_FUNCTION_CALL (Google), arguments that are not JSON (requests without tools pass)",
    "unrelated_json": '200 with the body {"hello": 1}',
    "malformed_body": "200 with a body that is not JSON (in a stream: a malformed event)",
    "malformed_event": "a stream with an event that is not JSON (not streamed: malformed_body)",
    "stream_error": "200 with an error event after some text of a stream (not streamed: 500)",
    "stall_stream": "the first events of a stream, then nothing (not streamed: stall)",
    "cut_stream": "a stream that ends after some text, without a finish reason "
    "(not streamed: half a body)",
    "broken_connection": "the connection is closed in the middle of a reply",
}
FAILURE_KINDS: Mapping[str, str] = {**REFUSALS, **SPOILED}

# Kinds that end by themselves within a minute, so that a robust client survives them.
TEMPORARY_KINDS = (
    "rate_limit_minute",
    "server_error",
    "overloaded",
    "plain_text_error",
    "reset",
    "empty_reply",
    "unrelated_json",
    "malformed_body",
    "malformed_event",
    "stream_error",
    "cut_stream",
    "broken_connection",
)


@dataclass(slots=True)
class Failure:
    """A requested failure of the requests to `target`, a provider, a key label or "*".

    A scripted failure has one kind: the first `after` requests succeed, the next `times` fail
    (None: all), until `until` in epoch seconds. A random failure has several kinds and a `share`,
    from 0 to 1, of the requests that fail. `to` is the target of a redirect.
    """

    target: str
    kinds: tuple[str, ...]
    times: int | None = None
    after: int = 0
    to: str | None = None
    until: float = math.inf
    share: float | None = None


class Failures:
    """The failures still to come. Not thread-safe: the service has a lock."""

    def __init__(self, *, targets: frozenset[str], seed: int) -> None:
        self._targets = targets | {"*"}
        self._seed = seed
        self.clear()

    def clear(self) -> None:
        """Forget every failure, and restart the random ones from the seed."""
        self._failures: list[Failure] = []
        self._generator = random.Random(self._seed)

    def add(self, failure: Failure) -> None:
        """Add a failure. Raises ValueError for an unknown target or kind, or a bad figure."""
        for kind in failure.kinds:
            check_known("failure kind", kind, FAILURE_KINDS)
        check_known("target", failure.target, self._targets)
        if (failure.times is not None and failure.times < 1) or failure.after < 0:
            raise ValueError("times must be at least 1 (or None), after at least 0")
        if failure.share is not None and not 0.0 <= failure.share <= 1.0:
            raise ValueError("share must be between 0 and 1")
        self._failures.append(failure)
        # Scripted failures come first.
        self._failures.sort(key=lambda entry: entry.share is not None)

    def next(self, provider: str, label: str, now: float) -> tuple[str | None, str | None]:
        """The kind of failure for this request, or None, and the target of a redirect."""
        self._failures = [entry for entry in self._failures if now < entry.until]
        for entry in self._failures:
            if entry.target not in ("*", provider, label):
                continue
            if entry.share is not None:
                if self._generator.random() < entry.share:
                    return self._generator.choice(entry.kinds), None
            elif entry.after:
                entry.after -= 1
            else:
                if entry.times is not None:
                    entry.times -= 1
                    if not entry.times:
                        self._failures.remove(entry)
                return entry.kinds[0], entry.to
        return None, None


def network_answer(kind: str | None, to: str | None, *, stream: bool) -> Answer | None:
    """The answer for failures of a proxy or of the network; None for all other kinds."""
    if kind == "plain_text_error":
        text = b"upstream connect error or disconnect/reset before headers. reset reason: overflow"
        return Answer(503, [("content-type", "text/plain")], text)
    if kind == "redirect":
        return Answer(307, [("location", to or "/elsewhere")])
    if kind == "stall" or (kind == "stall_stream" and not stream):
        return Answer(0, [], ending="stall")
    return Answer(0, [], ending="reset") if kind == "reset" else None


def spoil_reply(reply: Reply, kind: str | None, call: Call) -> Reply:
    """The reply as a requested failure changes it, before it is written in the wire's format."""
    if kind == "content_filter":
        text = "".join(reply.pieces[: len(reply.pieces) // 2]) if call.stream else ""
        return replace(reply, text=text, finish="content_filter", calls=())
    if kind == "empty_reply":
        tokens = reply.thought_tokens
        return replace(reply, text="", output_tokens=tokens, finish="stop", calls=())
    if kind == "tool_use_failed" and reply.calls and call.provider == "google":
        return replace(reply, calls=(), finish="malformed_call")
    if kind == "tool_use_failed":
        # Arguments that are not JSON, as models without constrained decoding write them.
        broken = (replace(made, arguments=made.arguments[:-1]) for made in reply.calls)
        return replace(reply, calls=tuple(broken))
    if kind in ("not_json", "misfit_json") and call.json_wanted:
        text = '{"unexpected": "simulated"}' if kind == "misfit_json" else "Sorry, no JSON today."
        return replace(reply, text=text)
    return reply


def spoil_answer(answer: Answer, kind: str | None, wire: Wire) -> Answer:
    """The answer as a requested failure changes it, when it is ready to be sent."""
    unrelated = b'{"hello":1}'
    if answer.events is None:
        half = answer.body[: len(answer.body) // 2]
        if kind == "unrelated_json":
            return replace(answer, body=unrelated)
        if kind in ("malformed_body", "malformed_event"):
            return replace(answer, body=half + b"\xe2<html>")
        if kind in ("cut_stream", "broken_connection"):
            return replace(answer, body=half, ending="broken")
        return answer
    first = answer.events[: max(1, len(answer.events) // 2)]
    if kind == "unrelated_json":
        return replace(answer, events=[b"data: " + unrelated + b"\n\n"])
    if kind == "cut_stream":
        return replace(answer, events=first)
    if kind == "stall_stream":
        return replace(answer, events=first, ending="stall")
    if kind == "broken_connection":
        return replace(answer, events=[*first, b'data: {"id": "chatcm'], ending="broken")
    if kind in ("malformed_event", "malformed_body"):
        return replace(answer, events=[*first, b'data: {"choices": [{"del\n\n'])
    if kind == "stream_error":
        return replace(answer, events=[*first, *wire.error_events("server_error")])
    if kind == "tool_use_failed" and (error := wire.error_events(kind)):
        return replace(answer, events=[answer.events[0], *error])
    return answer
