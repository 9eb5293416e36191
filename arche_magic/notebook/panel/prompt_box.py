"""The panel's prompt box: one prompt at a time, sent by a thread so that the kernel stays free."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from ..command import Session


class PanelPrompt:
    """One prompt, sent by a thread.

    Args:
        session: notes why a prompt was not sent.
        show: called with a line about the prompt for each change to draw, and at the end with the
            reply. It is called from another thread, until the prompt is stopped.

    Attributes:
        text: the text so far.
        busy: whether the prompt is running.
    """

    def __init__(
        self,
        session: Session,
        prompt: Prompt,
        options: Mapping[str, Any],
        show: Callable[[str, Reply | None], None],
    ) -> None:
        self.text, self.busy = "", True
        self._session, self._prompt, self._options, self._show = session, prompt, options, show
        # This lock is held while something is shown, so that nothing is shown after `stop`.
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._pace = Pace()
        self._line = LiveLine(self._draw_line)

    def start(self) -> None:
        """Send the prompt."""
        self._tell("asking …")
        threading.Thread(target=self._run, name="arche_magic prompt", daemon=True).start()

    def stop(self) -> None:
        """Stop the prompt: its connection is closed, and its tokens so far are counted."""
        with self._lock:
            self.busy = False
            self._stopped.set()

    def _run(self) -> None:
        self._line.say(live_line.choosing)
        reply = None
        try:
            with stopped_by(self._stopped), self._session.noting_unsent():
                question = Message("user", self._prompt.text, self._prompt.images)
                events = IntelligentLLMOrchestrator().events([question], **self._options)
                reply = follow(events, self)
        except KeyboardInterrupt:
            return
        except LLMProviderError as error:
            line = f"{type(error).__name__}: {error}"
        else:
            self.text, line = str(reply), "; ".join(self._prompt.notes)
        finally:
            self._line.end()
        self._tell(line, reply, busy=False)

    def before(self, event: Waiting | Started) -> None:
        """Show which route the request waits for or asks."""
        self._line.say(live_line.line_of(event))

    def add(self, text: str) -> None:
        """Add the next text of the reply."""
        self._line.silence()
        self.text += text
        self._draw()

    def start_over(self, event: Discarded) -> None:
        """Discard the text so far, because the reply starts over."""
        self.text = ""
        self._draw()

    def _draw_line(self, line: str) -> None:
        if line:
            self._tell(f"⏳ {line}")

    def _draw(self) -> None:
        if self._pace.is_due(len(self.text)):
            self._tell("answering …")

    def _tell(self, line: str, reply: Reply | None = None, *, busy: bool = True) -> None:
        with self._lock:
            if not self._stopped.is_set():
                self.busy = busy
                self._show(line, reply)
