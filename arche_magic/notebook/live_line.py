"""Follows a request: passes its events to a view, and shows a line about its current state."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from contextvars import copy_context
from typing import Protocol

from arche_magic.llm_providers import ToolCall, ToolRun
from arche_magic.llm_providers.events import Discarded, Event, Started, Waiting, reply_of
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.secrets import without_locals
from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.text.wording import joined
from arche_magic.llm_providers.types import in_seconds

# It reads environment variables, which may hold keys: no traceback may show its locals.
_terminal_size = without_locals(shutil.get_terminal_size)

# No line is shown for a reply that arrives sooner.
_FIRST_SECONDS = 0.1
_TICK_SECONDS = 1.0
# Maximum characters of a reason.
_WHY = 80


class View(Protocol):
    """Shows a request while it runs."""

    def before(self, event: Waiting | Started) -> None:
        """Show which route the request waits for or asks; `line_of` has the words."""

    def add(self, text: str) -> None:
        """Add the next text of the reply."""

    def start_over(self, event: Discarded) -> None:
        """Discard the text so far, because the reply starts over."""


def follow(
    events: Generator[Event, None, Reply],
    view: View,
    on_tool: Callable[[ToolCall | ToolRun], None] | None = None,
) -> Reply:
    """Run a request and pass its events to the view; returns the reply.

    `on_tool` is called before and after each function call. However the request ends, its
    connection is closed and its usage is counted.
    """

    def show(event: Event) -> None:
        if isinstance(event, Waiting | Started):
            view.before(event)
        elif isinstance(event, Discarded):
            view.start_over(event)
        elif isinstance(event, ToolCall | ToolRun):
            if on_tool:
                on_tool(event)
        else:
            view.add(event.text)

    with closing(events):
        return reply_of(events, show)


class LiveLine:
    """Draws a line once a second from a thread, until it is stopped.

    Args:
        draw: shows a line in place of the previous one; "" removes it. It is not called between
            `silence` and the next `say`.
    """

    def __init__(self, draw: Callable[[str], None]) -> None:
        self._draw = draw
        # The lock is reentrant, because an interrupt may come while it is held.
        self._lock = threading.RLock()
        self._line: Callable[[float], str] | None = None
        self._since = 0.0
        self._drawn = ""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def say(self, line: Callable[[float], str]) -> None:
        """Show a line from now on; `line` gets the seconds since this call."""
        with self._lock:
            self._line, self._since = line, time.monotonic()
            if self._thread is None:
                # The context determines to which cell an output belongs.
                self._thread = threading.Thread(
                    target=copy_context().run, args=(self._run,), name="arche_magic line",
                    daemon=True,
                )  # fmt: skip
                self._thread.start()
            elif self._drawn:
                # Drawn immediately, because the display must not be a second late.
                self._tick()

    def silence(self) -> None:
        """Remove the line, and draw nothing until the next `say`."""
        with self._lock:
            self._line = None
            if self._drawn:
                self._drawn = ""
                self._draw("")

    def end(self) -> None:
        """Remove the line, and stop drawing."""
        self._ended.set()
        self.silence()

    def _run(self) -> None:
        pause = _FIRST_SECONDS
        while not self._ended.wait(pause):
            pause = _TICK_SECONDS
            self._tick()

    def _tick(self) -> None:
        with self._lock:
            if self._line is None:
                return
            line = self._line(time.monotonic() - self._since)
            if line != self._drawn:
                self._drawn = line
                self._draw(line)


class TerminalLine:
    """One line of a terminal that is overwritten.

    It `works` only in a terminal; a log or a pipe cannot take text back.
    """

    def __init__(self) -> None:
        self.works: bool = sys.stdout.isatty()
        self._width = 0

    def write(self, text: str) -> None:
        """Show a text in place of the previous one; "" removes it."""
        if not self.works or not (text or self._width):
            return
        # A line that wraps could not be overwritten.
        text = without_controls(text)[: max(20, _terminal_size().columns - 1)]
        print("\r" + text.ljust(self._width) + ("" if text else "\r"), end="", flush=True)
        self._width = len(text)


def timed(line: str) -> Callable[[float], str]:
    """`LINE … 4 s`."""
    return lambda seconds: f"{line} … {math.floor(seconds)} s" if seconds >= 1 else f"{line} …"


choosing = timed("choosing a route")
"""The line of a request that has no route yet."""


def starting_over(event: Discarded) -> str:
    """`groq · key 1 · gpt-oss-120b failed: stream broke off; starting over`."""
    return joined((str(event.attempt), "starting over"))


def line_of(event: Waiting | Started) -> Callable[[float], str]:
    """`asking groq · key 1 · gpt-oss-120b … 4 s`, or that it waits until that route opens.

    `waiting: groq · key 1 · gpt-oss-120b opens in 12 s (0 of 30 requests per minute left)`.
    """
    if isinstance(event, Started):
        return timed(f"asking {event.route}")
    if event.seconds <= 0:
        return lambda seconds: f"waiting: {event.route} is open, but other requests are ahead"
    why = f" ({textwrap.shorten(event.why, _WHY, placeholder=' …')})" if event.why else ""
    return lambda seconds: (
        f"waiting: {event.route} opens {in_seconds(max(0.0, event.seconds - seconds))}{why}"
    )
