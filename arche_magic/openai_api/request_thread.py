"""Runs one request in its own thread, and passes its reply to the event loop that awaits it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import closing, suppress
from typing import cast

from arche_magic.llm_providers.stopping import end_of, raise_if_stopped, start_in_a_thread

from .replies import HttpReply

# How often a thread that waits for a slow reader checks whether it must stop.
_WATCH_SECONDS = 0.1
# How long an ending event loop waits until the usage of a stream's request is counted.
_BOOKING_SECONDS = 2.0


class RequestThread:
    """Runs a request and passes its reply on, in parts, to the event loop that created it.

    The engine is synchronous, and a request can be stopped only through the thread that runs it. So
    the thread that sends the request also reads its stream to the end. Always call `aclose` at the
    end, even after a failure or a cancellation.

    Args:
        ask: calls `handle`.
        most_waiting: chunks that may wait for a slow reader before the thread waits too; any
            number if not given.
    """

    def __init__(self, ask: Callable[[], HttpReply], most_waiting: int | None = None) -> None:
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._ended: asyncio.Future[None] | None = None
        self._has_run = threading.Event()
        self._is_left = False
        self._room = threading.Semaphore(most_waiting) if most_waiting else None
        # The reply itself, the chunks of its body, and then None or the exception that ended it.
        self._news: asyncio.Queue[HttpReply | bytes | Exception | None] = asyncio.Queue()

    async def aclose(self) -> None:
        """Stop the request if it is running, and wait at most two seconds until its usage is
        counted.

        The connection to the service is dropped. After `chunks` was closed, this does not wait.
        """
        if self._ended is not None and not self._is_left:
            await end_of(self._ended, self._stop)

    async def reply(self) -> HttpReply:
        """Send the request in turn, and return the status, the headers, and the body or its chunks.

        Raises:
            Exception: what `ask` raised, or the process has reached its limit of threads.
        """
        self._ended = await start_in_a_thread(self._run, self._stop)
        first = await self._news.get()
        if isinstance(first, Exception):
            raise first
        if not isinstance(first, HttpReply):
            raise asyncio.CancelledError  # closed meanwhile
        return first

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body; chunks that have arrived meanwhile are joined.

        Raises:
            Exception: what reading the body raised.
        """
        try:
            while True:
                news = [await self._news.get()]
                while not self._news.empty():
                    news.append(self._news.get_nowait())
                chunks = [one for one in news if isinstance(one, bytes)]
                if chunks:
                    yield b"".join(chunks)
                if self._room is not None:
                    for _ in chunks:
                        self._room.release()
                end = news[-1]
                if isinstance(end, Exception):
                    raise end
                if end is None:
                    return
        except GeneratorExit:
            # An ending event loop closes the generators of all layers of a stream at the same time,
            # and prints an error if one of them closes another that waits here. So one of the
            # loop's threads waits, because the loop ends after its threads.
            self._is_left = True
            with suppress(RuntimeError):  # the loop has ended
                self._loop.run_in_executor(None, self._has_run.wait, _BOOKING_SECONDS)
            raise
        finally:
            # Older SDKs do not close a stream if its reader stops early.
            self._stop.set()

    def _run(self) -> None:
        end: Exception | None = None
        try:
            self._pass_on(self._ask())
        except KeyboardInterrupt:  # `aclose` was called
            pass
        except Exception as error:  # noqa: BLE001  # raised again where the reply is read
            end = error
        self._has_run.set()
        self._tell(end)

    def _pass_on(self, reply: HttpReply) -> None:
        self._tell(reply)
        if isinstance(reply.body, bytes):
            self._tell(reply.body)
            return
        # Closing the iterator of a stream stops its request.
        with closing(cast("Generator[bytes, None, None]", reply.body)) as body:
            for chunk in body:
                if self._room is not None:
                    while not (self._room.acquire(timeout=_WATCH_SECONDS) or self._stop.is_set()):
                        pass
                raise_if_stopped()
                self._tell(chunk)

    def _tell(self, news: HttpReply | bytes | Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)
        except RuntimeError:
            # The event loop was closed, so nothing reads the reply.
            self._stop.set()
