"""The provider objects that users create: all routes, or some of them, behind one interface."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

from .attempt_log import Tally, attempt_log
from .batch_ledger import BatchLedger
from .config import Configuration, get_configuration
from .config.keys import with_keys
from .errors import ConfigurationError, NoKeys
from .events import Event, OnWait, Piece, ReplyStream, Waiting, reply_of
from .functions import in_rounds, read_functions
from .loop import RequestRun
from .offered_routes import OfferedRoutes, no_keys
from .options import Options, build_request, check_callable
from .options.messages import Messages
from .prices import cost_usd
from .quota_tracker import QuotaTracker, get_quota_tracker
from .reply import Attempt, Reply
from .reply_cache import replay
from .request import Request
from .request_progress import RequestProgress
from .routing import Preview, Routes, choose
from .secrets import without_locals
from .stopping import in_a_thread
from .types import Usage

if TYPE_CHECKING:
    from .reply_cache.store import ReplyStore


class IntelligentLLMOrchestrator:
    """Sends each prompt to the best route with quota left.

    Args:
        enable_multi_key_groq: if False, only the first Groq key is used.
        preferred_provider: the provider to ask before all others, paid or not; by default the
            configured one.
        providers: use only these providers; by default all that are configured.
        configuration: keys, models and limits; by default the configuration in use.

    Raises:
        ConfigurationError: a provider name is unknown, `providers` is empty or a text, or the
            ledger's Redis refuses changes.
    """

    def __init__(
        self,
        enable_multi_key_groq: bool = True,
        preferred_provider: str | None = None,
        *,
        providers: Sequence[str] | None = None,
        configuration: Configuration | None = None,
    ) -> None:
        self.configuration: Configuration = configuration or get_configuration()
        if providers is not None and (isinstance(providers, str) or not providers):
            raise ConfigurationError("providers must be a list of names; leave it out to use all")
        for name in (*(providers or ()), *([preferred_provider] if preferred_provider else ())):
            self.configuration.provider(name)
        self.providers: tuple[str, ...] = tuple(providers or self.configuration.providers)
        self.preferred_provider: str | None = (
            preferred_provider or self.configuration.preferred_provider
        )
        self.enable_multi_key_groq = enable_multi_key_groq
        self.quota_tracker: QuotaTracker = get_quota_tracker(self.configuration)
        self.quota_tracker.check_store()
        self._offered = OfferedRoutes(self.configuration, self.providers)
        self._log = attempt_log(self.configuration.store)
        self._tally = Tally()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(getattr(self, 'providers', ()))})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a provider cannot be pickled, because it holds keys; create it in the other process"
        )

    def generate(
        self,
        prompt: str,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Unpack[Options],
    ) -> Reply:
        """Send a prompt and return the reply.

        Args:
            prompt: the text to answer.
            model: a model name, bare or as `provider/model`; by default each provider's default.
            max_tokens: the maximum length of the reply, in tokens (also `max_output_tokens`).
            temperature: 0 to 2; 0 means 0.
            **options: `system`, `images` (paths, bytes or `Image` objects), `top_p`, `stop`,
                `seed`, `provider`, `patience` (seconds to wait for a route instead of failing or
                paying), `timeout` (seconds for the whole request), `on_wait` (called with a
                `Waiting` about twice a second while it waits), `fallback_on_filter` (if one model
                refuses to answer, ask another one), `keep` (answer repeated prompts from memory,
                and keep each new reply), `fresh` (ask even if there is a kept reply, and replace
                it), `reserve` (the share of each limit, 0 to 1, that is left for other requests),
                `private` (use only routes that are marked in `[private]`), `same_model` (use only
                the model of the first route, with any key and provider that has it), `tag` (a name
                for its attempts, for `%llm_stats --by tag`), `schema` (the schema of the reply: a
                pydantic model, a dataclass, a TypedDict, a JSON Schema, or a line such as
                `sentiment pos|neg, score float`; the value is in `reply.parsed`), `tools`
                (functions that the model may call: they run here, and their results are sent in the
                next request, see `reply.tool_runs`; or `Tool` objects and OpenAI's definitions,
                whose calls are in `reply.tool_calls`), `max_rounds` (maximum number of requests
                with functions, 8 by default; the last one forbids calls), `tool_choice` (`auto`,
                `none`, `required` or the name of a tool), `parallel_tool_calls` (whether the model
                may make several calls at once) and `extra` (further fields of OpenAI's chat
                completions, such as `{"logprobs": True}`; routes without support for a field are
                skipped).

        Raises:
            InvalidRequest: an option is invalid, or every route refused the request.
            ConfigurationError: no key, an unknown provider or model, or an unusable proxy or
                certificate on this machine.
            NoRouteAvailable: every route is closed or failed.
            ContentFiltered: the provider refused to answer.
            IncompleteReply: the model used all its tokens for reasoning, and no other model is
                open.
            NotKept: replay is set to only, and no reply is kept.
            SchemaMismatch: two replies did not fit the schema.
        """
        return self._finish(prompt, _given(model, max_tokens, temperature, options))

    def ask(
        self, request: Request, on_wait: OnWait | None = None, ledger: BatchLedger | None = None
    ) -> Reply:
        """Send a request that was built in advance; raises what `generate` raises.

        `ledger` is for background threads that ask many requests; see `batch_ledger`.
        """
        return _reply_of(self._events(request, False, ledger), on_wait)

    def events_of(self, request: Request) -> Generator[Event, None, Reply]:
        """Like `events`, for a request that was built in advance."""
        return self._events(request, stream=True)

    def batch_ledger(
        self,
        coming: Callable[[], Iterable[Request]],
        on_ended: Callable[[Sequence[Attempt]], object],
    ) -> BatchLedger:
        """Return a ledger for many calls of `ask`; see `BatchLedger`."""
        return BatchLedger(self.quota_tracker, self._log, coming, on_ended)

    def generate_chat(
        self,
        messages: Messages,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Unpack[Options],
    ) -> Reply:
        """Continue a conversation: `[{"role": "user", "content": "…"}, …]`; see `generate`.

        Messages have OpenAI's format. A user's message may have `"images"`, a list of paths, bytes
        or `Image` objects, or parts of the type `image_url`. The URL of an image is passed to
        providers that fetch it, and never fetched here. Tool calls are in `tool_calls`, and their
        results in messages with the role `tool`.
        """
        return self._finish(messages, _given(model, max_tokens, temperature, options))

    async def agenerate(
        self,
        prompt: str,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Unpack[Options],
    ) -> Reply:
        """Like `generate`, but in another thread, for code that awaits.

        Cancelling it stops the request: the connection is closed, the tokens used are counted, and
        no other route is asked.
        """
        return await in_a_thread(
            lambda: self.generate(prompt, model, max_tokens, temperature, **options)
        )

    def stream(
        self,
        prompt: str | Messages,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Unpack[Options],
    ) -> ReplyStream:
        """Yield the reply piece by piece; `.reply` has the whole reply at the end.

        Timeouts do not include the time that the caller takes between two pieces. A forked child
        process cannot continue to read.

        Raises (while iterating) what `generate` raises, and IncompleteReply, with the text so far
        in `partial`, if a stream breaks after some text. A reply that does not fit its schema
        raises SchemaMismatch at its end, and is not corrected.
        """
        given = _given(model, max_tokens, temperature, options)
        on_wait = given.pop("on_wait", None)
        return ReplyStream(self._rounds(prompt, given, stream=True), on_wait)

    def events(
        self,
        prompt: str | Messages,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Unpack[Options],
    ) -> Generator[Event, None, Reply]:
        """Yield the events (`events.Event`) of a streamed request; returns the reply.

        After `Discarded`, the reply starts again on another route.
        """
        given = _given(model, max_tokens, temperature, options)
        return self._rounds(prompt, given, stream=True)

    def get_stats(self) -> dict[str, Any]:
        """Count what this object has done: `total_calls`, `provider_calls`, `fallbacks`, `errors`,
        `from_memory`, `current_provider`, `available_providers`, `quota_summary`.

        A fallback is a reply before which a route was refused, failed, or skipped because it was
        closed; `errors` counts requests that ended without a reply. Kept replies count only in
        `from_memory`, because nothing was sent. The result is plain data for `json.dumps`.
        """
        available = self._offered.providers_with_routes()
        stats = self._tally.stats()
        stats["current_provider"] = stats["current_provider"] or next(iter(available), None)
        stats["available_providers"] = available
        stats["quota_summary"] = self.quota_tracker.get_usage_summary()
        return stats

    def routes(self, request: Request) -> Routes:
        """Return the routes that a request can use, in the configured order.

        Raises:
            ConfigurationError: the provider or model is unknown, no key is configured, or no route
                is marked for a private request.
        """
        return self._offered.to(
            request, self.preferred_provider, all_groq_keys=self.enable_multi_key_groq
        )

    def preview(
        self,
        prompt: str | Messages,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Unpack[Options],
    ) -> Preview:
        """Return what `generate` or `generate_chat` would do now with the same arguments.

        Nothing is sent or reserved. An invalid request or a missing key raises the same errors.
        """
        request = self._request(prompt, _given(model, max_tokens, temperature, options))
        tracker, now = self.quota_tracker, self.configuration.clock.time()
        # Without keys, kept replies may still answer.
        keyless = request.replay == "only" and not self.configuration.keys
        routes = Routes() if keyless else self.routes(request)
        states = tracker.states_for(request, now)
        choice = choose(routes, states, now, request.patience, self.preferred_provider)
        likely = choice.route or next(iter(routes), None)
        usage = tracker.estimate(likely, request) if likely else Usage()
        return Preview(
            request=request,
            route=choice.route,
            wait=max(0.0, choice.opens_at - now),
            usage=usage,
            cost=cost_usd(likely, usage) if likely else 0.0,
            closed=tuple((route, state.opens_at, state.reason) for route, state in choice.skipped),
            room=max((tracker.room(route) for route in routes), default=math.inf),
        )

    def kept(
        self,
        prompt: str | Messages,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        **options: Unpack[Options],
    ) -> Reply | None:
        """Return the kept reply for the same arguments, if there is one."""
        request = self._request(prompt, _given(model, max_tokens, temperature, options))
        return replay.kept_reply(request, self.address(request), self._replies())

    def address(self, request: Request) -> str:
        """The address of this object's kept reply to a request; see `replay.address`."""
        return replay.address(request, self._only(request))

    def addresses_like(self, sample: Request) -> Callable[[Request], str]:
        """`address` for many requests that differ from the sample only in their last message."""
        return replay.addresses_like(sample, self._only(sample))

    def _only(self, request: Request) -> Sequence[str]:
        """The providers that may answer; empty if any provider may."""
        restricted = set(self.providers) != set(self.configuration.providers)
        return [request.provider] if request.provider else self.providers if restricted else ()

    def _replies(self) -> ReplyStore:
        # Imported only when needed, because few users keep replies and some Pythons lack SQLite.
        from .reply_cache.store import reply_store

        return reply_store(self.configuration.replies)

    def _events(
        self, request: Request, stream: bool, batch: BatchLedger | None = None
    ) -> Generator[Event, None, Reply]:
        """The events of a request, whose reply may be a kept one."""
        if request.replay != "off":
            return self._replayed(request, stream)
        progress = RequestProgress(request, stream, self.quota_tracker, self._log, batch)
        routes, preferred = self.routes(request), self.preferred_provider
        return RequestRun(progress, routes, preferred, self._tally).events()

    def _replayed(self, request: Request, stream: bool) -> Generator[Event, None, Reply]:
        began, store, address = time.monotonic(), self._replies(), self.address(request)
        if (reply := replay.kept_reply(request, address, store)) is not None:
            yield Piece(str(reply), None)
            self._tally.add_from_memory()
            self._log.append(())
            return reply
        if request.replay == "only":
            raise replay.not_kept(request, store)
        left = request.timeout - (time.monotonic() - began)
        reply = yield from self._events(replace(request, timeout=left, replay="off"), stream)
        replay.keep(reply, address, store, self.configuration.clock.time())
        return reply

    def _request(self, prompt: str | Messages, given: Mapping[str, Any]) -> Request:
        options, _, _ = read_functions(given)
        # Nothing here waits for a route.
        options.pop("on_wait", None)
        return build_request(prompt, self.configuration, **options)

    def _rounds(
        self, prompt: str | Messages, given: Mapping[str, Any], stream: bool
    ) -> Generator[Event, None, Reply]:
        """The events of a request, and of those that follow its calls of functions."""
        options, functions, most = read_functions(given)
        request = build_request(prompt, self.configuration, **options)
        if not functions:
            return self._events(request, stream)
        keys = self.configuration.keys
        return in_rounds(request, lambda one: self._events(one, stream), functions, most, keys)

    def _finish(self, prompt: str | Messages, given: dict[str, Any]) -> Reply:
        on_wait: OnWait | None = given.pop("on_wait", None)
        return _reply_of(self._rounds(prompt, given, stream=False), on_wait)


