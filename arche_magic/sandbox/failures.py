"""Failures on request: their kinds, and which request meets which."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Kinds that occur before anything is charged, and kinds that spoil a reply that was charged.
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
    "no_json_schema": "400: the model cannot be held to a JSON schema (others pass)",
    "server_error": "500: an internal error",
    "overloaded": "503: no capacity at the moment",
    "plain_text_error": "503 with a plain text body, as a proxy in between sends it",
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
    "tool_use_failed": "a broken call of a tool: 400 or an error event (Groq), finish reason "
    "MALFORMED_FUNCTION_CALL (Google), arguments that are no JSON (requests without tools pass)",
    "unrelated_json": '200 with the body {"hello": 1}',
    "malformed_body": "200 with a body that is no JSON (in a stream: a malformed event)",
    "malformed_event": "a stream with an event that is no JSON (else: a malformed body)",
    "stream_error": "an error event after some text of a stream with status 200 (else: 500)",
    "stall_stream": "first events of a stream, then nothing (else: stall)",
    "cut_stream": "a stream that ends after some text, without finish reason (else: half a body)",
    "broken_connection": "the connection is closed within a reply",
}
FAILURE_KINDS: Mapping[str, str] = {**REFUSALS, **SPOILED}

# Kinds that pass by themselves within a minute, so that a robust client survives them.
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
class _Scripted:
    target: str
    kind: str
    times: int | None
    after: int
    to: str | None
    until: float


@dataclass(frozen=True, slots=True)
class _Random:
    target: str
    share: float
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure that a request meets: its kind, and for "redirect" the target."""

    kind: str
    to: str | None = None


class Failures:
    """The failures still to come. Not thread-safe: the service locks."""

    def __init__(self, *, targets: frozenset[str], seed: int) -> None:
        self._targets = targets | {"*"}
        self._seed = seed
        self.clear()

    def clear(self) -> None:
        """Forget every failure, and restart the random ones from the seed."""
        self._scripted: list[_Scripted] = []
        self._random: list[_Random] = []
        self._generator = random.Random(self._seed)

    def script(
        self,
        target: str,
        kind: str,
        *,
        times: int | None,
        after: int,
        to: str | None,
        until: float = math.inf,
    ) -> None:
        """Fail the next `times` requests of `target` (None: all), after the first `after` ones.

        From `until` on (epoch seconds), requests succeed again.
        """
        self._check(target, (kind,))
        if (times is not None and times < 1) or after < 0:
            raise ValueError("times must be at least 1 (or None), after at least 0")
        self._scripted.append(_Scripted(target, kind, times, after, to, until))

    def randomly(self, target: str, share: float, kinds: Sequence[str] | None) -> None:
        """Fail this share (0 to 1) of the requests of `target`. The seed decides the kinds."""
        chosen = tuple(kinds) if kinds else TEMPORARY_KINDS
        self._check(target, chosen)
        if not 0.0 <= share <= 1.0:
            raise ValueError("share must be between 0 and 1")
        self._random.append(_Random(target, share, chosen))

    def _check(self, target: str, kinds: Sequence[str]) -> None:
        for kind in kinds:
            if kind not in FAILURE_KINDS:
                known = ", ".join(FAILURE_KINDS)
                raise ValueError(f"unknown failure kind {kind!r}; known: {known}")
        if target not in self._targets:
            known = ", ".join(sorted(self._targets))
            raise ValueError(f"unknown target {target!r}; known: {known}")

    def next(self, provider: str, label: str, now: float) -> Failure | None:
        """The failure that this request meets, or None. Scripted failures come first."""
        names = {"*", provider, label}
        self._scripted = [entry for entry in self._scripted if now < entry.until]
        for entry in self._scripted:
            if entry.target not in names:
                continue
            if entry.after:
                entry.after -= 1
                continue
            if entry.times is not None:
                entry.times -= 1
                if not entry.times:
                    self._scripted.remove(entry)
            return Failure(entry.kind, entry.to)
        for rule in self._random:
            if rule.target in names and self._generator.random() < rule.share:
                return Failure(self._generator.choice(rule.kinds))
        return None
