"""A reply that grows in its cell, its receipt, and what the saved notebook keeps."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.characters import unfinished, without_controls
from arche_magic.llm_providers.records import told
from arche_magic.llm_providers.reply import Attempt, Discarded, Reply, Waiting, total_cost
from arche_magic.llm_providers.types import Usage, route_name

from .costs import paid_text
from .events import waiting_line
from .out import is_captured
from .reply_formats import bundle, code_of, is_json
from .structured import structured_bundle, unread_bundle
from .styles import QUIET

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from arche_magic.llm_providers.attempts import Ended


def show(shown: dict[str, str] | str) -> None:
    """Display a bundle, or print a text, in the running cell."""
    from IPython.display import display

    if isinstance(shown, str):
        print(shown)
    else:
        display(for_frontends(shown), raw=True)


class CellInterrupted(KeyboardInterrupt):
    """The user interrupted a cell; the part that arrived stays shown and is booked."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


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
    """The view of one cell's reply: redrawn while it streams, then left with its receipt.

    In a plain terminal, which cannot redraw, the pieces are printed as they come.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        quiet: bool = False,
        form: str = "markdown",
        structured: bool = False,
    ) -> None:
        self._shell = shell
        self._quiet = quiet
        self._form = form
        self._structured = structured
        self._redraws = hasattr(shell, "kernel")
        self._place = Place(shell)
        self._text = self._held = ""
        self._pace = Pace()
        self._printed = False
        self._waits_for = ""

    def note(self, line: str) -> None:
        """Show a note about the prompt above the reply."""
        if not self._quiet:
            show(quiet_line(line) if self._redraws else without_controls(line))

    def waiting(self, event: Waiting) -> None:
        """Show which route the request waits for, and how long."""
        line = waiting_line(event)
        said = line if self._redraws else str(event.route)
        if said == self._waits_for:
            return
        self._waits_for = said
        if self._redraws:
            self._draw(quiet_line(line))
        elif not self._quiet:
            print(without_controls(line))

    def add(self, text: str) -> None:
        """Add the next piece."""
        self._text += text
        if self._quiet:
            return
        if not self._redraws:
            # A part of a JSON is of no use.
            if not self._structured:
                self._printed = True
                text = self._held + text
                end = len(text) - unfinished(text)
                print(without_controls(text[:end]), end="", flush=True)
                self._held = text[end:]
        elif self._pace.is_due(len(self._text)):
            self._draw(self._growing())

    def start_over(self, event: Discarded) -> None:
        """Forget the text so far: it broke off or does not fit the schema, and starts over."""
        self._text = ""
        if self._printed:
            print(without_controls(f"{self._held}\n[{event.attempt}; starting over]\n"))
            self._held = ""

    def finish(self, reply: Reply, *more: str) -> None:
        """Show the whole reply and its receipt; `more` is added to the receipt's line.

        Python that the cell asked for is offered as the next cell. It is not run. It stays in this
        output too, since a scheduled run loses the offer.
        """
        if self._quiet:
            return
        language, code = code_of(without_controls(str(reply)))
        if self._form == "json" and not is_json(str(reply)):
            more = (*more, "not valid JSON")
        elif self._form == "code" and not code:
            more = (*more, "no code in it")
        structured = reply.parsed is not None
        shown = structured_bundle(reply) if structured else bundle(str(reply), self._form)
        metadata = {"arche_magic": reply_metadata(reply)}
        self._leave(shown, receipt_bundle(reply, *more), metadata)
        if self._form == "code" and language == "python":
            self._shell.set_next_input(code)

    def interrupted(self, ended: Ended | None) -> Reply | None:
        """Mark the output as interrupted; returns the part that arrived, or None if none did."""
        if not self._text:
            self.failed(ended)
            return None
        reply = _interrupted(self._text, ended)
        if not self._quiet:
            line = "interrupted: the reply is not complete"
            if reply.provider:
                line += f" · {receipt_line(reply)}"
            self._leave(self._growing(), quiet_line(line), _metadata(ended))
        return reply

    def mismatched(self, text: str, ended: Ended | None) -> None:
        """Leave the reply that does not fit its schema below which the error appears."""
        if not self._quiet:
            line = quiet_line("this does not fit the schema")
            self._leave(unread_bundle(text), line, _metadata(ended))

    def failed(self, ended: Ended | None) -> None:
        """Remove a partial reply: the error says what happened.

        The attempts stay in the metadata of an empty output, since an error has no metadata.
        """
        if self._redraws and self._place.may_redraw and (self._place or ended):
            self._draw({"text/plain": ""}, _metadata(ended))
        elif self._printed:
            print(without_controls(self._held))

    def _growing(self) -> dict[str, str]:
        if self._structured:
            return unread_bundle(self._text)
        return bundle(self._text, self._form, complete=False)

    def _leave(
        self, shown: dict[str, str], receipt: dict[str, str], metadata: dict[str, Any]
    ) -> None:
        if self._redraws:
            self._draw(shown, metadata, last=True)
            show(receipt)
        else:
            text = self._held if self._printed else shown["text/plain"]
            print(without_controls(text + "\n" + receipt["text/plain"]))

    def _draw(
        self,
        bundle: dict[str, str],
        metadata: dict[str, Any] | None = None,
        *,
        last: bool = False,
    ) -> None:
        if not self._quiet:
            self._place.draw(bundle, metadata, last=last)


class Place:
    """One output of a cell that is redrawn as often as needed.

    Where an output cannot be updated, only its final state is drawn.

    Attributes:
        may_redraw: whether it can be drawn again.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.may_redraw: bool = not is_captured(shell)
        self._handle: Any = None

    def __bool__(self) -> bool:
        """Whether anything was drawn."""
        return self._handle is not None

    def draw(
        self,
        bundle: dict[str, str],
        metadata: dict[str, Any] | None = None,
        *,
        last: bool = False,
    ) -> None:
        """Show the bundle instead of the one before; `last` marks the final state."""
        from IPython.display import DisplayHandle, display

        if not self.may_redraw:
            if last:
                display(for_frontends(bundle), raw=True, metadata=metadata or {})
            return
        again = self._handle is not None
        self._handle = self._handle or DisplayHandle()
        display(
            for_frontends(bundle),
            raw=True,
            metadata=metadata or {},
            display_id=self._handle.display_id,
            update=again,
        )


