"""The outputs of a cell: a reply that grows in one place, and other displays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from arche_magic.llm_providers import ToolCall, ToolRun
from arche_magic.llm_providers.events import Discarded, Started, Waiting
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.text.characters import unfinished, without_controls
from arche_magic.llm_providers.text.code_blocks import code_of

from . import live_line
from .display_hook import is_captured
from .live_line import LiveLine, TerminalLine
from .markup import beside
from .receipt import (
    call_line,
    interrupted_reply,
    receipt_bundle,
    receipt_line,
    reply_metadata,
    request_metadata,
    run_bundle,
)
from .reply_formats import (
    STRUCTURED,
    is_json,
    is_prose,
    reply_bundle,
    structured_bundle,
    unread_bundle,
)
from .styles import QUIET, escape, quiet_line

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from arche_magic.llm_providers.attempt_log import Ended


def show(shown: dict[str, str] | str) -> None:
    """Display a bundle, or print a text, in the running cell."""
    from IPython.display import display

    if isinstance(shown, str):
        print(without_controls(shown))
    else:
        display(for_frontends(shown), raw=True)


class Pace:
    """Decides when a growing text is redrawn.

    At most ten times a second, and only once it has grown by a fortieth: each draw sends the whole
    text, and a long reply must not cost megabytes.
    """

    _SECONDS, _GROWTH = 0.1, 1 / 40

    def __init__(self) -> None:
        self._next = 0.0
        self._length = 0

    def is_due(self, length: int) -> bool:
        """Whether to draw a text of this length now; if so, it counts as drawn."""
        now = time.monotonic()
        grown = length - self._length
        if grown >= 0 and (now < self._next or grown < self._length * self._GROWTH):
            return False
        self._next, self._length = now + self._SECONDS, length
        return True


class ReplyDisplay:
    """The view of one cell's reply: redrawn while it streams, and finally shown with its receipt.

    In a plain terminal, which cannot redraw, the pieces are printed as they arrive. An `old` reply
    to the same prompt is shown beside it.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        quiet: bool = False,
        form: str = "markdown",
        old: Reply | None = None,
    ) -> None:
        self._shell = shell
        self._old = old
        self._quiet = quiet
        self._form = form
        self._redraws = hasattr(shell, "kernel")
        self._place = CellOutput(shell)
        # `_before` is the text of a reply that broke off, until a new reply has replaced it.
        self._text = self._held = self._before = ""
        self._pace = Pace()
        self._printed = False
        self._waits_for = ""
        self._terminal_line = TerminalLine()
        self._line = LiveLine(self._draw_line)
        self._runs: ToolCall | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the request runs in this context, show a line about it until there is text."""
        try:
            # An interrupt may come as early as here; without this, the thread would draw the line
            # forever.
            if not self._quiet:
                self._line.say(live_line.choosing)
            yield
        finally:
            self._line.end()

    def note(self, line: str) -> None:
        """Show a note about the prompt above the reply."""
        if not self._quiet:
            show(quiet_line(line) if self._redraws else line)

    def before(self, event: Waiting | Started) -> None:
        """Show which route is asked, or which one the request waits for, why, and for how long."""
        if self._quiet:
            return
        line = live_line.line_of(event)
        if self._redraws or self._terminal_line.works or isinstance(event, Started):
            self._line.say(line)
        elif self._waits_for != str(event.route):
            # A log or a pipe gets one line per route.
            self._waits_for = str(event.route)
            show(line(0.0))

    def add(self, text: str) -> None:
        """Add the next piece."""
        self._text += text
        if self._quiet:
            return
        if not self._redraws:
            # Part of a JSON text is not shown.
            if self._form != STRUCTURED:
                self._line.silence()
                self._printed = True
                text = self._held + text
                end = len(text) - unfinished(text)
                print(without_controls(text[:end]), end="", flush=True)
                self._held = text[end:]
            return
        self._line.silence()
        if self._pace.is_due(len(self._text)):
            self._draw(self._beside_old(self._growing()))

    def start_over(self, event: Discarded) -> None:
        """Dim the text so far: it broke off or does not fit the schema, and starts over."""
        self._before = max(self._before, self._text, key=len)
        self._text = ""
        if not self._quiet:
            self._line.say(lambda seconds: live_line.starting_over(event))
        if self._printed:
            show(f"{self._held}\n[{live_line.starting_over(event)}]\n")
            self._held = ""

    def calling(self, call: ToolCall) -> None:
        """Show a running function below the text that the model wrote before the call."""
        self._before = ""
        if self._text and self._redraws:
            self._leave_above(self._growing())
        elif self._printed:
            show(self._held)
        self._text = self._held = self._waits_for = ""
        self._printed = False
        self._runs = call
        line = f"{call_line(call)} is running"
        self._line.silence()
        if self._redraws:
            self._draw(quiet_line(line))
        if not self._quiet:
            self._line.say(live_line.timed(line))

    def ran(self, run: ToolRun) -> None:
        """Show the function's result above the reply."""
        self._runs = None
        self._leave_above(run_bundle(run))

    def finish(self, reply: Reply, *more: str) -> None:
        """Show the whole reply and its receipt; `more` is added to the receipt's line.

        If the cell asked for code, Python code is offered as the next cell and not run. The code is
        also shown in this output, because a scheduled run loses the offer.
        """
        if self._quiet:
            return
        text = without_controls(str(reply))
        language, code = code_of(text) if self._form == "code" else ("", "")
        if self._form == "json" and not is_json(str(reply)):
            more = (*more, "not valid JSON")
        elif self._form == "code" and not code:
            more = (*more, "no code in it")
        elif self._form == "math" and is_prose(text):
            more = (*more, "no formula in it")
        shown, metadata = _shown(reply, self._form), {"arche_magic": reply_metadata(reply)}
        self._leave(shown, receipt_bundle(reply, *more), metadata)
        if self._form == "code" and language == "python":
            self._offer(code)

    def interrupted(self, ended: Ended | None) -> Reply | None:
        """Mark the output as interrupted; returns the part that arrived, or None if none did."""
        self._before = ""
        if self._runs:
            self._leave_above(quiet_line(f"{call_line(self._runs)} was interrupted"))
        if not self._text:
            self.failed(ended)
            return None
        reply = interrupted_reply(self._text, ended)
        if not self._quiet:
            line = "interrupted: the reply is not complete"
            if reply.provider:
                line += f" · {receipt_line(reply)}"
            self._leave(self._growing(), quiet_line(line), request_metadata(ended))
        return reply

    def mismatched(self, text: str, ended: Ended | None) -> None:
        """Show the reply that does not fit its schema; the error appears below it."""
        if not self._quiet:
            line = quiet_line("this does not fit the schema")
            self._leave(unread_bundle(text), line, request_metadata(ended))

    def failed(self, ended: Ended | None) -> None:
        """Remove a partial reply; the error says what happened.

        The attempts are kept in the metadata of an empty output, because errors have no metadata.
        """
        if self._redraws and self._place.may_redraw and (self._place or ended):
            self._draw({"text/plain": ""}, request_metadata(ended))
        elif self._printed:
            show(self._held)

    def _growing(self) -> dict[str, str]:
        if self._form == STRUCTURED:
            return unread_bundle(self._text)
        shown = reply_bundle(self._text, self._form, complete=False)
        if (rest := self._before[len(self._text) :]) and "text/markdown" in shown:
            shown["text/markdown"] += f"\n\n{_dimmed(rest)}"
        return shown

    def _draw_line(self, line: str) -> None:
        """Show a line where the reply will be; "" removes it."""
        if not self._redraws:
            self._terminal_line.write(line)
        elif line:
            shown = quiet_line(line)
            shown["text/html"] += _dimmed(self._before) if self._before else ""
            self._draw(self._beside_old(shown))

    def _leave_above(self, shown: dict[str, str]) -> None:
        """Make this the final state of this output; the reply continues in a new one below."""
        self._line.silence()
        if self._redraws:
            self._draw(shown, last=True)
            self._place, self._pace = CellOutput(self._shell), Pace()
        elif not self._quiet:
            show(shown["text/plain"])

    def _leave(
        self, shown: dict[str, str], receipt: dict[str, str], metadata: dict[str, Any]
    ) -> None:
        if self._redraws and self._old is not None:
            self._draw(self._beside_old(shown, receipt), metadata, last=True)
        elif self._redraws:
            self._draw(shown, metadata, last=True)
            self._show_receipt(receipt)
        else:
            text = self._held if self._printed else shown["text/plain"]
            show(text + "\n" + receipt["text/plain"])

    def _show_receipt(self, receipt: dict[str, str]) -> None:
        show(receipt)

    def _offer(self, code: str) -> None:
        self._shell.set_next_input(code)

    def _draw(
        self,
        bundle: dict[str, str],
        metadata: dict[str, Any] | None = None,
        *,
        last: bool = False,
    ) -> None:
        if not self._quiet:
            self._place.draw(bundle, metadata, last=last)

    def _beside_old(
        self, shown: dict[str, str], receipt: dict[str, str] | None = None
    ) -> dict[str, str]:
        if self._old is None:
            return shown
        old_receipt = quiet_line(receipt_line(self._old))
        return beside(str(self._old.route), _shown(self._old), old_receipt, shown, receipt)


