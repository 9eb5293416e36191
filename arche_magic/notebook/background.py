"""`%%llm --background`: what runs while other cells run, and the list of it."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextvars import copy_context
from datetime import datetime
from html import escape
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

from arche_magic.llm_providers import Pending
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError
from arche_magic.llm_providers.stopping import raise_if_stopped, stopped_by
from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.types import RouteId, utc

from .display import Place, show
from .styles import RED, one_line, quiet_line
from .tables import Cell, table_bundle

if TYPE_CHECKING:
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

State = Literal["queued", "running", "done", "failed", "stopped"]
_MOST_AT_ONCE = 8
_LONGEST_PROMPT = 48
_TYPES = {
    "job": "int64", "state": "str", "prompt": "str", "since": "datetime64[ms, UTC]",
    "seconds": "float64", "variable": "object", "provider": "object", "key": "object",
    "model": "object", "tokens": "Int64", "error": "object",
}  # fmt: skip


class BackgroundJob(ABC):
    """Something that runs after its cell has ended, and fills in the outputs of that cell.

    The cell makes its outputs, since a new one might belong to the cell that runs now. Below what
    comes is a line on the job. Where outputs cannot be updated, as in a terminal or below
    `%%capture`, nothing is shown.

    Attributes:
        number: what `%llm_jobs` calls it; 0 before it starts.
        since: when its cell ran (epoch seconds).
        seconds: how long it took, once it has ended.
        pending: its result, for those who wait for it.
        in_turn: whether it waits for one of the threads that all jobs share.
    """

    in_turn = True
    # Errors that end it as the user wished.
    _bounds: tuple[type[Exception], ...] = ()

    def __init__(
        self, shell: InteractiveShell, prompt: str, variable: str | None, quiet: bool
    ) -> None:
        self.prompt, self.variable = prompt, variable
        self.number = 0
        self.state: State = "queued"
        self.since = get_configuration().clock.time()
        self.seconds: float | None = None
        self.error: Exception | None = None
        self.pending: Pending[Any] = self._make_pending()
        self._below = Place(shell)
        self._says = not quiet
        self._unseen = quiet or not (hasattr(shell, "kernel") and self._below.may_redraw)
        self._began = time.monotonic()
        # The context says which cell an output belongs to.
        self._context = copy_context()
        self._stop = threading.Event()
        self._begun = threading.Lock()
        self._drawn_again = False

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"job {self.number}"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state not in ("queued", "running")

    @property
    def seconds_so_far(self) -> float:
        """How long it took, or has taken so far."""
        return time.monotonic() - self._began if self.seconds is None else self.seconds

    def begin(self, number: int) -> None:
        """Make the outputs of the cell; they stay if the kernel ends before the job."""
        self.number = number
        line = (
            f"{self.name} was started in the background on {clock(self.since)}; "
            "%llm_jobs lists and stops it"
        )
        if not self._unseen:
            self._show_begin()
            self._below.draw(quiet_line(line))
        elif self._says:
            show(f"{line}, and shows its {self.result}")

    def run(self) -> None:
        """Do the work, show what comes, and give the result to those who wait; at most once."""
        if self._begun.acquire(blocking=False):
            self._context.run(self._run)

    def stop(self) -> None:
        """Stop it soon, or at once if it is queued."""
        self._stop.set()
        self.run()

    def _run(self) -> None:
        end: Any
        try:
            with stopped_by(self._stop):
                raise_if_stopped()
                self.state = "running"
                end = self._work()
        except KeyboardInterrupt:
            end = self.error = LLMProviderError(f"{self.name} was stopped{self._left()}")
            self._close("stopped")
            self._draw_below(quiet_line(f"{self.name} was stopped at {clock(time.time())}"))
        except Exception as error:  # noqa: BLE001  # raised again where the result is used
            end = self.error = error
            self._close("stopped" if isinstance(error, self._bounds) else "failed")
            self._show_error(error, f"{self.name} {self.state} at {clock(time.time())}")
        else:
            self._close("done")
            self._show_end(end)
        self.pending.finish(end)

    def _close(self, state: State) -> None:
        self.state, self.seconds = state, time.monotonic() - self._began

    def _draw_below(self, bundle: dict[str, str]) -> None:
        if not self._unseen:
            self._below.draw(bundle)

    def _draw_again(self) -> None:
        """Draw the final state once more, for a frontend that has missed it.

        While it executes a notebook, nbclient reads no messages of cells that have ended.
        """
        if self._unseen or self._drawn_again:
            return
        self._drawn_again = True
        for place in (*self._places(), self._below):
            place.draw_again()

    result = "result"
    """What messages call its result."""

    @abstractmethod
    def _make_pending(self) -> Pending[Any]: ...

    @abstractmethod
    def _work(self) -> Any:
        """Do the work and show how it goes; returns the result."""

    @abstractmethod
    def _places(self) -> Sequence[Place]:
        """The outputs above the line on the job."""

    @abstractmethod
    def _show_begin(self) -> None:
        """Make the output above the line on the job."""

    @abstractmethod
    def _show_end(self, end: Any) -> None:
        """Show the result."""

    @abstractmethod
    def _show_error(self, error: Exception, line: str) -> None:
        """Show why there is no result, and the line."""

    def _left(self) -> str:
        """What a stopped job leaves, in words."""
        return ""

    @abstractmethod
    def show(self, shell: InteractiveShell) -> None:
        """Show its result, or what is known about it, in the running cell."""

    @property
    def outcome(self) -> str:
        """What came of it, in words."""
        return str(self.route or self.error or "")

    @property
    def route(self) -> RouteId | None:
        """The route that answered, if it was one."""
        return None

    @property
    def tokens(self) -> int | None:
        """Tokens spent, if known."""
        return None


class BackgroundJobs:
    """The jobs of a kernel; a bounded number of threads runs prompts in order."""

    def __init__(self) -> None:
        self._jobs: list[BackgroundJob] = []
        self._queue: SimpleQueue[BackgroundJob | None] = SimpleQueue()
        self._threads = 0

    def __iter__(self) -> Iterator[BackgroundJob]:
        return iter(list(self._jobs))

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self, job: BackgroundJob) -> None:
        """Run a job in the background: at once, or in turn."""
        job.begin(len(self._jobs) + 1)
        self._jobs.append(job)
        if not job.in_turn:
            threading.Thread(target=job.run, name="arche_magic job", daemon=True).start()
            return
        self._queue.put(job)
        if self._threads < _MOST_AT_ONCE:
            self._threads += 1
            threading.Thread(target=self._work, name="arche_magic job", daemon=True).start()

    def numbered(self, text: str) -> BackgroundJob:
        """The job of that number.

        Raises:
            InvalidRequest: there is none.
        """
        found = [job for job in self._jobs if str(job.number) == text]
        if not found:
            raise InvalidRequest(f"%llm_jobs: unknown job {text!r}; %llm_jobs lists all jobs")
        return found[0]

    def stop(self) -> int:
        """Stop every job that has not ended; returns how many these are."""
        open_jobs = [job for job in self._jobs if not job.has_ended]
        for job in open_jobs:
            job.stop()
        return len(open_jobs)

    def close(self) -> None:
        """Stop every job, and end the threads."""
        self.stop()
        for _ in range(self._threads):
            self._queue.put(None)
        self._threads = 0

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job.run()

    def bundle(self) -> dict[str, str] | str:
        """A row per job, for people."""
        if not self._jobs:
            return "no job yet; %%llm --background starts one"
        rows = [
            (
                Cell(f"{job.number}", right=True),
                Cell(job.state),
                Cell(clock(job.since)),
                Cell(f"{job.seconds_so_far:.1f} s", right=True),
                Cell(job.variable or ""),
                Cell(one_line(job.prompt, _LONGEST_PROMPT)),
                Cell(one_line(job.outcome, 2 * _LONGEST_PROMPT), long=True),
            )
            for job in self._jobs
        ]
        heads = ("job", "state", "since", "time", "variable", "prompt", "outcome")
        return table_bundle(heads, rows)

    def frame(self) -> pd.DataFrame:
        """A row per job.

        Columns: `job, state, prompt, since, seconds, variable, provider, key, model, tokens,
        error`; `since` is when its cell ran (aware, UTC).
        """
        from .frames import typed_frame

        rows = [
            (job.number, job.state, job.prompt, utc(job.since), job.seconds_so_far, job.variable,
             *(job.route or (None, None, None)), job.tokens, str(job.error) if job.error else None)
            for job in self
        ]  # fmt: skip
        return typed_frame(_TYPES, rows)


def clock(moment: float) -> str:
    """The local day and time, with seconds."""
    return f"{datetime.fromtimestamp(moment).astimezone():%d %b %H:%M:%S}"


def red_line(text: str) -> dict[str, str]:
    """A line in red, as text and as HTML."""
    text = without_controls(text)
    return {"text/plain": text, "text/html": f'<span style="color:{RED}">{escape(text)}</span>'}
