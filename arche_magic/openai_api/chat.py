"""Chat completions: sends the request to the engine, and answers in one piece or in chunks."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.errors import LLMProviderError
from arche_magic.llm_providers.events import Discarded, Event, Piece
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Request

from .replies import (
    Chunks,
    HttpReply,
    api_error_of,
    completion,
    event,
    json_reply,
    route_header,
)
from .requests import read_chat, read_json


def chat_completions(
    body: bytes, llm: IntelligentLLMOrchestrator, options: Mapping[str, Any]
) -> HttpReply:
    """Answer `POST /v1/chat/completions`; see `handler.handle`.

    Raises:
        ApiError: the request is wrong.
        LLMProviderError: the request is wrong, or no route answered it.
    """
    request, stream, include_usage = read_chat(read_json(body), llm.configuration, options)
    # Several choices arrive only at the end of a reply, so nothing can be streamed before that.
    if stream and not request.needs_choices:
        return _streamed(request, include_usage, llm)
    reply = llm.ask(request)
    if stream:
        return _events_of(reply, include_usage)
    return json_reply(completion(reply), headers=route_header(reply.route))


def _stream_reply(chunks: Iterator[bytes], route: dict[str, str]) -> HttpReply:
    headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    return HttpReply(200, headers | route, chunks)


def _events_of(reply: Reply, include_usage: bool) -> HttpReply:
    """Return the stream of a reply that has arrived."""
    chunks = Chunks(reply.model, include_usage)
    return _stream_reply(chunks.whole(reply), route_header(reply.route))


def _streamed(request: Request, include_usage: bool, llm: IntelligentLLMOrchestrator) -> HttpReply:
    """Return the response of a streamed request, once its first text has arrived."""
    events = llm.events_of(request)
    try:
        while True:
            first = next(events)
            if isinstance(first, Piece) and first.route is not None:
                break
            # A kept reply is one piece, and its route is known only at its end.
    except StopIteration as end:
        return _events_of(end.value, include_usage)
    chunks = Chunks(first.route.model, include_usage)
    stream = _events(chunks, llm, first.text, events)
    # Started, so that closing it before the first chunk is read also closes the request.
    next(stream)
    return _stream_reply(stream, route_header(first.route.id))


def _events(
    chunks: Chunks, llm: IntelligentLLMOrchestrator, text: str,
    events: Generator[Event, None, Reply],
) -> Iterator[bytes]:  # fmt: skip
    """Yield the events of a streamed request, from its first text on."""
    try:
        yield b""
        yield chunks.first()
        yield chunks.text(text)
        try:
            while True:
                got = next(events)
                if isinstance(got, Piece):
                    yield chunks.text(got.text)
                elif isinstance(got, Discarded):
                    # Text that was sent cannot be taken back, so the reply ends here.
                    raise got.error
        except StopIteration as end:
            yield from chunks.end(end.value)
    except LLMProviderError as error:
        yield event(api_error_of(error, llm.configuration.clock.time()).body())
    finally:
        events.close()
