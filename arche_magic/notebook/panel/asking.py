"""The panel's prompt box: one prompt at a time, sent by a thread so that the kernel stays free."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.errors import LLMProviderError
from arche_magic.llm_providers.events import Discarded, Started, Waiting
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Message
from arche_magic.llm_providers.stopping import stopped_by
from arche_magic.prompts import Prompt

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
    """One prompt, sent by a thread; it passes on a draft for each change that is worth drawing.

    Args:
        show: called with each draft, from another thread, until the prompt is stopped.
    """

    def __init__(
        self, prompt: Prompt, options: Mapping[str, Any], show: Callable[[Draft], None]
    ) -> None:
        self._prompt, self._options, self._show = prompt, options, show
        # Held while a draft is shown: none is shown after `stop`.
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._text = ""
        self._pace = Pace()
        self._line = LiveLine(self._draw_line)

    def start(self) -> None:
        """Send the prompt."""
        self._tell(Draft(busy=True, line="asking …"))
        threading.Thread(target=self._run, name="arche_magic prompt", daemon=True).start()

    def stop(self) -> None:
        """Stop the prompt: its connection is closed, and its tokens so far are counted."""
        with self._lock:
            self._stopped.set()

    def _run(self) -> None:
        self._line.say(live_line.choosing)
        try:
            with stopped_by(self._stopped):
                question = Message("user", self._prompt.text, self._prompt.images)
                events = IntelligentLLMOrchestrator().events([question], **self._options)
                reply = follow(events, self)
        except KeyboardInterrupt:
            return
        except LLMProviderError as error:
            end = Draft(self._text, f"{type(error).__name__}: {error}")
        else:
            end = Draft(str(reply), "; ".join(self._prompt.notes), reply=reply)
        finally:
            self._line.end()
        self._tell(end)

    def before(self, event: Waiting | Started) -> None:
        """Show which route the request waits for or asks."""
        self._line.say(live_line.line_of(event))

    def add(self, text: str) -> None:
        """Add the next text of the reply."""
        self._line.silence()
        self._text += text
        self._draw()

    def start_over(self, event: Discarded) -> None:
        """Forget the text so far: the reply starts over."""
        self._text = ""
        self._draw()

    def _draw_line(self, line: str) -> None:
        if line:
            self._tell(Draft(self._text, f"⏳ {line}", busy=True))

    def _draw(self) -> None:
        if self._pace.is_due(len(self._text)):
            self._tell(Draft(self._text, "answering …", busy=True))

    def _tell(self, draft: Draft) -> None:
        with self._lock:
            if not self._stopped.is_set():
                self._show(draft)
