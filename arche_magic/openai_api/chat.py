"""Chat completions: asks the engine, and answers whole or in chunks."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.config import Configuration
from arche_magic.llm_providers.errors import LLMProviderError
from arche_magic.llm_providers.reply import Discarded, Event, Piece, Reply
from arche_magic.llm_providers.types import Route

from .errors import problem_of
from .replies import Chunks, completion, route_header
from .requests import ChatCall, read_chat, read_json
from .wire import DONE, HttpReply, Problem, event, json_reply

# The provider object of the configuration in use. It keeps the routes that it has found.
_asked: IntelligentLLMOrchestrator | None = None


def chat_completions(
    body: bytes, configuration: Configuration, options: Mapping[str, Any]
) -> HttpReply:
    """Answer `POST /v1/chat/completions`; see `handler.handle`.

    Raises:
        Problem: the request is wrong, or no route answered it.
    """
    fields = read_json(body)
    clock = configuration.clock
    began, seconds = clock.time(), configuration.timeouts.total
    try:
        call = read_chat(fields, configuration, options)
        seconds = call.request.timeout
        provider = _provider(configuration)
        # Choices come with the end of a reply, so such a reply has nothing to stream before.
        if call.stream and not call.request.needs_choices:
            return _Stream(call, provider).reply()
        reply = provider.ask(call.request)
    except LLMProviderError as error:
        now = clock.time()
        raise problem_of(error, now, fields, is_late=now - began >= seconds) from None
    if call.stream:
        return _events_of(reply, call)
    return json_reply(completion(reply), headers=route_header(reply.route))


def _provider(configuration: Configuration) -> IntelligentLLMOrchestrator:
    global _asked
    provider = _asked
    if provider is None or provider.configuration is not configuration:
        provider = _asked = IntelligentLLMOrchestrator(configuration=configuration)
    return provider


def _stream_reply(chunks: Iterator[bytes], route: dict[str, str]) -> HttpReply:
    headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    return HttpReply(200, headers | route, chunks)


def _events_of(reply: Reply, call: ChatCall) -> HttpReply:
    """The stream of a reply that has arrived."""

    def chunks() -> Iterator[bytes]:
        for chunk in Chunks(reply.model, include_usage=call.include_usage).whole(reply):
            yield event(chunk)
        yield DONE

    return _stream_reply(chunks(), route_header(reply.route))


@dataclass
class _Stream:
    """One streamed request; its status is known when its first text has arrived."""

    call: ChatCall
    provider: IntelligentLLMOrchestrator

    def reply(self) -> HttpReply:
        """The response, once there is something to send.

        Raises:
            LLMProviderError: there will not be.
        """
        events = self.provider.events_of(self.call.request)
        try:
            while True:
                first = next(events)
                if isinstance(first, Piece) and first.route is not None:
                    break
                # A kept reply is one piece, and its route comes with its end.
        except StopIteration as end:
            return _events_of(end.value, self.call)
        chunks = self._chunks(first.text, first.route, events)
        # Started, so that closing it before the first chunk is read also closes the request.
        next(chunks)
        return _stream_reply(chunks, route_header(first.route.id))

    def _chunks(
        self, text: str, route: Route, events: Generator[Event, None, Reply]
    ) -> Iterator[bytes]:
        chunks = Chunks(route.model, include_usage=self.call.include_usage)
        try:
            yield b""
            yield event(chunks.first())
            yield event(chunks.text(text))
            try:
                while True:
                    got = next(events)
                    if isinstance(got, Piece):
                        yield event(chunks.text(got.text))
                    elif isinstance(got, Discarded):
                        # Text that was sent cannot be taken back, so the reply ends here.
                        raise got.error
            except StopIteration as end:
                for chunk in chunks.end(end.value):
                    yield event(chunk)
                yield DONE
        except LLMProviderError as error:
            yield event(self._broken(error).body())
        finally:
            events.close()

    def _broken(self, error: LLMProviderError) -> Problem:
        return problem_of(error, self.provider.configuration.clock.time(), self.call.fields)
