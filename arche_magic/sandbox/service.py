"""Admits, answers and refuses requests; independent of HTTP connections."""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .failures import REFUSALS, Failures, network_answer, spoil_answer, spoil_reply
from .models import MODELS
from .replies import input_tokens, make_reply
from .schemas import json_for_schema
from .types import Answer, Breach, Call, Caller, ReceivedRequest, Refusal, Writer
from .windows import KINDS, OF_PROVIDER
from .wires import WIRES
from .wires.embeddings import vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .accounts import Accounts, Key

_SECRET = ("authorization", "x-goog-api-key", "cookie")
# The limit of a requested failure at most providers, and at those that differ.
_SCRIPTED: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "rate_limit_minute": ("tokens_per_minute", {"google": "requests_per_minute"}),
    "rate_limit_day": (
        "requests_per_day",
        {"groq": "tokens_per_day", "mistral": "tokens_per_month"},
    ),
    "too_large": ("tokens_per_minute", {"google": "input_tokens_per_minute"}),
}
# The errors raised while reading a request with an unexpected structure.
_ODD_SHAPE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class Service:
    """The four simulated providers. Thread-safe."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        failures: Failures,
        clock: Callable[[], float],
        seed: int,
        custom: Writer | None,
    ) -> None:
        self.accounts = accounts
        self.failures = failures
        self.clock = clock
        self.lock = threading.Lock()
        self.received: deque[ReceivedRequest] = deque(maxlen=100_000)
        self._seed = seed
        self._custom = custom
        self._number = 0

    def restart(self) -> None:
        """Reset limits, counts, failures and received requests."""
        with self.lock:
            self.accounts.restart(self.clock())
            self.failures.clear()
            self.received.clear()
            self._number = 0

    def begin(
        self, provider: str, path: str, headers: Mapping[str, str], content: bytes
    ) -> Callable[[], Answer]:
        """Read, check and charge one request for a completion or for embeddings.

        Returns a function that makes the answer, so that the answer can be delayed.
        """
        wire = WIRES[provider]
        text = wire.key_text(headers)
        with self.lock:
            now = self.clock()
            self._number += 1
            key = self.accounts.find(provider, text)
            # Gemini's paths have the model before a colon and the method.
            model = path.partition(":")[0] if provider == "google" else ""
            stream, body, kind = "stream" in path, {}, None
            refused: Answer | None = None
            try:
                body = _parse(content)
                model = str(body.get("model") or model)
                stream = stream or bool(body.get("stream"))
                if key is None:
                    raise Refusal("unauthorized" if text else "no_key")
                kind, to = self.failures.next(provider, key.label, now)
                refused = network_answer(kind, to, stream=stream)
                if refused is None:
                    if kind == "stream_error" and not stream:
                        raise self._scripted("server_error", key, model, now)
                    if kind and kind in REFUSALS and kind != "no_json_schema":
                        raise self._scripted(kind, key, model, now)
                    call = self._admit(key, body, path, kind, now)
                    finish = partial(self._finish, call, key, kind)
            except Refusal as refusal:
                refused = wire.refuse(refusal, model, self._caller(key, text, model, now))
            if refused is not None and key is not None:
                what = "refused" if refused.status in (413, 429) else "failed"
                self.accounts.count(key, model, what)
            self.received.append(
                ReceivedRequest(
                    at=now,
                    provider=provider,
                    key=key.label if key else None,
                    account=key.account if key else None,
                    model=model,
                    body=body,
                    stream=stream,
                    status=refused.status if refused else 200,
                    failure=kind,
                    headers=hide_secrets(headers),
                )
            )
        return finish if refused is None else lambda: refused

    def _admit(
        self, key: Key, body: Mapping[str, Any], path: str, kind: str | None, now: float
    ) -> Call:
        """Read, check and charge a request. Raises Refusal."""
        call = _read(key.provider, body, path)
        if kind == "no_json_schema" and call.json_schema is not None:
            raise Refusal("no_json_schema")
        entry = MODELS[key.provider].get(call.model)
        if entry is None:
            raise Refusal("model_not_found")
        texts = call.embedding.texts
        if entry.dimensions and not texts:
            raise Refusal("not_for_chat")
        if texts and not entry.dimensions:
            raise Refusal("not_for_embeddings")
        if call.images and not entry.images:
            raise Refusal("type", "messages.content", expected="a string")
        if call.tools and not entry.tools:
            raise Refusal("no_tools", "tools")
        tokens, window = input_tokens(call), entry.context_window
        if tokens > window and not texts:
            raise Refusal("context_too_long", tokens=tokens, window=window)
        if breaches := self.accounts.admit(key, call.model, tokens, now, call.requests):
            if never := tuple(breach for breach in breaches if breach.limit == 0):
                raise Refusal("limit_zero", breaches=never)
            raise Refusal("too_large" if breaches[0].too_large else "limit", breaches=breaches)
        if kind == "tool_use_failed" and key.provider == "groq" and call.tools and not call.stream:
            # The model has generated the tool call, so the request is charged.
            text = f"<function={call.tools[0].name}>{{"
            raise Refusal("tool_use_failed", failed_generation=text)
        return call

    def _finish(self, call: Call, key: Key, kind: str | None) -> Answer:
        """Make the reply to an admitted request, charge it unless it streams, and answer.

        `kind` is the failure that was requested for it, if any.
        """
        wire = WIRES[call.provider]
        write: Callable[[Caller], Answer]
        if call.embedding.texts:
            found = vectors(call) if kind != "empty_reply" else []
            write, output_tokens = partial(wire.embeddings, call, found), 0
        else:
            reply = spoil_reply(make_reply(call, self._seed, self._custom), kind, call)
            write = partial(wire.stream if call.stream else wire.answer, call, reply)
            output_tokens = reply.output_tokens
        charge = partial(self._settle, call, key, kind, output_tokens)
        if not call.stream:
            charge(1.0)
        with self.lock:
            caller = self._caller(key, key.text, call.model, self.clock())
        return replace(spoil_answer(write(caller), kind, wire), charge=charge)

    def _settle(
        self, call: Call, key: Key, kind: str | None, output_tokens: int, share: float = 1.0
    ) -> None:
        """Charge the output of an admitted request after a share (0 to 1) of it was sent."""
        with self.lock:
            self.accounts.settle(key, call.model, round(output_tokens * share), self.clock())
            if kind is not None:
                self.accounts.count(key, call.model, "failed")

    def models(self, provider: str, headers: Mapping[str, str], name: str | None) -> Answer:
        """The list of a provider's models, or one of them. It uses no limit.

        Requested failures affect the list too.
        """
        wire = WIRES[provider]
        text = wire.key_text(headers)
        with self.lock:
            now = self.clock()
            key = self.accounts.find(provider, text)
            caller = self._caller(key, text, "", now)
            try:
                if key is None:
                    raise Refusal("unauthorized" if text else "no_key")
                if name is not None and name not in MODELS[provider]:
                    raise Refusal("model_not_found")
                if name is not None:
                    return wire.models(name, caller)
                kind, to = self.failures.next(provider, key.label, now)
                if answer := network_answer(kind, to, stream=True):
                    return answer
                if kind is not None and kind in REFUSALS:
                    raise self._scripted(kind, key, "", now)
            except Refusal as refusal:
                return wire.refuse(refusal, name or "", caller)
        return spoil_answer(wire.models(None, caller), kind, wire)

    def _scripted(self, kind: str, key: Key, model: str, now: float) -> Refusal:
        """A refusal for a requested failure, with figures that are plausible for the provider."""
        entry = MODELS[key.provider].get(model)
        if kind == "invalid_request":
            return Refusal("above", "temperature", bound=2, value=3)
        if kind not in _SCRIPTED:
            window = entry.context_window if entry else 131_072
            return Refusal(kind, window=window, tokens=window + 1)
        limits = self.accounts.limits(key.provider, key.account, model) if entry else {}
        return Refusal(
            "too_large" if kind == "too_large" else "limit",
            breaches=(_scripted_breach(kind, key.provider, limits, now),),
        )

    def _caller(self, key: Key | None, text: str | None, model: str, now: float) -> Caller:
        known = key is not None and model in MODELS[key.provider]
        return Caller(
            key=text or "",
            account=key.account if key else "unknown",
            request_id=f"req_sandbox_{self._number:08d}",
            now=now,
            limits=self.accounts.windows(key, model) if known and key else {},
        )


def hide_secrets(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers, with "hidden" in place of values that carry keys."""
    return {name: "hidden" if name in _SECRET else text for name, text in headers.items()}


