"""A reply that grows in its cell, the receipt below it, and what stays in the saved notebook."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.markdown import harmless_markdown, without_controls
from arche_magic.llm_providers.reply import Attempt, Reply, Waiting
from arche_magic.llm_providers.types import in_seconds, route_name

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# Ten redraws a second; longer texts less often, so that a long reply costs no megabytes.
_SECONDS_PER_REDRAW = 0.1
_CHARACTERS_PER_SECOND = 50_000
# Untrusted notebooks lose styles with var(); the grey before it reads on white and on black.
_QUIET = "color:#797979;color:var(--jp-content-font-color2,#797979);font-size:90%"


class CellInterrupted(KeyboardInterrupt):
    """The user interrupted a cell; what had arrived stays shown and is booked."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


class ReplyDisplay:
    """One cell's reply: redrawn while it streams, then left with its receipt.

    In a plain terminal, which cannot redraw, the pieces are printed as they come.
    """

    def __init__(self, shell: InteractiveShell, quiet: bool = False) -> None:
        self._quiet = quiet
        self._redraws = hasattr(shell, "kernel")
        self._handle: Any = None
        self._text = ""
        self._next_redraw = 0.0
        self._printed = False
        self._waits_for = ""

    def waiting(self, event: Waiting) -> None:
        """Show which route is waited for, and how long still."""
        line = f"waiting: {event.route} opens {in_seconds(event.seconds)}"
        if event.seconds <= 0:
            line = f"waiting: {event.route} is open, and others came first"
        said = line if self._redraws else str(event.route)
        if said == self._waits_for:
            return
        self._waits_for = said
        if self._redraws:
            self._draw(_quiet_line(line))
        elif not self._quiet:
            print(line)

    def add(self, text: str) -> None:
        """Add the next piece."""
        self._text += text
        if self._quiet:
            return
        if not self._redraws:
            self._printed = True
            print(without_controls(text), end="", flush=True)
        elif time.monotonic() >= self._next_redraw:
            self._draw(reply_bundle(self._text))
            pause = max(_SECONDS_PER_REDRAW, len(self._text) / _CHARACTERS_PER_SECOND)
            self._next_redraw = time.monotonic() + pause

    def start_over(self, attempt: Attempt) -> None:
        """The reply broke off: forget its text, another route begins anew."""
        self._text = ""
        if self._printed:
            print(f"\n[{attempt}; starting over]\n")
        self._next_redraw = 0.0

    def finish(self, reply: Reply) -> None:
        """Show the whole reply and its receipt."""
        if not self._quiet:
            self._leave(str(reply), receipt_bundle(reply), {"arche_magic": reply_metadata(reply)})

    def interrupted(self) -> CellInterrupted:
        """Mark what is shown as interrupted; returns the exception to raise."""
        if self._text and not self._quiet:
            self._leave(self._text, _quiet_line("interrupted: the reply is not complete"), {})
        else:
            self.failed()
        return CellInterrupted("the request was stopped; its tokens so far are booked")

    def failed(self) -> None:
        """Leave nothing half-shown: the error speaks for itself."""
        if self._handle is not None:
            self._draw({"text/plain": ""})
        elif self._printed:
            print()

    def _leave(self, text: str, receipt: dict[str, str], metadata: dict[str, Any]) -> None:
        from IPython.display import display

        if self._redraws:
            self._draw(reply_bundle(text), metadata)
            display(receipt, raw=True)
        else:
            print(("" if self._printed else text) + "\n" + receipt["text/plain"])

    def _draw(self, bundle: dict[str, str], metadata: dict[str, Any] | None = None) -> None:
        from IPython.display import DisplayHandle, display

        if self._quiet:
            return
        if self._handle is None:
            self._handle = DisplayHandle()
            display(bundle, raw=True, metadata=metadata or {}, display_id=self._handle.display_id)
        else:
            display(
                bundle,
                raw=True,
                metadata=metadata or {},
                display_id=self._handle.display_id,
                update=True,
            )


def reply_bundle(text: str) -> dict[str, str]:
    """Text of a reply for every frontend; harmless whatever the model wrote."""
    clean = without_controls(text)
    return {"text/plain": clean, "text/markdown": harmless_markdown(clean)}


def receipt_line(reply: Reply) -> str:
    """`groq · key 2 · gpt-oss-120b · 312 tokens · 0.8 s · 23 of 30 requests left this minute`."""
    parts = [
        route_name(reply.provider, reply.key, reply.model),
        f"{reply.usage.total_tokens:,} tokens",
        f"{reply.seconds:.{1 if reply.seconds >= 0.1 else 2}f} s",
    ]
    if reply.finish_reason == "length":
        parts.append("cut at max_tokens")
    if reply.standing:
        parts.append(reply.standing)
    return " · ".join(parts)


def receipt_bundle(reply: Reply) -> dict[str, str]:
    """The receipt: one quiet line that unfolds to the routes passed over, and why."""
    line = receipt_line(reply)
    passed = [attempt for attempt in reply.attempts if attempt.outcome != "served"]
    if not passed:
        return _quiet_line(line)
    count = f"{len(passed)} route{'s' if len(passed) > 1 else ''} passed over"
    reasons = [f"  {without_controls(str(attempt))}" for attempt in passed]
    plain = "\n".join([f"{line} · {count}", *reasons])
    html = (
        f'<details style="{_QUIET}"><summary style="cursor:pointer">{escape(line)} · '
        f'<b style="white-space:nowrap">{count}</b></summary>'
        f"{_attempts_table(reply.attempts)}</details>"
    )
    return {"text/plain": plain, "text/html": html}


def reply_metadata(reply: Reply) -> dict[str, Any]:
    """What the saved notebook keeps about a reply, so that it can be read back from the file."""
    return {
        "provider": reply.provider,
        "key": reply.key,
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        "attempts": [attempt.to_dict() for attempt in reply.attempts],
    }


def _attempts_table(attempts: Sequence[Attempt]) -> str:
    cell = "text-align:left;padding:1px 12px 1px 0;border:none;vertical-align:top;color:inherit"
    rows = "".join(
        f'<tr style="background:none"><td style="{cell};white-space:nowrap">'
        f"{escape(route_name(a.provider, a.key, a.model))}</td>"
        f'<td style="{cell}">{a.outcome}</td>'
        f'<td style="{cell}">{escape(without_controls(a.why) or f"{a.seconds:.2f} s")}</td></tr>'
        for a in attempts
    )
    style = "border:none;margin:4px 0 4px 14px;color:inherit;font-size:100%"
    return f'<table style="{style}">{rows}</table>'


def _quiet_line(line: str) -> dict[str, str]:
    return {"text/plain": line, "text/html": f'<span style="{_QUIET}">{escape(line)}</span>'}
