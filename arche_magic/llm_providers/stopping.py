"""Stopping a request: by an interrupt of the main thread, or from another thread."""

from __future__ import annotations

# `signal` makes an enum of each handler, which takes ten times as long as setting it.
import _signal  # type: ignore[import-not-found]
import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import asyncio
    from types import FrameType

T = TypeVar("T")

THREAD_NAME = "arche-request"
# Requests of one event loop at the same time; others wait.
_MOST_THREADS = 64
# By event loop: limits the number of its requests in progress.
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
# Maximum time for a cancelled request to close its connection and count its usage.
_CANCEL_SECONDS = 2.0

_here = threading.local()


@contextmanager
def stopped_by(stop: threading.Event) -> Iterator[None]:
    """End the requests of this thread soon after `stop` is set, as an interrupt would.

    The connection is dropped and the usage is counted.

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
            # This must happen here, because the exception may come just before `__exit__` would do
            # it.
            handle_interrupts(self._handler)
            raise


# Not functions of Python, because each request calls them several times.
interrupt_handler: Callable[[], Any] = partial(_signal.getsignal, _signal.SIGINT)
"""Returns what handles an interrupt; not callable if none does in Python."""

handle_interrupts: Callable[[Callable[[int, FrameType | None], object]], object]
handle_interrupts = partial(_signal.signal, _signal.SIGINT)
"""Handles interrupts by a function; only the main thread may set it."""


def is_main_thread() -> bool:
    """Return whether this thread is the one that interrupts reach."""
    return threading.current_thread() is threading.main_thread()


async def in_a_thread(request: Callable[[], T]) -> T:
    """Return what a request returns, or raise what it raises; cancelling stops the request.

    Cancelling waits until the request has ended, but at most two seconds. A request that still
    hangs then, as in a name lookup, sends nothing afterwards.
    """
    # Imported here, because its import takes long, and an interrupt must not leave it half done.
    import asyncio

    stop = threading.Event()
    try:
        ended = await start_in_a_thread(request, stop)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            await end_of(ended, stop)
            raise
    finally:
        # The event loop may be closed while this waits.
        stop.set()


async def start_in_a_thread(work: Callable[[], T], stop: threading.Event) -> asyncio.Future[T]:
    """Start work in a thread of its own when it is its turn, and return the future of its result.

    An event loop has at most 64 such threads; they wait for the network.

    Args:
        work: what to do; makes requests.
        stop: ends these requests once it is set; the future is then cancelled.

    Raises:
        RuntimeError: the process has reached its limit of threads.
    """
    import asyncio  # as above

    loop = asyncio.get_running_loop()
    turn = _turns.setdefault(loop, asyncio.Semaphore(_MOST_THREADS))
    await turn.acquire()
    future: asyncio.Future[T] = loop.create_future()
    # Read the exception, or asyncio logs that it was never retrieved.
    future.add_done_callback(lambda end: end.cancelled() or end.exception())

    def end(outcome: Callable[[], object]) -> None:
        turn.release()
        if not future.done():
            outcome()

    def run() -> None:
        outcome: Callable[[], object]
        with stopped_by(stop):
            try:
                outcome = partial(future.set_result, work())
            except KeyboardInterrupt:
                # A KeyboardInterrupt would end the event loop, which no longer waits for this
                # thread.
                outcome = partial(future.cancel)
            except BaseException as error:  # noqa: BLE001  # raised where the future is awaited
                outcome = partial(future.set_exception, error)
        with suppress(RuntimeError):  # the event loop was closed
            loop.call_soon_threadsafe(end, outcome)
        # An error refers to this frame, which refers to the error.
        del outcome

    # `to_thread` cannot be used, because nothing could wait for its thread after a cancellation.
    # The thread is a daemon, because a request that hangs in a name lookup must not keep the
    # process alive.
    run_here = partial(contextvars.copy_context().run, run)
    thread = threading.Thread(target=run_here, name=THREAD_NAME, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        turn.release()
        raise
    return future


async def end_of(future: asyncio.Future[Any], stop: threading.Event) -> None:
    """Stop what `start_in_a_thread` has started, and wait for its end, at most two seconds."""
    import asyncio  # as above

    stop.set()
    await asyncio.wait([future], timeout=_CANCEL_SECONDS)
