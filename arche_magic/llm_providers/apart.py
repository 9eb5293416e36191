"""Work that an interrupt must not tear: imports above all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def apart(work: Callable[[], T]) -> T:
    """What `work` returns or raises, done in a thread of its own.

    Ctrl-C and Kernel -> Interrupt reach the main thread alone. In the middle of an import they
    leave half a package behind, which fails ever after (seen: `module 'openai' has no attribute
    'lib'`), or are swallowed by a bare `except`. Here they end the waiting at once, and the work
    goes on to its end, of use to the next call.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, name="arche_magic import").start()
    return done.result()
