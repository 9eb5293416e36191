"""`%%llm --compare`: one prompt and several answers, side by side as they arrive."""

from __future__ import annotations

import re
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.errors import (
    ConfigurationError,
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
)
from arche_magic.llm_providers.events import Discarded, Started, Waiting
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Message
from arche_magic.llm_providers.stopping import raise_if_stopped, stopped_by
from arche_magic.llm_providers.text.wording import did_you_mean, joined

from . import live_line
from .cell import bind, check_prompt, request_options
from .command import CellInterrupted, Session, one_interrupt
from .display import CellOutput, Pace, show
from .live_line import TerminalLine, follow
from .markup import as_html, card_html, row_html
from .receipt import attempt_lines, routes_skipped
from .styles import QUIET, escape, notes_html
from .words import paid_text

if TYPE_CHECKING:
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from arche_magic.prompts import Prompt

    from .magics import Defaults

_TYPES = {
    "provider": "str", "key": "str", "model": "str", "reply": "str", "tokens": "Int64",
    "seconds": "float64", "cost_usd": "float64", "error": "object",
}  # fmt: skip
_MOST = 8
_POLL_SECONDS = 0.1
# How long an interrupted cell waits for its calls to be counted; slower ones end by themselves.
_STOP_SECONDS = 0.25


@dataclass
class ReplyColumn:
    """The column for one request, which runs in its own thread.

    Attributes:
        asked: the provider or model that the user named.
        provider: the provider that it refers to; None if several providers have the model.
        model: the model that it refers to; None for a provider's default.
        state: returns the line to show until text arrives, given the seconds so far; or None.
    """

    asked: str
    provider: str | None = None
    model: str | None = None
    text: str = ""
    state: Callable[[float], str] | None = live_line.choosing
    since: float = field(default_factory=time.monotonic)
    reply: Reply | None = None
    error: LLMProviderError | None = None

    @property
    def ended(self) -> bool:
        """Whether it has its reply or its error."""
        return self.reply is not None or self.error is not None

    @property
    def name(self) -> str:
        """The route that answered; until then, the name that the user typed."""
        return self.asked if self.reply is None else str(self.reply.route)

    def before(self, event: Waiting | Started) -> None:
        """Show which route the request waits for or asks."""
        self.say(live_line.line_of(event))

    def say(self, line: Callable[[float], str] | None) -> None:
        """Show a line below; `line` gets the seconds since this call. None removes it."""
        self.state, self.since = line, time.monotonic()

    def add(self, text: str) -> None:
        """Add the next text of the reply."""
        self.text += text
        self.say(None)

    def start_over(self, event: Discarded) -> None:
        """Discard the text so far, because the reply starts over."""
        self.text = ""
        self.say(lambda seconds: live_line.starting_over(event))

    def finish(self, end: Reply | LLMProviderError) -> None:
        """Show the whole reply, or the error instead of it."""
        self.text = str(end)
        if isinstance(end, Reply):
            self.reply = end
        else:
            self.error = end
        self.say(None)

    def foot(self) -> str:
        """The line below: tokens, seconds and cost, or what went wrong."""
        if self.error:
            return "failed"
        if self.reply is None:
            return self.state(time.monotonic() - self.since) if self.state else "…"
        parts = [f"{self.reply.usage.total_tokens:,} tokens"]
        if self.reply.from_memory:
            parts.append("from memory")
        else:
            parts += [f"{self.reply.seconds:.1f} s", paid_text(self.reply.cost)]
        if self.reply.finish_reason == "length":
            parts.append("cut at max_tokens")
        return " · ".join(filter(None, [*parts, routes_skipped(self.reply)]))


@one_interrupt()
def compare(session: Session, options: Namespace, prompt: Prompt) -> pd.DataFrame:
    """Ask each of `options.compare` at the same time and show the answers in columns.

    Returns one row per column, in their order: `provider, key, model, reply, tokens, seconds,
    cost_usd, error`. A column that failed has an error and no reply. If the user stops it, the
    variable of `-o` gets these rows with the part of each reply that had arrived.

    Raises:
        InvalidRequest, ConfigurationError: the request is wrong.
        NoRouteAvailable: no column got a reply.
        CellInterrupted: the user stopped it.
    """
    check_prompt(session, options, prompt)
    llm = IntelligentLLMOrchestrator()
    asked = _requests(session.defaults, options, llm)
    columns = [column for column, _ in asked]
    message = Message("user", prompt.text, prompt.images)
    stop = threading.Event()
    failures: list[Exception] = []

    def ask(column: ReplyColumn, request: dict[str, Any]) -> None:
        try:
            with stopped_by(stop):
                column.finish(follow(llm.events([message], **request), column))
        except KeyboardInterrupt:
            # The cell was interrupted, so nothing waits for this column.
            return
        except LLMProviderError as error:
            column.finish(error)
        except Exception as error:  # noqa: BLE001  # raised again in the cell's thread
            failures.append(error)

    view = _Columns(session.shell, columns, options.quiet, prompt.notes)
    threads = [threading.Thread(target=ask, args=pair, daemon=True) for pair in asked]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and not failures:
                thread.join(_POLL_SECONDS)
                raise_if_stopped()
                view.update()
        for error in failures:
            raise error
    except KeyboardInterrupt:
        stop.set()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        # Copies, because a thread that still waits for its server must not change the display.
        columns[:] = [replace(column) for column in columns]
        for column in columns:
            if not column.ended:
                column.state = lambda seconds: "interrupted: not complete"
        view.finish()
        bind(session, options, _frame(columns))
        # A thread that is waiting for a server cannot be stopped before the server answers.
        some_wait = any(thread.is_alive() for thread in threads)
        counted = "those still in progress are counted when they end"
        counted = counted if some_wait else "their tokens are counted"
        raise CellInterrupted(f"the requests were stopped; {counted}") from None
    finally:
        stop.set()
    view.finish()
    if all(column.error is not None for column in columns):
        raise _none_answered(columns)
    frame = _frame(columns)
    bind(session, options, frame)
    return frame


