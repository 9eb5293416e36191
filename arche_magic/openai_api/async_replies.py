"""`handle` for code that awaits: each request has a thread of a bounded pool to itself.

The thread reads a stream as fast as it comes, so a slow reader holds up no other request.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Self

from arche_magic.llm_providers.stopping import in_a_thread

from .wire import HttpReply

_MOST_THREADS = 64
"""Requests under way at once; others wait for a thread. They wait for the network, not the CPU."""


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="arche-openai")


if hasattr(os, "register_at_fork"):
    # A forked child has the pool but not its threads.
    os.register_at_fork(after_in_child=_threads.cache_clear)


async def replied(answer: Callable[[], HttpReply]) -> tuple[HttpReply, AsyncChunks | None]:
    """What `handle` returns, and the chunks of its body if it is a stream.

    Cancelling it, or closing the chunks, stops the request and waits until it is booked, but at
    most two seconds.

    Args:
        answer: calls `handle`.
    """
    chunks = AsyncChunks(answer)
    try:
        return await chunks.head(), chunks if chunks.is_stream else None
    except BaseException:
        await chunks.aclose()
        raise


class AsyncChunks(AsyncIterator[bytes]):
    """One request in its thread: the head of its reply, then the chunks of its body.

    Args:
        answer: calls `handle`.
    """

    is_stream = False

    def __init__(self, answer: Callable[[], HttpReply]) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[HttpReply | bytes | None] = asyncio.Queue()
        self._request = asyncio.ensure_future(in_a_thread(lambda: self._run(answer), _threads()))
        self._request.add_done_callback(lambda _: self._arrived.put_nowait(None))

    async def head(self) -> HttpReply:
        """The reply, without the body of a stream.

        Raises what `answer` raises.
        """
        head = await self._arrived.get()
        if not isinstance(head, HttpReply):
            await self._request
            raise asyncio.CancelledError
        self.is_stream = not isinstance(head.body, bytes)
        if not self.is_stream:
            # The event loop may end with the reply, and would leave the task in the middle.
            await self._request
        return head

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._arrived.get()
        if isinstance(chunk, bytes):
            return chunk
        # For whoever asks again after the end.
        self._arrived.put_nowait(None)
        if not self._request.cancelled():
            self._request.result()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop the request."""
        if not self._request.done():
            self._request.cancel()
            await asyncio.wait([self._request])

    def _run(self, answer: Callable[[], HttpReply]) -> None:
        """Answer and read the body, in the thread of the request."""
        reply = answer()
        self._hand_over(reply)
        if not isinstance(reply.body, bytes):
            for chunk in reply.body:
                self._hand_over(chunk)

    def _hand_over(self, item: HttpReply | bytes) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, item)
        except RuntimeError:
            # The event loop was closed meanwhile: stop as if interrupted.
            raise KeyboardInterrupt from None