def _shown(reply: Reply, form: str = "markdown") -> dict[str, str]:
    has_fields = reply.parsed is not None
    return structured_bundle(reply) if has_fields else reply_bundle(str(reply), form)


def _dimmed(text: str) -> str:
    """A text that will be replaced, as one line of HTML that Markdown does not change."""
    lines = escape(text).replace("\n", "<br>")
    return f'<div style="{QUIET};white-space:pre-wrap">{lines}</div>'


class CellOutput:
    """One output of a cell that can be redrawn.

    If an output cannot be updated, only its final state is drawn.

    Attributes:
        may_redraw: whether it can be drawn again.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.may_redraw: bool = not is_captured(shell)
        self._name = uuid4().hex
        self._drawn: tuple[dict[str, str], dict[str, Any] | None] | None = None

    def __bool__(self) -> bool:
        """Whether it was drawn and can be drawn again."""
        return self._drawn is not None

    def draw(
        self,
        bundle: dict[str, str],
        metadata: dict[str, Any] | None = None,
        *,
        last: bool = False,
    ) -> None:
        """Show the bundle in place of the previous one; `last` marks the final state."""
        from IPython.display import display

        redraw = {}
        if self.may_redraw:
            redraw = {"display_id": self._name, "update": bool(self)}
            self._drawn = bundle, metadata
        elif not last:
            return
        display(for_frontends(bundle), raw=True, metadata=metadata or {}, **redraw)

    def draw_again(self) -> None:
        """Draw the current state once more."""
        if self._drawn is not None:
            self.draw(*self._drawn)


def for_frontends(bundle: dict[str, str]) -> dict[str, str]:
    """The bundle without control characters, and with HTML that MathJax does not change.

    Names and reasons come from files, servers and models. In JupyterLab and nbconvert, MathJax
    looks for formulas in all text of an HTML output, unless a class says otherwise.
    """
    shown = {kind: without_controls(text) for kind, text in bundle.items()}
    if "text/html" in shown:
        ignored = "mathjax_ignore tex2jax_ignore"
        shown["text/html"] = f'<div class="{ignored}">{shown["text/html"]}</div>'
    return shown