def _parse(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except _ODD_SHAPE:
        body = None
    if not isinstance(body, dict):
        raise Refusal("json")
    return body


def _read(provider: str, body: Mapping[str, Any], path: str) -> Call:
    """Read a request. Values of wrong types and impossible schemas make it invalid."""
    try:
        call = WIRES[provider].read(body, path)
    except _ODD_SHAPE as error:
        raise Refusal("json") from error
    schemas = [("tools", tool.schema) for tool in call.tools if tool.schema]
    if call.json_schema is not None:
        schemas.append(("response_format", call.json_schema))
    for param, schema in schemas:
        try:
            json_for_schema(schema)
        except _ODD_SHAPE as error:
            raise Refusal("other", param) from error
    return call


def _scripted_breach(kind: str, provider: str, limits: Mapping[str, int], now: float) -> Breach:
    """A limit that is too small for a request, or has no room for it."""
    usual, others = _SCRIPTED[kind]
    name = others.get(provider, usual)
    limit = limits.get(name) or _usual_amount(name)
    if (provider, name) == ("openai", "requests_per_day"):
        limit = 200  # reported by an unpaid organization
    used, requested = limit, 1 if name.startswith("requests") else max(1, limit // 100)
    if kind == "too_large":
        used, requested = 0, 4 * limit
    elif name == "tokens_per_minute":
        used, requested = limit * 9 // 10, limit // 2
    window = KINDS[OF_PROVIDER[provider]](limit, name.rpartition("_")[2])
    window.add(now, used)
    return Breach(name, limit, used, requested, window.wait(now, requested))


def _usual_amount(limit: str) -> int:
    """The amount of a limit where the model has none, and for lists of models."""
    if limit.startswith("requests"):
        return 20
    return 8_000 if limit.endswith("minute") else 200_000
