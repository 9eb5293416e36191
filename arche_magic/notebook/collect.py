"""Collects the rows of a job into a variable or a file, and shows how far it is."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from arche_magic.bulk import Job, JobStopped, Quality, Replies, Row
from arche_magic.bulk.file_job import FileJob
from arche_magic.bulk.results import like
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest, NoKeys
from arche_magic.llm_providers.stopping import raise_if_stopped

from .ask import check_variable
from .bar import Bar
from .display import CellInterrupted
from .first_steps import require_keys
from .sigint import one_interrupt

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

DEFAULT_NAME = "replies"
_SECONDS = 0.1
_FAREWELL_SECONDS = 0.3
# The last frame of each name: only a frame that a job made may be replaced unasked.
_made: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


class FileRows:
    """Rows that go to a file."""

    finished = variable = None

    def __init__(self, job: FileJob) -> None:
        self.job = job

    def collect(self, bar: Bar) -> None:
        """Ask for all rows and write them."""
        self._write(bar, "interrupted")

    def collect_in_background(self, bar: Bar) -> str:
        """Ask for all rows and write them; returns the file's path."""
        self._write(bar, "stopped")
        return str(self.job.to)

    def _write(self, bar: Bar, ended: str) -> None:
        again = f"nothing was written to {self.job.to}; run the cell again to continue"
        _run(self.job, lambda row: None, bar, lambda: again, ended)
        bar.finish(_note(f"written to {self.job.to}", self.job.quality))


class FrameRows:
    """Rows that go to a variable, with the columns of the replies."""

    def __init__(self, job: Job, table: Any, variable: str, shell: InteractiveShell) -> None:
        self.job, self.variable = job, variable
        self._table, self._shell = table, shell
        self._replies = Replies(job)

    def finished(self) -> Any:
        """The rows that are finished, as a frame of the same library as the data."""
        return like(self._table, self._replies.frame(), self._replies.columns)

    def bind(self, value: Any) -> None:
        """Set the variable."""
        self._shell.user_ns[self.variable] = _made[self.variable] = value

    def collect(self, bar: Bar) -> Any:
        """Ask for all rows; returns the frame, which is also in the variable."""

        def keep() -> str:
            self.bind(frame := self.finished())
            return f"{self.variable} has {_finished(len(frame))}"

        _run(self.job, self._replies.add, bar, keep)
        self.bind(frame := self.finished())
        bar.finish(_note(f"in the variable {self.variable}", self._replies.quality))
        return frame

    def collect_in_background(self, bar: Bar) -> Any:
        """Ask for all rows; returns the frame. The variable has what waits for it."""

        def note() -> str:
            return f"{self.variable}.frame has {_finished(self.job.progress().done)}"

        _run(self.job, self._replies.add, bar, note, "stopped")
        frame = self.finished()
        bar.finish(_note(f"{self.variable}.wait() returns the frame", self._replies.quality))
        return frame


def _finished(rows: int) -> str:
    return f"the {rows:,} finished rows; run the cell again for the others"


def _note(where: str, quality: Quality) -> str:
    """Where the rows are, and how they agree with known labels or a second model."""
    return " · ".join([where, *str(quality).splitlines()])


@one_interrupt()
def _run(
    job: Job | FileJob,
    add: Callable[[Row], object],
    bar: Bar,
    stopped: Callable[[], str],
    ended: str = "interrupted",
) -> None:
    """Collect a job's rows in another thread, while this one draws and can be interrupted.

    `stopped` keeps the finished rows of a job that ends early, and returns a note about them;
    `ended` is what the bar says of one that the user ended.
    """
    clock = get_configuration().clock
    failures: list[BaseException] = []

    def collect() -> None:
        try:
            for row in job:
                add(row)
        except BaseException as error:  # noqa: BLE001  # raised again in the cell's thread
            failures.append(error)

    collector = threading.Thread(target=collect, daemon=True)
    try:
        collector.start()
        while collector.is_alive():
            collector.join(_SECONDS)
            raise_if_stopped()
            bar.update(job.progress(), clock.time())
    except KeyboardInterrupt:
        job.cancel()
        collector.join(_FAREWELL_SECONDS)
        bar.update(job.progress(), clock.time())
        bar.finish(stopped(), ended)
        raise CellInterrupted("calls in progress are counted when they end") from None
    for error in failures:
        if isinstance(error, NoKeys):
            require_keys()
        if isinstance(error, JobStopped) or job.progress().done:
            bar.finish(stopped(), ended="stopped")
        raise error


def variable_for(shell: InteractiveShell, name: str | None, data: str) -> str:
    """The variable for the rows.

    `data` is the variable that has the data. It cannot get the rows: a job that ends early would
    replace the data with its finished rows.

    Raises:
        InvalidRequest: the name is not allowed, or the default name is taken.
    """
    if (name or DEFAULT_NAME) == data:
        raise InvalidRequest(
            f"%llm: the finished rows would replace the data in {data!r}; name another variable "
            "with --into NAME"
        )
    if name is None:
        there = shell.user_ns.get(DEFAULT_NAME)
        if there is not None and _made.get(DEFAULT_NAME) is not there:
            raise InvalidRequest(
                f"%llm: the variable {DEFAULT_NAME!r} already exists and would be replaced; name "
                "another one with --into NAME"
            )
        return DEFAULT_NAME
    check_variable("--into", name)
    return name