def for_frontends(bundle: dict[str, str]) -> dict[str, str]:
    """The bundle without control characters, and with HTML that MathJax leaves alone.

    Names and reasons come from files, servers and models. In JupyterLab and nbconvert, MathJax
    looks for formulas in all text of an HTML output, unless a class says otherwise.
    """
    shown = {kind: without_controls(text) for kind, text in bundle.items()}
    if "text/html" in shown:
        ignored = "mathjax_ignore tex2jax_ignore"
        shown["text/html"] = f'<div class="{ignored}">{shown["text/html"]}</div>'
    return shown


def receipt_line(reply: Reply) -> str:
    """`groq · key 2 · gpt-oss-120b · 312 tokens · 0.8 s · 23 of 30 requests left this minute`.

    The receipt of a paid reply shows its cost, `paid · $0.0031`. The receipt of a kept reply is
    `from memory, 2026-11-23 · groq · key 2 · gpt-oss-120b · 312 tokens then, none now`.
    """
    route = route_name(reply.provider, reply.key, reply.model)
    tokens = f"{reply.usage.total_tokens:,} tokens"
    if reply.from_memory:
        day = f"{reply.from_memory.astimezone():%Y-%m-%d}"
        parts = [f"from memory, {day}", route, f"{tokens} then, none now"]
    else:
        seconds = f"{reply.seconds:.{1 if reply.seconds >= 0.1 else 2}f} s"
        parts = [route, tokens, seconds]
        if _was_paid(reply) or reply.cost:
            parts.append(paid_text(reply.cost) if reply.cost != 0 else "paid")
    if reply.decisions and reply.decisions[-1].private:
        parts.append("private")
    if reply.finish_reason == "length":
        parts.append("cut at max_tokens")
    if reply.standing:
        parts.append(reply.standing)
    return " · ".join(parts)


