"""Kernel -> Interrupt and Ctrl-C, pressed by someone who is impatient."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_DEALING_SECONDS = 1.0


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Within it, a press ends the request under way, whatever becomes of the interrupt itself.

    Python drops one that comes while a finalizer or a weak reference's callback runs, and an SDK
    may turn it into an error of its own. So it is noted, too, and the request ends a moment later.

    A second press is passed over while the first one is being dealt with: it would tear the closing
    of the connection and the booking of what was spent. Pressed again after a second, it interrupts
    whatever goes on.
    """
    from arche_magic.llm_providers.stopping import stopped_by

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    last = -_DEALING_SECONDS
    pressed = threading.Event()

    def interrupt(number: int, frame: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _DEALING_SECONDS:
            last = now
            pressed.set()
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        with stopped_by(pressed):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
