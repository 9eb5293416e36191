"""A reply that grows in its cell, the receipt below it, and what stays in the saved notebook."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.types import Attempt, Reply, Waiting, in_seconds, route_name

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# Ten redraws a second; longer texts less often, so that a long reply costs no megabytes.
_SECONDS_PER_REDRAW = 0.1
_CHARACTERS_PER_SECOND = 50_000
_QUIET = "color:var(--jp-content-font-color2,#6b7280);font-size:90%"
# Terminal escapes, and controls that reorder the text around them.
_CONTROLS = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)
_FENCE = re.compile(r"(`{3,})[^`]*$|(~{3,}).*$")
_INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`)([^\n]*?[^`\n])\1(?!`)")


class CellInterrupted(KeyboardInterrupt):
    """The user interrupted a cell; what had arrived stays shown and is booked."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


class ReplyDisplay:
    """One cell's reply: redrawn while it streams, then left with its receipt.

    In a plain terminal, which cannot redraw, the pieces are printed as they come.
    """

    def __init__(self, shell: InteractiveShell, quiet: bool = False) -> None:
        self._shell = shell
        self._quiet = quiet
        self._redraws = hasattr(shell, "kernel")
        self._handle: Any = None
        self._text = ""
        self._next_redraw = 0.0
        self._printed = False

    def waiting(self, event: Waiting) -> None:
        """Show which route is waited for, and how long still."""
        line = f"waiting: {event.route} opens {in_seconds(event.seconds)}"
        if self._redraws:
            self._draw(
                {
                    "text/plain": line,
                    "text/html": f'<span style="{_QUIET}">⏳ {escape(line)}</span>',
                }
            )

    def add(self, text: str) -> None:
        """Add the next piece."""
        self._text += text
        if self._quiet:
            return
        if not self._redraws:
            self._printed = True
            print(_CONTROLS.sub("", text), end="", flush=True)
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

    def finish(self, reply: Reply) -> ShownReply:
        """Show the whole reply and its receipt; return it as the magic's value."""
        if not self._quiet:
            self._leave(str(reply), receipt_bundle(reply), {"arche_magic": reply_metadata(reply)})
        return ShownReply.of(reply, self._shell)

    def interrupted(self) -> CellInterrupted:
        """Mark what is shown as interrupted; returns the exception to raise."""
        line = "interrupted: the reply is not complete"
        if not self._quiet and self._text:
            self._leave(self._text, _quiet_line(line), {})
        return CellInterrupted("the request was stopped; its tokens so far are booked")

    def failed(self) -> None:
        """Leave nothing half-shown: the error speaks for itself."""
        if self._handle is not None:
            self._draw({"text/plain": ""})

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


class ShownReply(Reply):
    """A reply that its cell has shown already, so that the cell's value does not show it twice."""

    _shown_in: int | None = None

    @classmethod
    def of(cls, reply: Reply, shell: InteractiveShell) -> ShownReply:
        """The same reply, marked as shown in the running cell."""
        shown = cls(str(reply), **vars(reply))
        shown._shown_in = shell.execution_count
        return shown

    def _ipython_display_(self) -> None:
        from IPython import get_ipython
        from IPython.display import display

        shell = get_ipython()
        if shell is None or shell.execution_count != self._shown_in:
            display(reply_bundle(str(self)), raw=True)

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        state = {name: value for name, value in vars(self).items() if name != "_shown_in"}
        return (str(self),), state


def reply_bundle(text: str) -> dict[str, str]:
    """Text of a reply for every frontend; harmless whatever the model wrote."""
    clean = _CONTROLS.sub("", text)
    return {"text/plain": clean, "text/markdown": harmless_markdown(clean)}


def harmless_markdown(text: str) -> str:
    """Markdown in which raw HTML is shown as text and images are links, code left as it is.

    Only code whose borders no Markdown dialect disputes (fences at the start of a line, spans
    within a line) is left alone; everything else is escaped.
    """
    lines: list[str] = []
    fence = ""
    for line in text.split("\n"):
        opening = _FENCE.match(line)
        if fence:
            if (
                opening
                and line.strip() == line.strip()[0] * len(line.strip())
                and line.startswith(fence)
            ):
                fence = ""
            lines.append(line)
        elif opening:
            fence = opening[1] or opening[2]
            lines.append(line)
        else:
            lines.append(_harmless_line(line))
    return "\n".join(lines)


def _harmless_line(line: str) -> str:
    parts: list[str] = []
    end = 0
    for code in _INLINE_CODE.finditer(line):
        parts.append(_escape(line[end : code.start()]))
        parts.append(code[0])
        end = code.end()
    parts.append(_escape(line[end:]))
    return "".join(parts)


def _escape(text: str) -> str:
    return text.replace("<", "&lt;").replace("![", "[")


def receipt_line(reply: Reply) -> str:
    """`groq · key 2 · gpt-oss-120b · 312 tokens · 0.8 s · 23 of 30 requests left this minute`."""
    parts = [
        route_name(reply.provider, reply.key, reply.model),
        f"{reply.usage.total_tokens:,} tokens",
        f"{reply.seconds:.1f} s",
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
    plain = "\n".join([f"{line} · {count}", *(f"  {attempt}" for attempt in passed)])
    html = (
        f'<details style="{_QUIET}"><summary style="cursor:pointer">{escape(line)} · '
        f"<b>{count}</b></summary>{_attempts_table(reply.attempts)}</details>"
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
    cell = "text-align:left;padding:1px 12px 1px 0;border:none;vertical-align:top"
    rows = "".join(
        f'<tr style="background:none"><td style="{cell};white-space:nowrap">'
        f"{escape(route_name(a.provider, a.key, a.model))}</td>"
        f'<td style="{cell}">{a.outcome}</td>'
        f'<td style="{cell}">{escape(a.why or f"{a.seconds:.2f} s")}</td></tr>'
        for a in attempts
    )
    return f'<table style="border:none;margin:4px 0 4px 14px;font-size:100%">{rows}</table>'


def _quiet_line(line: str) -> dict[str, str]:
    return {"text/plain": line, "text/html": f'<span style="{_QUIET}">{escape(line)}</span>'}
