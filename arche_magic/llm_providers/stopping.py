"""Stopping a request that another thread makes: an interrupt reaches the main thread alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_here = threading.local()


@contextmanager
def stopped_by(stop: threading.Event) -> Iterator[None]:
    """Requests of this thread end as by an interrupt, a moment after `stop` is set.

    Whatever they wait for by then, the connection is dropped and what was spent is booked.

    Raises (from the request): KeyboardInterrupt.
    """
    before = stop_of_this_thread()
    _here.stop = stop
    try:
        yield
    finally:
        _here.stop = before


def stop_of_this_thread() -> threading.Event | None:
    """What stops the requests of this thread, if anything does."""
    stop: threading.Event | None = getattr(_here, "stop", None)
    return stop


def raise_if_stopped() -> None:
    """Raise KeyboardInterrupt if the requests of this thread are stopped."""
    stop = stop_of_this_thread()
    if stop is not None and stop.is_set():
        raise KeyboardInterrupt
