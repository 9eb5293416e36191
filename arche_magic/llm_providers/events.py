"""Replies on their way: a request's events, a reply in pieces, and results that come later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .reply import Attempt, Reply
from .tools import ToolCall, ToolRun

if TYPE_CHECKING:
    from .errors import LLMProviderError
    from .types import Route

Value = TypeVar("Value")

# Windows delivers an interrupt only between two waits.
_WATCH_SECONDS = 0.2
_OF_A_REPLY = frozenset(dir(Reply("")))


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


class Pending(Generic[Value]):
    """A result that has not arrived yet: `pending.wait()` and `await pending` wait for and return
    it.

    Args:
        about: the text of its repr until the result arrives.
        on_wait: called each time a wait ends.
    """

    _what = "result"

    def __init__(self, about: Callable[[], str], on_wait: Callable[[], None]) -> None:
        self._about, self._on_wait = about, on_wait
        self._ended = threading.Event()
        self._end: Value | Exception | None = None

    @property
    def done(self) -> bool:
        """Whether it has succeeded or failed."""
        return self._ended.is_set()

    def finish(self, end: Value | Exception) -> None:
        """Set the result or the error. This ends every wait."""
        self._end = end
        self._ended.set()

    def wait(self, timeout: float | None = None) -> Value:
        """Wait for the result, at most `timeout` seconds if given, and return it.

        An interrupt ends the waiting, not the work.

        Raises:
            TimeoutError: it did not arrive in time.
            LLMProviderError: it failed, or was stopped.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ended.wait(_WATCH_SECONDS if deadline is None else 0):
            if deadline is None:
                continue
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError(f"no {self._what} within {timeout:g} s: {self._about()}")
            self._ended.wait(min(_WATCH_SECONDS, left))
        self._on_wait()
        if isinstance(self._end, Exception):
            raise self._end
        return cast("Value", self._end)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._about()}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Wait for the result, so that `%store`, pickles and copies contain it."""
        return self.wait().__reduce_ex__(4)

    def __await__(self) -> Generator[Any, None, Value]:
        # Imported here, because its import takes long.
        import asyncio

        return asyncio.to_thread(self.wait).__await__()


class PendingReply(Pending[Reply]):
    """A reply that has not arrived yet. Any use waits for it: `str(pending)`, `pending.usage`."""

    _what = "reply"

    @property
    def replied(self) -> bool:
        """Whether the reply has arrived."""
        return isinstance(self._end, Reply)

    def __str__(self) -> str:
        return str(self.wait())

    def __repr__(self) -> str:
        return repr(self._end) if isinstance(self._end, Reply) else super().__repr__()

    def _repr_markdown_(self) -> str | None:
        return self._end._repr_markdown_() if isinstance(self._end, Reply) else None

    def __getattr__(self, name: str) -> Any:
        # Code that searches a namespace, for frames or special names, must not wait.
        if name.startswith("_") or name not in _OF_A_REPLY:
            raise AttributeError(name)
        return getattr(self.wait(), name)
