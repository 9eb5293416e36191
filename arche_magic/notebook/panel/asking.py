"""The panel's prompt box: one prompt at a time, sent by a thread so that the kernel stays free."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.errors import LLMProviderError
from arche_magic.llm_providers.reply import Discarded, Reply, Started, Waiting
from arche_magic.llm_providers.stopping import stopped_by

from .. import live_line
from ..display import Pace
from ..live_line import LiveLine, follow


@dataclass(frozen=True)
class Draft:
    """What the prompt box shows: the text so far, a line about it, and finally the reply."""

    text: str = ""
    line: str = ""
    busy: bool = False
    reply: Reply | None = None


class Asking:
    """Sends prompts and passes on drafts of their replies.

    Args:
        show: called with each draft, from another thread.
    """

    def __init__(self, show: Callable[[Draft], None]) -> None:
        self._show = show
        self._lock = threading.Lock()
        # Set to stop the current prompt.
        self._current: threading.Event | None = None

    def send(self, prompt: str, options: Mapping[str, Any]) -> None:
        """Send a prompt, unless another one is running."""
        with self._lock:
            if self._current is not None:
                return
            self._current = ticket = threading.Event()
        self._tell(ticket, Draft(busy=True, line="asking …"))
        threading.Thread(
            target=self._run, args=(ticket, prompt, options), name="arche_magic prompt", daemon=True
        ).start()

    def stop(self) -> None:
        """Stop the prompt: its connection is closed, and its tokens so far are counted."""
        with self._lock:
            if self._current is not None:
                self._current.set()
            self._current = None

    def _run(self, ticket: threading.Event, prompt: str, options: Mapping[str, Any]) -> None:
        view = _Growing(partial(self._tell, ticket))
        try:
            with stopped_by(ticket), closing(view):
                reply = follow(IntelligentLLMOrchestrator().events(prompt, **options), view)
        except KeyboardInterrupt:
            return
        except LLMProviderError as error:
            self._tell(ticket, Draft(view.text, f"{type(error).__name__}: {error}"))
        else:
            self._tell(ticket, Draft(str(reply), reply=reply))

    def _tell(self, ticket: object, draft: Draft) -> None:
        with self._lock:
            if self._current is not ticket:
                return
            if not draft.busy:
                self._current = None
            self._show(draft)


class _Growing:
    """The view of one prompt: a draft for each change that is worth drawing."""

    def __init__(self, tell: Callable[[Draft], None]) -> None:
        self.text = ""
        self._tell = tell
        self._pace = Pace()
        self._line = LiveLine(self._draw_line)
        self._line.say(live_line.choosing)

    def close(self) -> None:
        """Show no further line."""
        self._line.end()

    def waiting(self, event: Waiting) -> None:
        """Show which route the request waits for."""
        self._line.say(live_line.waiting(event))

    def started(self, event: Started) -> None:
        """Show which route is asked."""
        self._line.say(live_line.started(event))

    def add(self, text: str) -> None:
        """Add the next text of the reply."""
        self._line.silence()
        self.text += text
        self._draw()

    def start_over(self, event: Discarded) -> None:
        """Forget the text so far: the reply starts over."""
        self.text = ""
        self._draw()

    def _draw_line(self, line: str) -> None:
        if line:
            self._tell(Draft(self.text, f"⏳ {line}", busy=True))

    def _draw(self) -> None:
        if self._pace.is_due(len(self.text)):
            self._tell(Draft(self.text, "answering …", busy=True))
