"""One request of the server in a thread of its own, and its reply for the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from typing import TYPE_CHECKING, cast

from arche_magic.llm_providers.stopping import raise_if_stopped, stopped_by

if TYPE_CHECKING:
    from collections.abc import Generator

    from .handler import HttpReply

logger = logging.getLogger("arche_magic.openai_api")

THREAD_NAME = "arche-request"
# Chunks that may wait for a client that reads slowly; then the thread waits too.
_MOST_WAITING = 100
# How often a thread that waits for a slow client checks whether it must stop.
_WATCH_SECONDS = 0.1


class ClientGone(Exception):
    """The client has closed its connection, or the server stops."""


class ReplyBroken(Exception):
    """The reply ended in the middle because of an error of ours."""


class RequestThread:
    """Runs a request and passes its reply on, in parts, to the event loop that created it.

    The engine is synchronous, and a request can be stopped only through the thread that runs it:
    so the thread that asks is the one that reads the stream, to its end.

    Args:
        ask: makes the request.
        ended: called in the event loop when the thread ends.
    """

    def __init__(self, ask: Callable[[], HttpReply], ended: Callable[[], object]) -> None:
        self._ask, self._ended = ask, ended
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._room = threading.Semaphore(_MOST_WAITING)
        # The reply itself, the chunks of its body, and then None or the exception that ended it.
        self._news: asyncio.Queue[HttpReply | bytes | Exception | None] = asyncio.Queue()
        # A daemon: a request that hangs in a name lookup must not keep the process alive.
        thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The process has reached its limit of threads.
            self._news.put_nowait(ReplyBroken())
            ended()

    def leave(self) -> None:
        """Stop the request: the connection to the service is dropped, and the quota is settled."""
        self._stop.set()
        self._news.put_nowait(ClientGone())

    async def reply(self) -> HttpReply:
        """The status, the headers, and the body or an iterator of its chunks.

        Raises:
            ClientGone: `leave` was called.
            ReplyBroken: there is no reply because of an error of ours.
        """
        first = await self._news.get()
        if isinstance(first, Exception):
            raise first
        return cast("HttpReply", first)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body; chunks that arrived meanwhile come together.

        Raises:
            ClientGone: `leave` was called.
            ReplyBroken: the body ended in the middle.
        """
        while True:
            news = [await self._news.get()]
            while not self._news.empty():
                news.append(self._news.get_nowait())
            chunks = [one for one in news if isinstance(one, bytes)]
            if chunks:
                yield b"".join(chunks)
            for _ in chunks:
                self._room.release()
            end = news[-1]
            if isinstance(end, Exception):
                raise end
            if end is None:
                return

    def _run(self) -> None:
        try:
            with stopped_by(self._stop):
                self._tell(self._pass_on())
        finally:
            self._call(self._ended)

    def _pass_on(self) -> Exception | None:
        """Ask, and pass the reply on; returns what ended it too early, or None."""
        try:
            reply = self._ask()
            self._tell(reply)
            if isinstance(reply.body, bytes):
                self._tell(reply.body)
                return None
            # Closing the iterator of a stream stops its request.
            with closing(cast("Generator[bytes, None, None]", reply.body)) as body:
                for chunk in body:
                    self._wait_for_room()
                    self._tell(chunk)
        except KeyboardInterrupt:
            return ClientGone()
        except Exception as error:
            logger.exception("a request of the server failed (%s)", type(error).__name__)
            return ReplyBroken()
        return None

    def _wait_for_room(self) -> None:
        while not self._room.acquire(timeout=_WATCH_SECONDS) and not self._stop.is_set():
            pass
        raise_if_stopped()

    def _tell(self, news: HttpReply | bytes | Exception | None) -> None:
        self._call(lambda: self._news.put_nowait(news))

    def _call(self, work: Callable[[], object]) -> None:
        # The event loop is closed if the server had no time to wait for this thread.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work)