def _interrupted(text: str, ended: Ended | None) -> Reply:
    """The part of an interrupted reply that arrived, with what is known about its request."""
    attempts = ended.attempts if ended else ()
    last = next((a for a in reversed(attempts) if a.outcome == "interrupted"), None)
    if ended is None or last is None:
        return Reply(text, finish_reason="interrupted")
    return Reply(
        text,
        provider=last.provider,
        key=last.key,
        model=last.model,
        usage=Usage(last.input_tokens, last.output_tokens),
        attempts=attempts,
        seconds=last.waited_s + last.seconds,
        finish_reason="interrupted",
        cost=total_cost(attempts),
        decisions=ended.decisions,
    )


def _was_paid(reply: Reply) -> bool:
    """Whether the route that answered is a paid one."""
    name = reply.provider, reply.key, reply.model
    considered = (entry for decision in reply.decisions for entry in decision.considered)
    return any(entry.paid for entry in considered if entry.name == name)


def receipt_bundle(reply: Reply, *more: str) -> dict[str, str]:
    """The receipt: a grey line that unfolds to the routes that were passed over, with reasons."""
    line = " · ".join([receipt_line(reply), *more])
    passed = [attempt for attempt in reply.attempts if attempt.outcome != "served"]
    if not passed:
        return quiet_line(line)
    count = f"{len(passed)} route{'s' if len(passed) > 1 else ''} passed over"
    reasons = [f"  {without_controls(str(attempt))}" for attempt in passed]
    plain = "\n".join([f"{line} · {count}", *reasons])
    html = (
        f'<details style="{QUIET}"><summary style="cursor:pointer">{escape(line)} · '
        f'<b style="white-space:nowrap">{count}</b></summary>'
        f"{_attempts_lines(reply.attempts)}</details>"
    )
    return {"text/plain": plain, "text/html": html}


def reply_metadata(reply: Reply) -> dict[str, Any]:
    """Metadata of a reply for the saved notebook, from which it can be read back."""
    return {
        "provider": reply.provider,
        "key": reply.key,
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        **({"from_memory": reply.from_memory.isoformat()} if reply.from_memory else {}),
        **_course(reply),
    }


def _metadata(ended: Ended | None) -> dict[str, Any]:
    """Metadata of a request without a reply."""
    return {"arche_magic": _course(ended)} if ended else {}


def _course(ended: Reply | Ended) -> dict[str, Any]:
    return {
        "attempts": attempt_lines(ended.attempts),
        "decisions": [_one_line(decision.to_dict()) for decision in ended.decisions],
    }


def attempt_lines(attempts: Sequence[Attempt]) -> list[str]:
    """Each attempt as a line of JSON: a saved notebook spreads a mapping over many lines.

    `said`, the server's words, is left out: `error` has them already.
    """
    return [_one_line(told(replace(attempt, said=""))) for attempt in attempts]


def _one_line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _attempts_lines(attempts: Sequence[Attempt]) -> str:
    """A line per attempt, in columns; they stay separate lines where styles are removed."""
    cell = "display:table-cell;padding:1px 12px 1px 0"
    lines = "".join(
        f'<div style="display:table-row"><span style="{cell};white-space:nowrap">'
        f"{escape(route_name(a.provider, a.key, a.model))}</span> "
        f'<span style="{cell}">{a.outcome}</span> '
        f'<span style="{cell}">{escape(without_controls(a.why) or f"{a.seconds:.2f} s")}</span>'
        "</div>"
        for a in attempts
    )
    return f'<div style="margin:4px 0 4px 14px">{lines}</div>'


def quiet_line(line: str) -> dict[str, str]:
    """A line in small grey type, as text and as HTML."""
    return {"text/plain": line, "text/html": f'<span style="{QUIET}">{escape(line)}</span>'}
