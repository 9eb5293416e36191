"""The progress of a job in words: one line for a terminal, and the parts of a notebook's bar."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Self

from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.types import in_seconds

from .progress import Progress

_SIGNS = 28
_SECONDS = 0.5
# A shorter wait is over before anyone can read about it.
_WORTH_SAYING_SECONDS = 1.0


class LineBar:
    """Shows a job's progress in one line on stderr while its `with` block runs.

    Args:
        progress: how far the job is.
        now: the clock, in epoch seconds.
    """

    def __init__(self, progress: Callable[[], Progress], now: Callable[[], float]) -> None:
        self._progress, self._now = progress, now
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arche-bar", daemon=True)
        self._width = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._draw(end="\n")

    def _run(self) -> None:
        while not self._ended.wait(_SECONDS):
            self._draw()

    def _draw(self, end: str = "") -> None:
        text = without_controls(line(self._progress(), self._now()))
        if sys.stderr.isatty():
            # A longer line would wrap, and its first part would stay.
            text = text[: max(20, shutil.get_terminal_size().columns - 1)]
        sys.stderr.write("\r" + text.ljust(self._width) + end)
        sys.stderr.flush()
        self._width = len(text)


def line(progress: Progress, now: float) -> str:
    """The whole line; `now` in epoch seconds."""
    parts = [count(progress), text_bar(progress), pace(progress, now), waiting(progress)]
    return "  ".join(filter(None, parts))


def count(progress: Progress) -> str:
    """`38 of 1,000 rows`."""
    return f"{progress.done:,} of {counted(progress.total, progress.noun)}"


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def text_bar(progress: Progress) -> str:
    """A bar of block characters."""
    filled = int(_SIGNS * progress.done / progress.total) if progress.total else _SIGNS
    return "█" * filled + "░" * (_SIGNS - filled)


def pace(progress: Progress, now: float) -> str:
    """Rows per second, when it is done, and rows from memory and with errors."""
    parts = []
    if progress.rows_per_second:
        parts.append(rate(progress.rows_per_second, progress.noun))
    if progress.finish_at is not None and progress.done < progress.total:
        parts.append(_end(progress.finish_at.timestamp(), now))
    if progress.resumed:
        parts.append(f"{progress.resumed:,} from memory")
    if progress.errors:
        parts.append(counted(progress.errors, "error"))
    if progress.done == progress.total and progress.twice < progress.to_ask_twice:
        again = f"{progress.twice:,} of {counted(progress.to_ask_twice, 'row')}"
        parts.append(f"asking again: {again}")
    return " · ".join(parts) or ("" if progress.done == progress.total else "starting")


def rate(per_second: float, noun: str) -> str:
    """`3.2 rows/s`, `38 rows/min` or `12 rows/h`, whichever is easy to read."""
    number, unit = per_second, "s"
    for unit, factor in (("s", 1), ("min", 60), ("h", 3600)):  # noqa: B007  # the last one stays
        number = per_second * factor
        if number >= 1:
            break
    return f"{number:,.{1 if number < 10 else 0}f} {noun}s/{unit}"


def waiting(progress: Progress) -> str:
    """The route that the job waits for, and how long; "" without one."""
    wait = progress.waiting
    if wait is None or wait.seconds < _WORTH_SAYING_SECONDS:
        return ""
    return f"waiting: {wait.route} opens {in_seconds(wait.seconds)}"


def local_time(moment: float, now: float) -> str:
    """The local time, with the day if it is not today: `14:32`, `Tue 08:10`, `3 Dec 08:10`."""
    local = datetime.fromtimestamp(moment).astimezone()
    days = (local.date() - datetime.fromtimestamp(now).astimezone().date()).days
    if not days:
        return f"{local:%H:%M}"
    return f"{local:%a %H:%M}" if 0 < days < 7 else f"{local.day} {local:%b %H:%M}"


def _end(moment: float, now: float) -> str:
    if moment - now < 100:
        return f"done {in_seconds(max(1.0, moment - now))}"
    return f"done about {local_time(moment, now)}"