def _given(
    model: str | None, max_tokens: int | None, temperature: float | None, options: Options
) -> dict[str, Any]:
    """The caller's arguments as one mapping; `build_request` checks the rest of it."""
    check_callable("on_wait", options.get("on_wait"))
    settings = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
    return {**settings, **options}


def _reply_of(events: Generator[Event, None, Reply], on_wait: OnWait | None) -> Reply:
    if on_wait is None:
        return reply_of(events)

    def on_event(event: Event) -> None:
        if isinstance(event, Waiting):
            on_wait(event)

    return reply_of(events, on_event)


class MultiKeyGroqProvider(IntelligentLLMOrchestrator):
    """Only Groq, with any number of keys.

    Args:
        api_keys: the keys, in the order of their labels; by default the configured ones.

    Raises:
        ConfigurationError: a key is blank, or there is none.
    """

    @without_locals
    def __init__(self, api_keys: Sequence[str] | None = None) -> None:
        configuration = get_configuration()
        if api_keys is not None:
            configuration = with_keys(configuration, "groq", api_keys)
        has_keys = any(key.provider == "groq" for key in configuration.keys)
        if not has_keys and configuration.replay != "only":
            raise NoKeys(no_keys(configuration, ["groq"]))
        super().__init__(providers=["groq"], configuration=configuration)

    def get_usage_summary(self) -> dict[str, Any]:
        """Return Groq's usage per key and limit, like `QuotaTracker.get_usage_summary("groq")`."""
        return self.quota_tracker.get_usage_summary("groq")
