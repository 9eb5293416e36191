"""First come, first served: threads that wait for the same routes go on in the order they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

_lines: dict[Hashable, WaitingLine] = {}
_lock = threading.Lock()


class WaitingLine:
    """Requests of this process that wait for one set of routes."""

    def __init__(self) -> None:
        self._tickets: deque[object] = deque()
        self._lock = threading.Lock()

    def may_go(self, ticket: object) -> bool:
        """Whether nobody else came before: the line is empty, or the ticket is its first."""
        with self._lock:
            return not self._tickets or self._tickets[0] is ticket

    def join(self, ticket: object) -> None:
        """Take a place at the end; having one already changes nothing."""
        with self._lock:
            if not any(other is ticket for other in self._tickets):
                self._tickets.append(ticket)

    def leave(self, ticket: object) -> None:
        """Give the place up, wherever it is."""
        with self._lock:
            self._tickets = deque(other for other in self._tickets if other is not ticket)


@contextmanager
def waiting_line(routes: Hashable, ticket: object) -> Iterator[WaitingLine]:
    """The line of a set of routes; at the end the ticket's place in it is free."""
    with _lock:
        line = _lines.setdefault(routes, WaitingLine())
    try:
        yield line
    finally:
        line.leave(ticket)
