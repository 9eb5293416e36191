"""A streamed reply as an iterator of its text, and the reply at the end of a request."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from .reply import Discarded, Event, Piece, Reply, Waiting

OnWait = Callable[[Waiting], object]


class ReplyStream(Iterator[str]):
    """The pieces of a reply as they arrive; `reply` is set after the last one."""

    reply: Reply | None = None

    def __init__(
        self, events: Generator[Event, None, Reply], on_wait: OnWait | None = None
    ) -> None:
        self._events = events
        self._on_wait = on_wait

    def __next__(self) -> str:
        while True:
            try:
                event = next(self._events)
            except StopIteration as end:
                if self.reply is None:
                    self.reply = end.value
                raise
            if isinstance(event, Piece):
                return event.text
            if isinstance(event, Waiting):
                if self._on_wait:
                    self._on_wait(event)
            elif isinstance(event, Discarded):
                # Text that was already yielded cannot be taken back, so the caller decides.
                self._events.close()
                raise event.error

    def close(self) -> None:
        """Stop the reply and close the connection."""
        self._events.close()


def reply_of(events: Generator[Event, None, Reply], on_wait: OnWait | None = None) -> Reply:
    """Return the reply at the end of a request; `on_wait` is called for each wait."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            reply: Reply = end.value
            return reply
        if on_wait and isinstance(event, Waiting):
            on_wait(event)
