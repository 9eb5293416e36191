"""A request in a thread of its own, for code that awaits it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from .stopping import stopped_by

T = TypeVar("T")

# How long a cancelled request may take to drop its connection and to book what it spent.
_FAREWELL_SECONDS = 2.0


async def in_a_thread(request: Callable[[], T]) -> T:
    """What a request returns or raises; when this is cancelled, the request is stopped.

    Cancelling waits until the request has ended, for two seconds at most: a name lookup that hangs
    is left to itself, and sends nothing afterwards.
    """
    stop, begun = threading.Event(), threading.Event()

    def run() -> T:
        begun.set()
        with stopped_by(stop):
            try:
                return request()
            except KeyboardInterrupt:
                # Nobody waits any more, and asyncio lets this one end the whole event loop.
                raise asyncio.CancelledError from None

    # Not `to_thread`: cancelling it would lose the thread, which nobody could wait for any more.
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    ended = loop.run_in_executor(None, partial(context.run, run))
    # asyncio reports what nobody asks for.
    ended.add_done_callback(lambda end: end.cancelled() or end.exception())
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        stop.set()
        if begun.is_set():
            await asyncio.wait([ended], timeout=_FAREWELL_SECONDS)
        raise
    finally:
        # The event loop may also be closed while this waits.
        stop.set()
        ended.cancel()
