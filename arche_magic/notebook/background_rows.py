"""`%%llm --background --over`: a prompt for every row, asked while other cells run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from arche_magic.bulk import JobStopped
from arche_magic.bulk.progress import count
from arche_magic.llm_providers import Pending
from arche_magic.llm_providers.config import get_configuration

from .background import BackgroundJob, clock, red_line
from .bar import Bar, bar_bundle
from .display import Place, show
from .styles import quiet_line

if TYPE_CHECKING:
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from arche_magic.bulk import Job
    from arche_magic.bulk.file_job import FileJob


class PendingFrame(Pending["pd.DataFrame"]):
    """The frame of a job in the background: `wait()` returns it when every row is finished.

    It is not a frame itself, because a library that reads its columns would wait for the whole job.

    Args:
        finished: makes the frame of the rows that are finished.
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
        """The rows that are finished now, also those of a job that was stopped or failed."""
        return self._finished()


class RowsJob(BackgroundJob):
    """A job with rows in the background. It has threads of its own, so it starts at once.

    Args:
        job: the rows.
        work: asks for them, shows the progress in the bar, and returns the result.
        finished: makes the frame of the rows that are finished; None if they go to a file.
    """

    result = "progress"
    in_turn = False
    _bounds = (JobStopped,)

    def __init__(
        self,
        shell: InteractiveShell,
        prompt: str,
        variable: str | None,
        quiet: bool,
        job: Job | FileJob,
        work: Callable[[Bar], Any],
        finished: Callable[[], pd.DataFrame] | None,
    ) -> None:
        self._job, self._ask, self._finished = job, work, finished
        super().__init__(shell, prompt, variable, quiet)
        self._bar = Bar(shell, self._unseen)

    def _make_pending(self) -> Pending[Any]:
        if self._finished is None:
            return Pending(self._about, self._draw_again)
        return PendingFrame(self._about, self._draw_again, self._finished)

    def _about(self) -> str:
        return f"{self.name} is {self.state}, {count(self._job.progress())}"

    def _work(self) -> Any:
        return self._ask(self._bar)

    def _places(self) -> Sequence[Place]:
        return [self._bar.place] if self._bar.place else []

    def _show_begin(self) -> None:
        self._bar.update(self._job.progress(), get_configuration().clock.time())

    def _show_end(self, end: Any) -> None:
        self._draw_below(quiet_line(f"{self.name} ended at {clock(time.time())}"))

    def _show_error(self, error: Exception, line: str) -> None:
        self._draw_below(red_line(f"{line}: {type(error).__name__}: {error}"))

    def _left(self) -> str:
        if self._finished is None:
            return ""
        return f"; {self.variable}.frame has the rows that are finished"

    def show(self, shell: InteractiveShell) -> None:
        """Show how far it is, or how it ended, in the running cell."""
        show(self._bar.end or bar_bundle(self._job.progress(), get_configuration().clock.time()))
        end = f": {self.error}" if self.error else ""
        show(quiet_line(f"{self.name} is {self.state}{end}"))

    @property
    def outcome(self) -> str:
        """How many rows are finished, and what ended it early."""
        rows = count(self._job.progress())
        return f"{rows}; {self.error}" if self.error else rows

    @property
    def tokens(self) -> int | None:
        """Tokens of all requests so far."""
        return self._job.progress().tokens
