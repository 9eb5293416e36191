"""What the sandbox decides about each request, without any networking."""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .embeddings import embed
from .exchange import Answer, Breach, Call, Caller, ReceivedRequest, Refusal, Reply
from .failures import SPOILED, Failure, Failures
from .models import MODELS
from .replies import input_tokens, json_for_schema, make_reply
from .spoiling import locate, raw, spoil, withheld
from .windows import Calendar
from .wires import WIRES, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .accounts import Accounts, Key

_SECRET = ("authorization", "x-goog-api-key", "cookie")
_NO_ANSWER = ("reset", "stall")


@dataclass(slots=True)
class Exchange:
    """A request in progress: it has an `answer`, or its reply has not been made yet."""

    answer: Answer | None = None
    wire: Wire | None = None
    key: Key | None = None
    call: Call | None = None
    reply: Reply | None = None
    failure: Failure | None = None
    settled: bool = False


class Service:
    """Four providers as one object: admits, refuses, replies, counts. Thread-safe."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        failures: Failures,
        clock: Callable[[], float],
        seed: int,
        custom: Callable[[str, list[dict[str, str]]], str] | None,
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
    ) -> Exchange:
        """Read, check and admit one request for a completion or for embeddings.

        An admitted request has no answer yet; call `finish`. All others have one.
        """
        wire = WIRES[provider]
        text = wire.key_text(headers)
        with self.lock:
            now = self.clock()
            self._number += 1
            exchange = Exchange(wire=wire, key=self.accounts.find(provider, text))
            model, stream, body = path.partition(":")[0], "stream" in path, {}
            try:
                body = _parse(content)
                model = str(body.get("model") or model)
                stream = stream or bool(body.get("stream"))
                self._admit(exchange, provider, path, text, body, stream, now)
            except Refusal as refusal:
                caller = self._caller(exchange.key, text, model, now)
                exchange.answer = wire.refuse(refusal, model, caller)
            self._record(exchange, provider, headers, model, body, stream, now)
        return exchange

    def finish(self, exchange: Exchange, base_url: str) -> Answer:
        """Make the reply of an admitted request, charge it unless it streams, and answer."""
        call, key, wire = exchange.call, exchange.key, exchange.wire
        if exchange.answer is not None or call is None or key is None or wire is None:
            answer = exchange.answer or Answer(500, [])
            locate(answer, base_url)
            return answer
        kind = _kind(exchange)
        if call.embedding is not None:
            return self._embed(exchange, call, key, wire)
        reply = make_reply(
            call,
            seed=self._seed,
            thought_tokens=MODELS[call.provider][call.model].thought_tokens,
            custom=self._custom,
        )
        exchange.reply = reply = withheld(reply, kind, call)
        if not call.stream:
            self.settle(exchange, 1.0)
        with self.lock:
            caller = self._caller(key, key.text, call.model, self.clock())
        answer = (wire.stream if call.stream else wire.answer)(call, reply, caller)
        return spoil(answer, kind, wire) if kind else answer

    def _embed(self, exchange: Exchange, call: Call, key: Key, wire: Wire) -> Answer:
        """Answer a request for embeddings. It has no output tokens."""
        kind, inputs = _kind(exchange), call.embedding
        exchange.reply = Reply("", (), input_tokens(call), 0)
        self.settle(exchange, 1.0)
        with self.lock:
            caller = self._caller(key, key.text, call.model, self.clock())
        length = MODELS[call.provider][call.model].dimensions
        texts = inputs.texts if inputs is not None and kind != "empty_reply" else ()
        dimensions = inputs.dimensions if inputs is not None else None
        vectors = [embed(text, call.model, length, dimensions) for text in texts]
        answer = wire.embeddings(call, vectors, caller)
        return spoil(answer, kind, wire) if kind else answer

    def settle(self, exchange: Exchange, share: float) -> None:
        """Charge the output of an admitted request, of which this share (0 to 1) was sent.

        Only the first call counts.
        """
        reply, call, key = exchange.reply, exchange.call, exchange.key
        if exchange.settled or reply is None or call is None or key is None:
            return
        exchange.settled = True
        with self.lock:
            output = round(reply.output_tokens * share)
            self.accounts.settle(key, call.model, output, self.clock())
            if exchange.failure is not None:
                self.accounts.count(key, call.model).failed += 1

    def models(self, provider: str, headers: Mapping[str, str], name: str | None) -> Answer:
        """The list of a provider's models, or one of them.

        It uses no limit. Requested failures affect it too.
        """
        wire = WIRES[provider]
        text = wire.key_text(headers)
        with self.lock:
            now = self.clock()
            key = self.accounts.find(provider, text)
            caller = self._caller(key, text, "", now)
            failure = self.failures.next(provider, key.label, now) if key and name is None else None
        if key is None:
            return wire.refuse(Refusal("unauthorized" if text else "no_key"), "", caller)
        known = {model: entry.context_window for model, entry in MODELS[provider].items()}
        if failure is not None:
            return self._failed_list(failure, wire, key, caller, wire.models(known, caller))
        if name is None:
            return wire.models(known, caller)
        if name not in known:
            return wire.refuse(Refusal("model_not_found"), name, caller)
        answer = wire.models({name: known[name]}, caller)
        value = json.loads(answer.body)
        one = (value.get("data") or value.get("models"))[0]
        return replace(answer, body=json.dumps(one).encode())

    def _failed_list(
        self, failure: Failure, wire: Wire, key: Key, caller: Caller, answer: Answer
    ) -> Answer:
        kind = failure.kind
        if kind in ("plain_text_error", "redirect", *_NO_ANSWER):
            return raw(failure)
        if kind in SPOILED:
            return spoil(answer, kind, wire)
        return wire.refuse(self._scripted(kind, key, "", caller.now), "", caller)

    def usage(self) -> dict[str, dict[str, dict[str, int]]]:
        """The count per key label and model."""
        with self.lock:
            result: dict[str, dict[str, dict[str, int]]] = {}
            for (label, model), count in self.accounts.counts.items():
                result.setdefault(label, {})[model] = {
                    name: getattr(count, name) for name in count.__slots__
                }
            return result

    def _admit(
        self,
        exchange: Exchange,
        provider: str,
        path: str,
        text: str | None,
        body: Mapping[str, Any],
        stream: bool,
        now: float,
    ) -> None:
        """Admit the request, raise Refusal, or set the answer for a failure."""
        key = exchange.key
        if key is None:
            raise Refusal("unauthorized" if text else "no_key")
        exchange.failure = failure = self.failures.next(provider, key.label, now)
        kind = failure.kind if failure else None
        if failure is not None and kind in ("plain_text_error", "redirect", *_NO_ANSWER):
            exchange.answer = raw(failure)
            return
        if kind == "stall_stream" and not stream:
            exchange.answer = Answer(0, [], ending="stall")
            return
        if kind == "stream_error" and not stream:
            raise Refusal("server_error")
        if kind is not None and kind not in (*SPOILED, "no_json_schema"):
            model = str(body.get("model") or path.partition(":")[0])
            raise self._scripted(kind, key, model, now)
        call = _read(provider, body, path)
        if kind == "no_json_schema" and call.json_schema is not None:
            raise Refusal("no_json_schema")
        model_entry = MODELS[provider].get(call.model)
        if model_entry is None:
            raise Refusal("model_not_found")
        if (call.embedding is None) != (model_entry.dimensions == 0):
            raise Refusal("model_not_found", other_kind=True, embedding=call.embedding is not None)
        if call.images and not model_entry.images:
            raise Refusal(
                "invalid_request", param="messages.content", problem="type", expected="a string"
            )
        if call.tools and not model_entry.tools:
            raise Refusal("invalid_request", param="tools", problem="no_tools")
        tokens = input_tokens(call)
        if call.embedding is None and tokens > model_entry.context_window:
            window = model_entry.context_window
            raise Refusal("context_too_long", tokens=tokens, window=window)
        breaches = self.accounts.admit(key, call.model, tokens, now, call.requests)
        if breaches:
            raise _limited(breaches)
        if kind == "tool_use_failed" and provider == "groq" and call.tools and not stream:
            # The model has written its call, so the request is charged.
            raise Refusal("tool_use_failed", generation=f"<function={call.tools[0].name}>{{")
        exchange.call = call

    def _scripted(self, kind: str, key: Key, model: str, now: float) -> Refusal:
        """A refusal for a requested failure, with figures that are plausible for the provider."""
        entry = MODELS[key.provider].get(model)
        if kind == "invalid_request":
            return Refusal(kind, param="temperature", problem="above", bound=2, value=3)
        if kind not in ("rate_limit_minute", "rate_limit_day", "too_large"):
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
            limits=self.accounts.state(key, model, now) if known and key else {},
        )

    def _record(
        self,
        exchange: Exchange,
        provider: str,
        headers: Mapping[str, str],
        model: str,
        body: Mapping[str, Any],
        stream: bool,
        now: float,
    ) -> None:
        key = exchange.key
        status = exchange.answer.status if exchange.answer else 200
        if key is not None and exchange.answer is not None:
            count = self.accounts.count(key, model)
            if status in (413, 429):
                count.refused += 1
            else:
                count.failed += 1
        self.received.append(
            ReceivedRequest(
                at=now,
                provider=provider,
                key=key.label if key else None,
                account=key.account if key else None,
                model=model,
                body=body,
                stream=stream,
                status=status,
                failure=exchange.failure.kind if exchange.failure else None,
                headers={n: "hidden" if n in _SECRET else v for n, v in headers.items()},
            )
        )


def _parse(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refusal("invalid_request", problem="json")
    return body


def _read(provider: str, body: Mapping[str, Any], path: str) -> Call:
    """Read a request. Values of wrong types and impossible schemas make it invalid."""
    try:
        call = WIRES[provider].read(body, path)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise Refusal("invalid_request", problem="json") from error
    schemas = [("tools", tool.schema) for tool in call.tools if tool.schema]
    if call.json_schema is not None:
        schemas.append(("response_format", call.json_schema))
    for param, schema in schemas:
        try:
            json_for_schema(schema)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise Refusal("invalid_request", param=param, problem="other") from error
    return call


def _limited(breaches: tuple[Breach, ...]) -> Refusal:
    if any(breach.limit == 0 for breach in breaches):
        never = tuple(b for b in breaches if b.limit == 0)
        return Refusal("not_in_plan", breaches=never)
    return Refusal("too_large" if breaches[0].too_large else "limit", breaches=breaches)


def _scripted_breach(kind: str, provider: str, limits: Mapping[str, int], now: float) -> Breach:
    if kind == "too_large":
        name = "input_tokens_per_minute" if provider == "google" else "tokens_per_minute"
        limit = limits.get(name) or 8_000
        return Breach(name, limit, 0, 4 * limit, float("inf"))
    if provider == "google":
        name = "requests_per_minute" if kind == "rate_limit_minute" else "requests_per_day"
        limit = limits.get(name) or 20
        window = Calendar(limit, name.rpartition("_")[2])
        window.add(now, limit)
        return Breach(name, limit, limit, 1, window.wait(now, 1))
    if kind == "rate_limit_minute":
        limit = limits.get("tokens_per_minute") or 8_000
        used, requested = limit * 9 // 10, limit // 2
        wait = (used + requested - limit) / limit * 60
        return Breach("tokens_per_minute", limit, used, requested, wait)
    if provider == "openai":
        # The wait that an unpaid organization reported: 7m12s.
        return Breach("requests_per_day", 200, 200, 1, 432.0)
    name = "tokens_per_day" if provider == "groq" else "tokens_per_month"
    limit = limits.get(name) or 200_000
    requested = max(1, limit // 100)
    return Breach(name, limit, limit, requested, requested / limit * 86_400)


def _kind(exchange: Exchange) -> str | None:
    return exchange.failure.kind if exchange.failure else None
