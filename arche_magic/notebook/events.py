"""The one reader of a request's events. A cell, a column of a comparison and the panel view it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Protocol

from arche_magic.llm_providers import ToolCall, ToolRun
from arche_magic.llm_providers.reply import Discarded, Event, Reply, Started, Waiting


class View(Protocol):
    """Shows a request while it runs."""

    def waiting(self, event: Waiting) -> None:
        """Show which route the request waits for."""
        ...

    def started(self, event: Started) -> None:
        """Show which route is asked."""
        ...

    def add(self, text: str) -> None:
        """Add the next text of the reply."""
        ...

    def start_over(self, event: Discarded) -> None:
        """Forget the text so far: the reply starts over."""
        ...


def follow(
    events: Generator[Event, None, Reply],
    view: View,
    on_tool: Callable[[ToolCall | ToolRun], None] | None = None,
) -> Reply:
    """Run a request and pass its events to the view; returns the reply.

    `on_tool` is told of calls of functions, before and after each. However it ends, the connection
    is closed and what was spent is booked.
    """
    with closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                reply: Reply = end.value
                return reply
            if isinstance(event, Waiting):
                view.waiting(event)
            elif isinstance(event, Started):
                view.started(event)
            elif isinstance(event, Discarded):
                view.start_over(event)
            elif isinstance(event, ToolCall | ToolRun):
                if on_tool:
                    on_tool(event)
            else:
                view.add(event.text)
