"""First come, first served: threads that wait for the same routes continue in their order."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from .processes import new_lock

_lines: dict[Hashable, WaitingLine] = {}
_lock = new_lock()


class WaitingLine:
    """The requests of this process that wait for one set of routes."""

    def __init__(self) -> None:
        # The key is the identity of the ticket; its event is set when it is first in line.
        self._turns: dict[int, threading.Event] = {}
        self._lock = new_lock()

    def may_go(self, ticket: object) -> bool:
        """Return whether the line is empty, or the ticket is first in it."""
        with self._lock:
            return next(iter(self._turns), id(ticket)) == id(ticket)

    def join(self, ticket: object) -> None:
        """Take a place at the end of the line; no effect if the ticket already has a place."""
        with self._lock:
            self._turns.setdefault(id(ticket), threading.Event())
            self._call_first()

    def leave(self, ticket: object) -> None:
        """Leave the line."""
        with self._lock:
            self._turns.pop(id(ticket), None)
            self._call_first()

    def await_turn(self, ticket: object, seconds: float) -> None:
        """Sleep until the ticket is first in line, for at most `seconds`."""
        with self._lock:
            turn = self._turns.get(id(ticket))
        if turn:
            turn.wait(seconds)

    def _call_first(self) -> None:
        for turn in self._turns.values():
            turn.set()
            return


@contextmanager
def waiting_line(routes: Hashable, ticket: object) -> Iterator[WaitingLine]:
    """The line of a set of routes; the ticket leaves it at the end of the `with`."""
    with _lock:
        if (line := _lines.get(routes)) is None:
            line = _lines[routes] = WaitingLine()
    try:
        yield line
    finally:
        line.leave(ticket)


if hasattr(os, "register_at_fork"):
    # The waiting threads exist only in the parent process.
    os.register_at_fork(after_in_child=_lines.clear)
