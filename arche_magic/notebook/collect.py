"""Collects the rows of a job into a variable or a file, in its cell or in the background."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from arche_magic.bulk import Job, JobStopped, Quality, Replies, Row
from arche_magic.bulk.file_job import FileJob
from arche_magic.bulk.progress import count
from arche_magic.bulk.results import like
from arche_magic.llm_providers import Pending
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest, NoKeys
from arche_magic.llm_providers.stopping import raise_if_stopped
from arche_magic.llm_providers.text.wording import plural

from .background import BackgroundJob, now_in_words
from .cell import check_variable
from .command import CellInterrupted, one_interrupt
from .display import show
from .keys import require_keys
from .progress_bar import Bar, bar_bundle
from .styles import quiet_line, red_line

if TYPE_CHECKING:
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

DEFAULT_NAME = "replies"
_SECONDS = 0.1
_STOP_SECONDS = 0.3
# The last frame of each name. Only a frame that a job made may be replaced without asking.
_made: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


class FileRows:
    """The rows of a job that writes a file."""

    finished = None

    def __init__(self, job: FileJob) -> None:
        self.job, self.target = job, str(job.to)

    def collect(self, bar: Bar, background: bool = False) -> Any:
        """Ask for all rows and write them; in the background, returns the file's path."""
        again = f"nothing was written to {self.target}; run the cell again to continue"
        _run(self.job, lambda row: None, bar, lambda: again, background)
        bar.finish(_note(f"written to {self.target}", self.job.quality))
        return self.target if background else None


class FrameRows:
    """The rows of a job whose result, with the columns of the replies, goes to a variable."""

    def __init__(self, job: Job, table: Any, variable: str, shell: InteractiveShell) -> None:
        self.job, self.target = job, variable
        self._table, self._shell = table, shell
        self._replies = Replies(job)

    def finished(self) -> Any:
        """The rows that are finished, as a frame of the same library as the data."""
        return like(self._table, self._replies)

    def bind(self, value: Any) -> None:
        """Set the variable."""
        self._shell.user_ns[self.target] = _made[self.target] = value

    def collect(self, bar: Bar, background: bool = False) -> Any:
        """Ask for all rows; returns the frame.

        The variable gets it too; in the background, it has an object that waits for the frame.
        """

        def keep() -> str:
            if background:
                return f"{self.target}.frame has {_finished(self.job.progress().done)}"
            self.bind(frame := self.finished())
            return f"{self.target} has {_finished(len(frame))}"

        _run(self.job, self._replies.add, bar, keep, background)
        frame = self.finished()
        where = f"{self.target}.wait() returns the frame"
        if not background:
            self.bind(frame)
            where = f"in the variable {self.target}"
        bar.finish(_note(where, self._replies.quality))
        return frame


class PendingFrame(Pending["pd.DataFrame"]):
    """The frame of a job in the background: `wait()` returns it when every row is finished.

    It is not a frame itself, because a library that reads its columns would wait for the whole job.
    """

    _what = "frame"

    def __init__(
        self,
        about: Callable[[], str],
        on_wait: Callable[[], None],
        finished: Callable[[], pd.DataFrame],
    ) -> None:
        super().__init__(about, on_wait)
        self._finished = finished

    @property
    def frame(self) -> pd.DataFrame:
        """The rows that are finished now, even if the job was stopped or failed."""
        return self._finished()


class RowsJob(BackgroundJob):
    """A job over rows in the background. It has its own threads, so it starts immediately."""

    result = "progress"
    in_turn = False
    _bounds = (JobStopped,)

    def __init__(
        self, shell: InteractiveShell, prompt: str, quiet: bool, rows: FileRows | FrameRows
    ) -> None:
        super().__init__(shell, prompt, rows.target, quiet)
        self._rows, self._bar = rows, Bar(shell, self._unseen)
        self._above = self._bar.place
        if rows.finished is None:
            self.pending = Pending(self.about, self._draw_again)
        else:
            self.pending = PendingFrame(self.about, self._draw_again, rows.finished)
            self._left = f"; {rows.target}.frame has the rows that are finished"

    def about(self) -> str:
        """Its name, its state, and how many rows are finished."""
        return f"{super().about()}, {count(self._rows.job.progress())}"

    def _show_begin(self) -> None:
        self._bar.update(self._rows.job.progress(), get_configuration().clock.time())

    def _work(self) -> Any:
        return self._rows.collect(self._bar, background=True)

    def _show_end(self, end: Any) -> None:
        self._draw_below(quiet_line(f"{self.name} ended on {now_in_words()}"))

    def _show_error(self, error: Exception, line: str) -> None:
        self._draw_below(red_line(f"{line}: {type(error).__name__}: {error}"))

    def show(self, shell: InteractiveShell) -> None:
        """Show its progress or its outcome in the running cell."""
        progress = self._rows.job.progress()
        show(self._bar.end or bar_bundle(progress, get_configuration().clock.time()))
        end = f": {self.error}" if self.error else ""
        show(quiet_line(f"{super().about()}{end}"))

    @property
    def outcome(self) -> str:
        """How many rows are finished, and why it ended early, if it did."""
        rows = count(self._rows.job.progress())
        return f"{rows}; {self.error}" if self.error else rows

    @property
    def tokens(self) -> int | None:
        """Tokens of all requests so far."""
        return self._rows.job.progress().tokens


def _finished(rows: int) -> str:
    if not rows:
        return "no finished rows; run the cell again"
    return f"the {plural(rows, 'finished row')}; run the cell again for the others"


def _note(where: str, quality: Quality) -> str:
    """Where the rows are, and how well they agree with known labels or a second model."""
    return " · ".join([where, *str(quality).splitlines()])


@one_interrupt()
def _run(
    job: Job | FileJob,
    add: Callable[[Row], object],
    bar: Bar,
    stopped: Callable[[], str],
    background: bool,
) -> None:
    """Collect a job's rows in another thread, while this one draws and can be interrupted.

    `stopped` keeps the finished rows of a job that ends early, and returns a note about them.
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
        running = True
        while running:
            collector.join(_SECONDS)
            # This is checked before the progress is read, so that the last progress includes all
            # rows.
            running = collector.is_alive()
            raise_if_stopped()
            bar.update(job.progress(), clock.time())
    except KeyboardInterrupt:
        job.cancel()
        collector.join(_STOP_SECONDS)
        bar.update(job.progress(), clock.time())
        bar.finish(stopped(), ended="stopped" if background else "interrupted")
        raise CellInterrupted("calls in progress are counted when they end") from None
    for error in failures:
        if isinstance(error, JobStopped) or job.progress().done:
            bar.finish(stopped(), ended="stopped")
        else:
            bar.finish("", ended="failed")
        if isinstance(error, NoKeys):
            require_keys()
        raise error
    progress = job.progress()
    if progress.done and not progress.requests:
        # `%llm_why` says then that no route was asked.
        attempt_log(get_configuration().store).append(())


def variable_for(shell: InteractiveShell, name: str | None, data: str) -> str:
    """The name of the variable for the rows; raises InvalidRequest if it is not allowed or in use.

    `data` is the variable with the data. It cannot be used for the rows, because a job that ends
    early would replace the data with only the finished rows.
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
