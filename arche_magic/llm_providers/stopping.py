"""Stopping a request: by an interrupt of the main thread, or from another thread."""

from __future__ import annotations

# What `signal` is made of; its own functions also build enums, which takes ten times as long.
import _signal  # type: ignore[import-not-found]
import contextvars
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from types import FrameType

T = TypeVar("T")

# Maximum time for a cancelled request to close its connection and count its usage.
_CANCEL_SECONDS = 2.0

_INTERRUPT = int(signal.SIGINT)
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


class KeptInterrupts:
    """A `with` block in which no interrupt of the main thread is lost; may be entered repeatedly.

    Python drops a KeyboardInterrupt in a finalizer or a weak reference's callback, pydantic drops
    one in a serializer, and SDKs turn one into their own error. So the interrupt is also noted, and
    raised at the end of the block. Other threads receive no interrupts.

    Attributes:
        noted: whether an interrupt came.
    """

    def __init__(self) -> None:
        self.noted = False
        self._handler: Any = None

    def __enter__(self) -> None:
        # In a notebook's cell, the handler of the cell notes it.
        if is_main_thread() and stop_of_this_thread() is None:
            handler = interrupt_handler()
            if callable(handler):
                self._handler = handler
                handle_interrupts(self._note)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._handler is not None:
            handle_interrupts(self._handler)
            self._handler = None
        if self.noted and (kind is None or issubclass(kind, Exception)):
            raise KeyboardInterrupt from None

    def _note(self, number: int, frame: FrameType | None) -> None:
        try:
            # A program's own handler may do anything else.
            self._handler(number, frame)
        except KeyboardInterrupt:
            self.noted = True
            # Here, because the exception may come just before `__exit__` would do so.
            handle_interrupts(self._handler)
            raise


def interrupt_handler() -> Any:
    """Return what handles an interrupt; not callable if none does in Python."""
    return _signal.getsignal(_INTERRUPT)


def handle_interrupts(handler: Callable[[int, FrameType | None], object]) -> None:
    """Handle interrupts by this function; only the main thread may set it."""
    _signal.signal(_INTERRUPT, handler)


def is_main_thread() -> bool:
    """Return whether this thread is the one that interrupts reach."""
    return threading.current_thread() is threading.main_thread()


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
