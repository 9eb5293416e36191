"""Stops a request of another thread, because an interrupt reaches only the main thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
    """The event that stops the requests of this thread, or None."""
    stop: threading.Event | None = getattr(_here, "stop", None)
    return stop


def raise_if_stopped() -> None:
    """Raise KeyboardInterrupt if the requests of this thread are stopped."""
    stop = stop_of_this_thread()
    if stop is not None and stop.is_set():
        raise KeyboardInterrupt