def _none_answered(columns: Sequence[ReplyColumn]) -> LLMProviderError:
    """The error of all columns, or, if they differ, one with all of them."""
    first = columns[0].error
    if first is not None and len({str(column.error) for column in columns}) == 1:
        return first
    reasons = joined(f"{column.asked}: {column.error}" for column in columns)
    return NoRouteAvailable(f"no model answered: {reasons}")


def _requests(
    defaults: Defaults, options: Namespace, llm: IntelligentLLMOrchestrator
) -> list[tuple[ReplyColumn, dict[str, Any]]]:
    """One column for each name that the user gave, with the arguments of its request."""
    names = list(dict.fromkeys(name.strip() for name in options.compare.split(",") if name.strip()))
    if not 1 <= len(names) <= _MOST:
        raise InvalidRequest(f"%llm: --compare takes 1 to {_MOST} names, such as groq,mistral")
    common = request_options(options, defaults, "patience", "keep")
    requests = []
    for name in names:
        whole = name in llm.configuration.providers
        who = {"provider": name} if whole else {"model": name}
        try:
            found = llm.configuration.resolve_model(who.get("model"), who.get("provider"))
        except ConfigurationError as error:
            if hint := did_you_mean(name, llm.configuration.providers):
                raise ConfigurationError(f"--compare: unknown provider {name!r}{hint}") from None
            raise ConfigurationError(f"--compare: {error}") from None
        provider = next(iter(found)) if len(found) == 1 else None
        model = None if whole else next(iter(found.values()))[0]
        requests.append((ReplyColumn(name, provider, model), {**common, **who}))
    return requests


def _frame(columns: Sequence[ReplyColumn]) -> pd.DataFrame:
    from .frames import typed_frame

    rows = []
    for column in columns:
        reply = column.reply
        # The part of an interrupted reply that had arrived.
        part = None if column.error else column.text or None
        why = str(column.error or "interrupted")
        rows.append(
            (*reply.route, str(reply), reply.usage.total_tokens, reply.seconds, reply.cost, None)
            if reply is not None
            else (column.provider, None, column.model, part, None, None, None, why)
        )  # fmt: skip
    return typed_frame(_TYPES, rows)


def columns_bundle(columns: Sequence[ReplyColumn], notes: Sequence[str] = ()) -> dict[str, str]:
    """The columns side by side, or one below the other as text; notes on the prompt come first."""
    # If columns have the same provider, their titles are the names that the user typed.
    providers = [re.split(" · |/", column.name)[0] for column in columns]
    cards = []
    for column in columns:
        name = column.name
        if column.reply is not None and providers.count(column.reply.provider) > 1:
            name = f"{column.asked} · {name}"
        foot = f'<div style="{QUIET}">{escape(column.foot())}</div>'
        cards.append(card_html(name, as_html(column.text), foot))
    return {
        "text/plain": "\n\n".join([*notes, *map(_column_text, columns)]),
        "text/html": notes_html(notes) + row_html(cards),
    }


def _column_text(column: ReplyColumn) -> str:
    text = column.text.strip("\r\n")
    return "\n".join(filter(None, (f"── {column.name} ──", text, column.foot())))


class _Columns:
    """The columns on the screen: redrawn while they fill, or in a terminal one after another."""

    def __init__(
        self,
        shell: InteractiveShell,
        columns: Sequence[ReplyColumn],
        quiet: bool,
        notes: Sequence[str],
    ) -> None:
        self._columns, self._notes, self._quiet = columns, notes, quiet
        self._place = CellOutput(shell) if hasattr(shell, "kernel") else None
        self._line = TerminalLine()
        self._pace = Pace()
        self._printed = 0
        self._feet: list[str] = []
        if not quiet and self._place is None and notes:
            print("\n".join(notes))

    def update(self) -> None:
        """Draw what has changed; a text that grows is drawn at a limited pace."""
        if self._quiet:
            return
        feet = [column.foot() for column in self._columns]
        changed, self._feet = feet != self._feet, feet
        if self._place is None:
            self._print()
            # There is none if the last one has just ended.
            pending = next((column for column in self._columns if not column.ended), None)
            if changed and pending is not None:
                self._line.write(f"{pending.asked}: {pending.foot()}")
            return
        length = sum(len(column.text) for column in self._columns)
        if changed or (length and self._pace.is_due(length)):
            self._place.draw(columns_bundle(self._columns, self._notes))

    def finish(self) -> None:
        """Show the final state."""
        if self._quiet:
            return
        if self._place is None:
            self._print(everything=True)
            return
        ends = [end for column in self._columns for end in (column.reply, column.error)]
        attempts = [attempt for end in ends if end is not None for attempt in end.attempts]
        metadata = {"arche_magic": {"attempts": attempt_lines(attempts)}}
        self._place.draw(columns_bundle(self._columns, self._notes), metadata, last=True)

    def _print(self, everything: bool = False) -> None:
        for column in self._columns[self._printed :]:
            if not (column.ended or everything):
                return
            self._line.write("")
            show(f"{_column_text(column)}\n")
            self._printed += 1
