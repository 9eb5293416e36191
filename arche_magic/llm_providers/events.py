"""The events of a request while it runs, and the iterator over a reply that arrives in pieces."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .tools import ToolCall, ToolRun

if TYPE_CHECKING:
    from .errors import LLMProviderError
    from .reply import Attempt, Reply
    from .types import Route


@dataclass(frozen=True)
class Waiting:
    """The loop waits for `route` to open in `seconds`; 0 means that earlier requests go first.

    `why` says what keeps it closed, or is "".
    """

    route: Route
    seconds: float
    why: str = ""


@dataclass(frozen=True)
class Started:
    """A call to `route` starts; no text has arrived yet."""

    route: Route


@dataclass(frozen=True)
class Piece:
    """The next text of the reply. A kept reply is a single piece with `route` None."""

    text: str
    route: Route | None


@dataclass(frozen=True)
class Discarded:
    """The text so far is discarded, and the reply starts over.

    The reply broke off, the provider withheld the rest, or the reply does not fit the schema and is
    requested once more. `error` is for callers that cannot take text back.
    """

    attempt: Attempt
    error: LLMProviderError


Event = Waiting | Started | Piece | Discarded | ToolCall | ToolRun
"""A `ToolCall` is about to run, and a `ToolRun` has ended; see `functions`."""
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


def reply_of(
    events: Generator[Event, None, Reply], on_event: Callable[[Event], object] | None = None
) -> Reply:
    """Run a request to its end and return the reply; `on_event` is called with each event."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            reply: Reply = end.value
            return reply
        if on_event:
            on_event(event)
