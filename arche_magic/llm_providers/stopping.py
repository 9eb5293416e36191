"""Stopping a request that runs in another thread, where an interrupt does not reach it."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

T = TypeVar("T")

# Maximum time for a cancelled request to close its connection and count its usage.
_CANCEL_SECONDS = 2.0

_here = threading.local()


@contextmanager
def stopped_by(stop: threading.Event) -> Iterator[None]:
    """End the requests of this thread soon after `stop` is set, as an interrupt would.

    The connection is dropped and what was spent is booked.

    Raises (from the request): KeyboardInterrupt.
    """
    before = stop_of_this_thread()
    _here.stop = stop
    try:
        yield
    finally:
        _here.stop = before


def stop_of_this_thread() -> threading.Event | None:
    """Return the event that stops the requests of this thread, or None."""
    stop: threading.Event | None = getattr(_here, "stop", None)
    return stop


def raise_if_stopped() -> None:
    """Raise KeyboardInterrupt if the requests of this thread are stopped."""
    stop = stop_of_this_thread()
    if stop is not None and stop.is_set():
        raise KeyboardInterrupt


def comes_from_an_interrupt(error: BaseException) -> bool:
    """Return whether an interrupt was turned into an error, as in the middle of a class statement.

    Python 3.11 wraps what `__set_name__` raises in a RuntimeError. While a request is written,
    pydantic builds classes, and wraps what a serializer raises.
    """
    link: BaseException | None = error
    while link is not None and not isinstance(link, KeyboardInterrupt):
        link = link.__cause__ or link.__context__
    return link is not None


async def in_a_thread(request: Callable[[], T]) -> T:
    """Return what a request returns, or raise what it raises; cancelling stops the request.

    Cancelling waits until the request has ended, but at most two seconds. A request that still
    hangs then, as in a name lookup, sends nothing afterwards.
    """
    # Imported here: its import takes long, and an interrupt must not leave it half done.
    import asyncio

    stop, begun = threading.Event(), threading.Event()

    def run() -> T:
        begun.set()
        with stopped_by(stop):
            try:
                return request()
            except KeyboardInterrupt:
                # A KeyboardInterrupt would end the event loop, which awaits nothing here any more.
                raise asyncio.CancelledError from None

    # Not `to_thread`: after cancelling it, nothing could wait for the thread.
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    ended = loop.run_in_executor(None, partial(context.run, run))
    # Read the exception, or asyncio logs that it was never retrieved.
    ended.add_done_callback(lambda end: end.cancelled() or end.exception())
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        stop.set()
        if begun.is_set():
            await asyncio.wait([ended], timeout=_CANCEL_SECONDS)
        raise
    finally:
        # The event loop may be closed while this waits.
        stop.set()
        if not loop.is_closed():
            ended.cancel()
