"""The one loop: offer a request to the routes in order until one answers."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NoReturn

from .adapters import Adapter, build_adapter
from .attempts import AttemptLog, Tally, attempt_log
from .config import Configuration, get_configuration, label_keys
from .errors import (
    AttemptFailed,
    ConfigurationError,
    ContentFiltered,
    IncompleteReply,
    InvalidRequest,
    LLMProviderError,
    NoKeys,
    NoRouteAvailable,
    Remedy,
)
from .ledger import RouteState
from .parameters import Messages, build_request
from .quota_tracker import Hold, QuotaTracker, get_quota_tracker
from .routing import Choice, choose
from .types import (
    Attempt,
    Discarded,
    Event,
    Message,
    Outcome,
    Piece,
    Reply,
    Request,
    Route,
    Usage,
    Waiting,
    utc,
)

logger = logging.getLogger("arche_magic.attempts")

_LONGEST_SLEEP_SECONDS = 0.5
_ATTEMPTS_PER_ROUTE = 5
_ROUTES_IN_A_MESSAGE = 4


class IntelligentLLMOrchestrator:
    """Answers each prompt from the best route that has quota left.

    Args:
        enable_multi_key_groq: with False, only the first Groq key is used.
        preferred_provider: asked before all others, paid or not.
        providers: only these are asked; all that are configured if not given.
        configuration: keys, models and limits; the one in use if not given.

    Raises:
        ConfigurationError: a provider name is unknown.
    """

    def __init__(
        self,
        enable_multi_key_groq: bool = True,
        preferred_provider: str | None = None,
        *,
        providers: Sequence[str] | None = None,
        configuration: Configuration | None = None,
    ) -> None:
        self.configuration = configuration or get_configuration()
        for name in (*(providers or ()), *([preferred_provider] if preferred_provider else ())):
            self.configuration.provider(name)
        self.providers = tuple(providers or self.configuration.providers)
        self.preferred_provider = preferred_provider
        self.enable_multi_key_groq = enable_multi_key_groq
        self.quota_tracker = get_quota_tracker(self.configuration)
        self._log = attempt_log(self.configuration.store)
        self._tally = Tally()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.providers)})"

    def generate(
        self,
        prompt: str,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Any,
    ) -> Reply:
        """The reply to a prompt.

        Args:
            prompt: the text to answer.
            model: a model name, bare or as `provider/model`; each provider's default if not given.
            max_tokens: the longest reply, in tokens (`max_output_tokens` means the same).
            temperature: 0 to 2; 0 means 0.
            **options: `system`, `top_p`, `stop`, `seed`, `provider`, `patience` (seconds to wait
                for a route rather than fail or pay) and `timeout` (seconds for the whole request).

        Raises:
            InvalidRequest: an option is wrong, or no provider takes it.
            ConfigurationError: no key, unknown provider or model.
            NoRouteAvailable: every route is shut or failed.
            ContentFiltered: the provider refused to answer.
        """
        return self._finish(prompt, model, max_tokens, temperature, options)

    def generate_chat(
        self,
        messages: Messages,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Any,
    ) -> Reply:
        """The reply to a conversation: `[{"role": "user", "content": "…"}, …]`; see `generate`."""
        return self._finish(messages, model, max_tokens, temperature, options)

    async def agenerate(self, prompt: str, *args: Any, **options: Any) -> Reply:
        """`generate` in a thread of its own, for code that awaits."""
        return await asyncio.to_thread(self.generate, prompt, *args, **options)

    def stream(
        self,
        prompt: str | Messages,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Any,
    ) -> ReplyStream:
        """The reply piece by piece: an iterator of text, with `.reply` once it is exhausted.

        Raises (while iterating) what `generate` raises, and IncompleteReply, with the text so
        far in `partial`, if a stream breaks after some text.
        """
        return ReplyStream(self.events(prompt, model, max_tokens, temperature, **options))

    def events(
        self,
        prompt: str | Messages,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Any,
    ) -> Generator[Event, None, Reply]:
        """A streamed request as it happens: `Waiting`, `Piece`, `Discarded`; returns the reply.

        After `Discarded` the reply starts over on another route.
        """
        request = self._request(prompt, model, max_tokens, temperature, options)
        return _Run(self, request, stream=True).events()

    def get_stats(self) -> dict[str, Any]:
        """What this object has done: `total_calls`, `provider_calls`, `fallbacks`, `errors`,
        `current_provider`, `available_providers`, `quota_summary`.

        A fallback is a reply before which a route was refused, failed, or skipped because it was
        shut; `errors` counts requests that ended without a reply.
        """
        available = list(dict.fromkeys(route.provider for route in self._all_routes()))
        stats = self._tally.stats()
        stats["current_provider"] = stats["current_provider"] or next(iter(available), None)
        stats["available_providers"] = available
        stats["quota_summary"] = self.quota_tracker.get_usage_summary()
        return stats

    def routes(self, request: Request) -> tuple[Route, ...]:
        """The routes a request may take, in the configured order.

        Raises:
            ConfigurationError: unknown provider or model, or no key for any of them.
        """
        if request.provider and request.provider not in self.providers:
            self.configuration.provider(request.provider)
            raise ConfigurationError(
                f"{request.provider} is not among the providers of this object "
                f"({', '.join(self.providers)})"
            )
        only = self.providers[0] if len(self.providers) == 1 else None
        models = self.configuration.resolve_model(request.model, request.provider or only)
        routes = [r for r in self.configuration.routes(models) if r.provider in self.providers]
        if not self.enable_multi_key_groq:
            routes = [r for r in routes if r.provider != "groq" or r.key.label == "groq_key_1"]
        if not routes:
            raise NoKeys(_no_keys(self.configuration, list(models)))
        return tuple(routes)

    def _all_routes(self) -> list[Route]:
        return [r for r in self.configuration.routes() if r.provider in self.providers]

    def _request(
        self,
        prompt: str | Messages,
        model: str | None,
        max_tokens: int | None,
        temperature: float | None,
        options: Mapping[str, Any],
    ) -> Request:
        return build_request(
            prompt,
            self.configuration,
            model=model,
            max_tokens=max_tokens,
            temperature=temperature,
            **options,
        )

    def _finish(
        self,
        prompt: str | Messages,
        model: str | None,
        max_tokens: int | None,
        temperature: float | None,
        options: Mapping[str, Any],
    ) -> Reply:
        request = self._request(prompt, model, max_tokens, temperature, options)
        events = _Run(self, request, stream=False).events()
        while True:
            try:
                next(events)
            except StopIteration as end:
                reply: Reply = end.value
                return reply


class MultiKeyGroqProvider(IntelligentLLMOrchestrator):
    """Groq alone, over any number of keys.

    Args:
        api_keys: the keys, in the order of their labels; the configured ones if not given.

    Raises:
        ConfigurationError: a key is blank, or there is none.
    """

    def __init__(
        self, api_keys: Sequence[str] | None = None, *, configuration: Configuration | None = None
    ) -> None:
        configuration = configuration or get_configuration()
        if api_keys is not None:
            for number, text in enumerate(api_keys, 1):
                if not isinstance(text, str) or not text.strip():
                    raise ConfigurationError(f"api_keys: key {number} is blank")
            keys = label_keys("groq", dict.fromkeys(text.strip() for text in api_keys))
            accounts = {key.fingerprint: key.account for key in configuration.keys}
            keys = tuple(
                replace(key, account=accounts.get(key.fingerprint, key.account)) for key in keys
            )
            configuration = replace(configuration, keys=keys)
        if not any(key.provider == "groq" for key in configuration.keys):
            raise NoKeys(_no_keys(configuration, ["groq"]))
        super().__init__(providers=["groq"], configuration=configuration)

    def get_usage_summary(self) -> dict[str, Any]:
        """Usage per key and limit; see `QuotaTracker.get_usage_summary("groq")`."""
        return self.quota_tracker.get_usage_summary("groq")


class ReplyStream(Iterator[str]):
    """The pieces of a reply as they arrive; `reply` is set once they are all there."""

    reply: Reply | None = None

    def __init__(self, events: Generator[Event, None, Reply]) -> None:
        self._events = events
        self._text = ""

    def __next__(self) -> str:
        while True:
            try:
                event = next(self._events)
            except StopIteration as end:
                if self.reply is None:
                    self.reply = end.value
                raise
            if isinstance(event, Piece):
                self._text += event.text
                return event.text
            if isinstance(event, Discarded):
                self._events.close()
                error = IncompleteReply(
                    f"the reply broke off: {event.attempt}", attempts=[event.attempt]
                )
                error.partial = self._text
                raise error

    def close(self) -> None:
        """Stop the reply here and drop the connection."""
        self._events.close()


@dataclass
class _Run:
    """One request on its way through the routes."""

    owner: IntelligentLLMOrchestrator
    request: Request
    stream: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    attempts: list[Attempt] = field(default_factory=list)
    out: set[Route] = field(default_factory=set)
    waited: float = 0.0

    def __post_init__(self) -> None:
        self.clock = self.owner.configuration.clock
        self.ledger: QuotaTracker = self.owner.quota_tracker
        self.log: AttemptLog = self.owner._log

    def events(self) -> Generator[Event, None, Reply]:
        """The loop itself; see `IntelligentLLMOrchestrator.events`."""
        routes = self.owner.routes(self.request)
        self.started = self.clock.time()
        try:
            while True:
                choice = self._choose([route for route in routes if route not in self.out])
                if choice.route is None:
                    self._give_up(routes, choice)
                self._note_skipped(choice)
                if choice.opens_at > self.clock.time():
                    yield from self._wait(choice)
                    continue
                hold = self.ledger.hold(choice.route, self.request)
                if isinstance(hold, RouteState):
                    # Another thread or kernel was faster; the ledger has changed, so look again.
                    continue
                reply = yield from self._ask(hold)
                if reply is not None:
                    return reply
        finally:
            self.owner._tally.add(self.attempts)
            self.log.append(self.attempts)

    def _choose(self, routes: Sequence[Route]) -> Choice:
        now = self.clock.time()
        patience = min(self.request.patience - self.waited, self._time_left())
        return choose(
            routes,
            lambda route: self.ledger.state(route, self.request, now),
            now,
            max(0.0, patience),
            self.owner.preferred_provider,
        )

    def _time_left(self) -> float:
        return self.started + self.request.timeout - self.clock.time()

    def _wait(self, choice: Choice) -> Generator[Event, None, None]:
        """Sleep a little towards the opening; the ledger is asked again after each nap."""
        assert choice.route is not None
        before = self.clock.time()
        seconds = choice.opens_at - before
        yield Waiting(choice.route, seconds)
        self.clock.sleep(min(seconds, _LONGEST_SLEEP_SECONDS))
        self.waited += self.clock.time() - before

    def _ask(self, hold: Hold) -> Generator[Event, None, Reply | None]:
        """One attempt on one route: a reply, or None if the next route is to be asked."""
        route = hold.route
        began = time.perf_counter()
        text: list[str] = []
        usage: Usage | None = None
        finish = "stop"
        observations = []
        first: float | None = None
        try:
            adapter = _adapter(route, self.owner.configuration)
            answer = adapter.complete(
                self.request, route.model, stream=self.stream, timeout=max(0.1, self._time_left())
            )
            for part in answer:
                observations.extend(part.observations)
                usage = part.usage or usage
                finish = part.finish_reason or finish
                if part.text:
                    first = first if first is not None else time.perf_counter() - began
                    text.append(part.text)
                    yield Piece(part.text, route)
        except AttemptFailed as failure:
            attempt = self._failed(hold, failure, time.perf_counter() - began, first)
            if failure.remedy in (Remedy.FIX_REQUEST, Remedy.CHANGE_PROMPT):
                self._refuse_request(failure, attempt, "".join(text))
            if text:
                yield Discarded(attempt)
            return None
        except (KeyboardInterrupt, GeneratorExit):
            spent = usage or _counted(hold, "".join(text))
            self.ledger.settle(hold, spent, observations)
            self._note(route, "interrupted", "interrupted", time.perf_counter() - began, spent, first)
            raise
        seconds = time.perf_counter() - began
        standing = self.ledger.settle(hold, usage, observations)
        usage = usage or _counted(hold, "".join(text))
        self._note(route, "served", None, seconds, usage, first)
        return Reply(
            "".join(text),
            provider=route.provider,
            key=route.key.label,
            model=route.model,
            usage=usage,
            attempts=tuple(self.attempts),
            seconds=self.clock.time() - self.started,
            finish_reason=finish,
            standing=standing,
        )

    def _failed(
        self, hold: Hold, failure: AttemptFailed, seconds: float, first: float | None
    ) -> Attempt:
        state = self.ledger.fail(hold, failure)
        route = hold.route
        refused = failure.remedy in (Remedy.WAIT_FOR_LIMIT, Remedy.TOP_UP_ACCOUNT, Remedy.CHANGE_PLAN)
        offered = sum(
            (a.provider, a.key, a.model) == (route.provider, route.key.label, route.model)
            for a in self.attempts
            if a.outcome in ("refused", "failed")
        )
        if failure.remedy is Remedy.SHORTEN_PROMPT or offered + 1 >= _ATTEMPTS_PER_ROUTE:
            self.out.add(route)
        return self._note(
            route,
            "refused" if refused else "failed",
            str(failure),
            seconds,
            failure.usage or Usage(),
            first,
            state.opens_at if math.isfinite(state.opens_at) else None,
        )

    def _note(
        self,
        route: Route,
        outcome: Outcome,
        error: str | None,
        seconds: float,
        usage: Usage,
        first: float | None,
        opens_at: float | None = None,
    ) -> Attempt:
        attempt = Attempt(
            provider=route.provider,
            key=route.key.label,
            model=route.model,
            outcome=outcome,
            error=error,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            seconds=round(seconds, 4),
            first_token_s=round(first, 4) if first is not None and self.stream else None,
            waited_s=round(self.waited, 3),
            at=round(self.clock.time(), 3),
            request=self.id,
            opens_at=opens_at,
        )
        self.attempts.append(attempt)
        logger.info("%s", attempt)
        return attempt

    def _note_skipped(self, choice: Choice) -> None:
        """Record once per request each shut route that would have come first."""
        for route, state in choice.passed_over:
            known = any(
                (a.provider, a.key, a.model) == (route.provider, route.key.label, route.model)
                for a in self.attempts
            )
            if not known:
                opens_at = state.opens_at if math.isfinite(state.opens_at) else None
                self._note(route, "skipped", state.reason, 0.0, Usage(), None, opens_at)

    def _refuse_request(self, failure: AttemptFailed, attempt: Attempt, text: str) -> NoReturn:
        where = f"{attempt.provider} ({attempt.model})"
        if failure.remedy is Remedy.FIX_REQUEST:
            raise InvalidRequest(
                f"{where} does not take the request: {failure}", attempts=self.attempts
            ) from None
        error = ContentFiltered(f"{where} refused to answer: {failure}", attempts=self.attempts)
        error.partial = text or failure.text
        raise error from None

    def _give_up(self, routes: Sequence[Route], choice: Choice) -> NoReturn:
        self._note_skipped(choice)
        now = self.clock.time()
        lines = []
        opening: list[float] = []
        for route in routes:
            state = self.ledger.state(route, self.request, now)
            last = next(
                (
                    a
                    for a in reversed(self.attempts)
                    if (a.provider, a.key, a.model) == (route.provider, route.key.label, route.model)
                ),
                None,
            )
            why = state.reason or (last.error if last else None) or "failed"
            if route in self.out or not math.isfinite(state.opens_at):
                lines.append(f"{route}: {why}")
            elif state.opens_at <= now:
                lines.append(f"{route}: {why}")
            else:
                opening.append(state.opens_at)
                lines.append(f"{route} opens {in_seconds(state.opens_at - now)} ({why})")
        shown = "; ".join(lines[:_ROUTES_IN_A_MESSAGE])
        more = len(lines) - _ROUTES_IN_A_MESSAGE
        shown += f"; and {more} more" if more > 0 else ""
        groq_only = all(route.provider == "groq" for route in routes)
        spent = groq_only and all(math.isfinite(self.ledger.state(r, self.request, now).opens_at) for r in routes)
        head = "All Groq API keys have hit rate limits" if spent else "No available LLM providers"
        next_at: datetime | None = utc(min(opening)) if opening else None
        raise NoRouteAvailable(
            f"{head}: {shown}", attempts=self.attempts, next_available_at=next_at
        )


def in_seconds(seconds: float) -> str:
    """`in 42 s`, `in 3 min`, `in 5 h`, `in 2 days`; rounded up, since early is too early."""
    if seconds < 100:
        return f"in {math.ceil(seconds)} s"
    if seconds < 100 * 60:
        return f"in {math.ceil(seconds / 60)} min"
    if seconds < 48 * 3600:
        return f"in {math.ceil(seconds / 3600)} h"
    return f"in {math.ceil(seconds / 86_400)} days"


_adapters: dict[tuple[str, str, str | None], Adapter] = {}
_adapters_lock = threading.Lock()


def _adapter(route: Route, configuration: Configuration) -> Adapter:
    """The adapter of a key, built once per process: an SDK client costs about 40 ms."""
    provider = configuration.providers[route.provider]
    identity = (provider.name, route.key.fingerprint, provider.base_url)
    with _adapters_lock:
        if identity not in _adapters:
            _adapters[identity] = build_adapter(provider.wire, route.key, provider.base_url)
        return _adapters[identity]


def _counted(hold: Hold, text: str) -> Usage:
    """Tokens by our own count, where the provider gave none."""
    return Usage(math.ceil(hold.amounts["input_tokens"]), math.ceil(len(text) / 4))


def _no_keys(configuration: Configuration, providers: Iterable[str]) -> str:
    entries = [configuration.providers[name] for name in providers]
    variables = ", ".join(entry.key_variables[0] for entry in entries)
    return (
        f"No available LLM providers: no API key is configured. Set {variables} in the environment "
        "or in a .env file"
    )


__all__ = [
    "IntelligentLLMOrchestrator",
    "LLMProviderError",
    "Message",
    "MultiKeyGroqProvider",
    "ReplyStream",
    "in_seconds",
]
