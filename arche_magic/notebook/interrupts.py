"""Kernel -> Interrupt and Ctrl-C, pressed once or several times."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_IGNORED_SECONDS = 1.0


class CellInterrupted(KeyboardInterrupt):
    """The user interrupted a cell; the text so far stays visible and is counted."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


@contextmanager
def one_interrupt() -> Iterator[None]:
    """In this context, an interrupt always ends the current request.

    Python drops a KeyboardInterrupt in a finalizer or a weak reference's callback, and an SDK may
    turn it into its own error. So the interrupt is also noted, and the request ends a moment later.

    For one second, further interrupts are ignored, because they would disturb closing the
    connection and counting the usage. After that, an interrupt stops whatever is running.
    """
    from arche_magic.llm_providers.stopping import stopped_by

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    last = -_IGNORED_SECONDS
    pressed = threading.Event()

    def interrupt(number: int, frame: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _IGNORED_SECONDS:
            last = now
            pressed.set()
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        with stopped_by(pressed):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
