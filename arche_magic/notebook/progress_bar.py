"""The progress bar of a job: one bar and two lines, redrawn in one place."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from arche_magic.bulk.progress import count, line, pace, text_bar, waiting
from arche_magic.llm_providers.text.wording import plural
from arche_magic.llm_providers.types import in_seconds

from .display import CellOutput, show
from .live_line import TerminalLine
from .styles import GREEN, QUIET, RED, TRACK, escape
from .words import price_text

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from arche_magic.bulk import Progress

# Looks fainter both on white and on black.
_FAINT = "rgba(46,158,91,.45)"
_SECONDS = 0.25
_TERMINAL_SECONDS = 1.0


class Bar:
    """The progress bar of one cell: redrawn while the job runs, then left in its final state.

    A terminal shows it in one line that is overwritten. A log or pipe gets only the final state.

    Attributes:
        place: the output it is drawn in; None in a terminal.
        end: its final state, as text and as HTML; None while the job runs.
    """

    def __init__(self, shell: InteractiveShell, quiet: bool = False) -> None:
        self._quiet = quiet
        self.place = CellOutput(shell) if hasattr(shell, "kernel") else None
        self.end: dict[str, str] | None = None
        self._line = TerminalLine()
        # Not measured by the job's clock, which may be set back while it runs.
        self._began = time.monotonic()
        self._progress: Progress | None = None
        self._next = 0.0

    def update(self, progress: Progress, now: float) -> None:
        """Draw the progress at `now` (epoch seconds), unless a draw was just before."""
        self._progress = progress
        moment = time.monotonic()
        if self._quiet or moment < self._next:
            return
        if self.place is not None:
            self._next = moment + _SECONDS
            self.place.draw(bar_bundle(progress, now))
        elif self._line.works:
            self._next = moment + _TERMINAL_SECONDS
            self._line.write(line(progress, now))

    def finish(self, note: str, ended: str = "") -> None:
        """Draw the final state with a note; `ended` says why the job stopped early, if it did."""
        if self._progress is None:
            return
        self.end = end_bundle(self._progress, time.monotonic() - self._began, ended, note)
        if self._quiet:
            return
        if self.place is not None:
            self.place.draw(self.end, last=True)
            return
        self._line.write("")
        show(self.end["text/plain"])


def bar_bundle(progress: Progress, now: float) -> dict[str, str]:
    """The bar of a running job, as text and as HTML."""
    return _bundle(progress, pace(progress, now), waiting(progress))


def end_bundle(progress: Progress, seconds: float, ended: str, note: str) -> dict[str, str]:
    """The bar of a finished job, which stays in the saved notebook."""
    parts = [ended] if ended else []
    asked = progress.done - progress.resumed
    if asked:
        # Ten seconds or more are rounded up: `42 s`, `3 min`, `5 h`.
        rounded = in_seconds(seconds).removeprefix("in ")
        parts.append(f"{asked:,} in {f'{seconds:.1f} s' if seconds < 10 else rounded}")
    if progress.resumed:
        parts.append(f"{progress.resumed:,} from memory")
    if progress.errors:
        parts.append(f"{plural(progress.errors, 'error')}, see the column error")
    spent = [f"{progress.tokens:,} tokens", price_text(progress.cost_usd)] if asked else []
    twice = f"{progress.twice:,} of {plural(progress.to_ask_twice, 'row')} asked twice"
    counts = (
        (progress.to_ask_twice, twice),
        (progress.packed, f"{progress.packed:,} packed"),
        (progress.checked, f"{progress.agreed} of {progress.checked} checked rows agree"),
        (progress.not_compared, f"{progress.not_compared} not compared"),
        (progress.discarded, f"{progress.discarded:,} packed replies discarded"),
    )
    spent += [words for number, words in counts if number]
    return _bundle(progress, " · ".join(parts), " · ".join(filter(None, [*spent, note])))


def _bundle(progress: Progress, beside: str, below: str) -> dict[str, str]:
    """The bar, with text beside and below it.

    Rows from memory are fainter and failed rows are red; the text says the same.
    """
    total = max(1, progress.total)
    good = max(0, progress.done - progress.resumed - progress.errors)
    memory = progress.done - good - progress.errors
    parts = "".join(
        f'<div style="width:{100 * rows / total:.2f}%;min-width:3px;background:{color}"></div>'
        for rows, color in ((memory, _FAINT), (good, GREEN), (progress.errors, RED))
        if rows > 0
    )
    first = f"{count(progress)}  {text_bar(progress)}  {beside}".rstrip()
    html = (
        '<div style="max-width:720px;margin:2px 0 4px">'
        '<div style="display:flex;flex-wrap:wrap;justify-content:space-between;column-gap:16px;'
        'font-variant-numeric:tabular-nums">'
        f'<span style="font-weight:600">{escape(count(progress))}</span>'
        f'<span style="{QUIET}">{escape(beside)}</span></div>'
        f'<div style="display:flex;height:8px;border-radius:4px;margin:4px 0 3px;overflow:hidden;'
        f'background:{TRACK}">{parts}</div>'
        f'<div style="{QUIET};margin-top:2px">{escape(below) or "&nbsp;"}</div></div>'
    )
    return {"text/plain": "\n".join(filter(None, (first, below))), "text/html": html}
