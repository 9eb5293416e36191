"""`%%llm --background`: prompts that are answered while other cells run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

from arche_magic.llm_providers import PendingReply
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.stopping import raise_if_stopped, stopped_by
from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.types import utc

from .display import Place, ReplyDisplay, show
from .receipt import attempt_lines
from .styles import RED, one_line, quiet_line
from .tables import Cell, table_bundle

if TYPE_CHECKING:
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from arche_magic.llm_providers.attempt_log import Ended

State = Literal["queued", "running", "done", "failed", "stopped"]
_MOST_AT_ONCE = 8
_LONGEST_PROMPT = 48
_TYPES = {
    "job": "int64", "state": "str", "prompt": "str", "since": "datetime64[ms, UTC]",
    "seconds": "float64", "variable": "object", "provider": "object", "key": "object",
    "model": "object", "tokens": "Int64", "error": "object",
}  # fmt: skip


class JobDisplay(ReplyDisplay):
    """The view of a reply whose cell has ended.

    It is drawn in two outputs that the cell has made, the reply and its receipt, since a new output
    might belong to the cell that runs now. Where outputs cannot be updated, as in a terminal or
    below `%%capture`, it is not shown.
    """

    def __init__(self, shell: InteractiveShell, quiet: bool, form: str, structured: bool) -> None:
        self._below = Place(shell)
        self._unseen = not (hasattr(shell, "kernel") and self._below.may_redraw)
        super().__init__(shell, quiet or self._unseen, form, structured)
        self._says = not quiet
        self._last: dict[str, Callable[[], None]] = {}

    def begin(self, line: str) -> None:
        """Make the outputs of the cell; the line stays if the kernel ends before the reply."""
        self._draw(quiet_line("waiting for its turn …"))
        self._draw_below(quiet_line(line))
        if self._unseen and self._says:
            show(f"{line}, and shows its reply")

    def again(self) -> None:
        """Draw the final state once more, for a frontend that has missed it.

        While it executes a notebook, nbclient reads no messages of cells that have ended.
        """
        for place in list(self._last):
            self._last.pop(place)()

    def broke(self, error: Exception) -> None:
        """Show the error in the place of the reply."""
        text = without_controls(f"{type(error).__name__}: {error}")
        attempts = attempt_lines(getattr(error, "attempts", ()))
        self._draw(
            {"text/plain": text, "text/html": f'<span style="color:{RED}">{escape(text)}</span>'},
            {"arche_magic": {"attempts": attempts}},
            last=True,
        )

    def ended(self, line: str) -> None:
        """Show a line below, instead of a receipt."""
        self._draw_below(quiet_line(line))

    def failed(self, ended: Ended | None) -> None:
        """Leave it to `broke`."""

    def interrupted(self, ended: Ended | None) -> Reply | None:
        """Mark the part that arrived; the record's last request may be that of another cell."""
        if not self._text:
            self._draw(quiet_line("stopped before a reply came"), last=True)
            return None
        return super().interrupted(None)

    def _draw(
        self,
        bundle: dict[str, str],
        metadata: dict[str, Any] | None = None,
        *,
        last: bool = False,
    ) -> None:
        super()._draw(bundle, metadata, last=last)
        if last and not self._quiet:
            self._last["reply"] = lambda: self._place.draw(bundle, metadata)

    def _draw_below(self, bundle: dict[str, str]) -> None:
        if not self._quiet:
            self._below.draw(bundle)
            self._last["receipt"] = lambda: self._below.draw(bundle)

    def _show_receipt(self, receipt: dict[str, str]) -> None:
        self._draw_below(receipt)

    def _offer(self, code: str) -> None:
        """A cell that has ended cannot offer another one."""


@dataclass
class BackgroundJob:
    """One prompt in the background, and the variable of its reply, if it has one.

    Attributes:
        since: when its cell ran (epoch seconds).
        seconds: how long it took, once it has ended.
        form: how its reply is shown.
    """

    number: int
    prompt: str
    view: JobDisplay
    form: str
    ask: Callable[[], Reply]
    keep: Callable[[Reply], None]
    since: float
    variable: str | None = None
    state: State = "queued"
    seconds: float | None = None
    reply: Reply | None = None
    error: Exception | None = None
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.pending = PendingReply(lambda: f"job {self.number} is {self.state}", self.view.again)
        # The context says which cell an output belongs to.
        self._context = copy_context()
        self._stop = threading.Event()
        self._begun = threading.Lock()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state not in ("queued", "running")

    def run(self) -> None:
        """Ask, show what comes, and give the reply to those who wait; at most once."""
        if self._begun.acquire(blocking=False):
            self._context.run(self._run)

    def stop(self) -> None:
        """Stop it soon, or at once if it is queued."""
        self._stop.set()
        self.run()

    def _run(self) -> None:
        end: Reply | Exception
        try:
            with stopped_by(self._stop):
                raise_if_stopped()
                self.state = "running"
                end = self.reply = self.ask()
        except KeyboardInterrupt:
            end = self.error = LLMProviderError(f"job {self.number} was stopped")
            self._close("stopped")
            self.view.ended(f"job {self.number} was stopped at {_clock(time.time())}")
        except Exception as error:  # noqa: BLE001  # raised again where its reply is used
            end = self.error = error
            self._close("failed")
            self.view.broke(error)
            self.view.ended(f"job {self.number} failed at {_clock(time.time())}")
        else:
            self._close("done")
            self.keep(end)
            self.view.finish(end, f"job {self.number}")
        self.pending.finish(end)

    def _close(self, state: State) -> None:
        self.state, self.seconds = state, time.monotonic() - self.began

    def show(self, shell: InteractiveShell) -> None:
        """Show its reply, or what is known about it, in the running cell."""
        if self.reply is not None:
            ReplyDisplay(shell, form=self.form).finish(self.reply, f"job {self.number}")
        elif self.error is not None:
            show(quiet_line(f"job {self.number} {self.state}: {self.error}"))
        else:
            show(quiet_line(f"job {self.number} is {self.state}"))


class BackgroundJobs:
    """The jobs of a kernel; a bounded number of threads runs them in order."""

    def __init__(self) -> None:
        self._jobs: list[BackgroundJob] = []
        self._queue: SimpleQueue[BackgroundJob | None] = SimpleQueue()
        self._threads = 0

    def __iter__(self) -> Iterator[BackgroundJob]:
        return iter(list(self._jobs))

    def __len__(self) -> int:
        return len(self._jobs)

    def job(
        self,
        prompt: str,
        view: JobDisplay,
        form: str,
        variable: str | None,
        ask: Callable[[], Reply],
        keep: Callable[[Reply], None],
    ) -> BackgroundJob:
        """A new job, whose outputs are those of the running cell.

        `ask` sends the request and shows it in the view; `keep` takes its reply.
        """
        since = get_configuration().clock.time()
        return BackgroundJob(len(self._jobs) + 1, prompt, view, form, ask, keep, since, variable)

    def start(self, job: BackgroundJob, notes: Sequence[str]) -> PendingReply:
        """Run a job as soon as one of the threads is free."""
        for note in notes:
            job.view.note(note)
        job.view.begin(
            f"job {job.number} was started in the background on {_clock(job.since)}; "
            "%llm_jobs lists and stops it"
        )
        self._jobs.append(job)
        self._queue.put(job)
        if self._threads < _MOST_AT_ONCE:
            self._threads += 1
            threading.Thread(target=self._work, name="arche_magic job", daemon=True).start()
        return job.pending

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
                Cell(_clock(job.since)),
                Cell(f"{_seconds(job):.1f} s", right=True),
                Cell(job.variable or ""),
                Cell(one_line(job.prompt, _LONGEST_PROMPT)),
                Cell(one_line(_outcome(job), 2 * _LONGEST_PROMPT), long=True),
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

        rows = []
        for job in self:
            reply = job.reply
            came = (
                (reply.provider, reply.key, reply.model, reply.usage.total_tokens)
                if reply is not None
                else (None, None, None, None)
            )
            rows.append(
                (job.number, job.state, job.prompt, utc(job.since), _seconds(job), job.variable,
                 *came, str(job.error) if job.error else None)
            )  # fmt: skip
        return typed_frame(_TYPES, rows)


def _seconds(job: BackgroundJob) -> float:
    return time.monotonic() - job.began if job.seconds is None else job.seconds


def _clock(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment).astimezone():%d %b %H:%M:%S}"


def _outcome(job: BackgroundJob) -> str:
    if job.reply is not None:
        return str(job.reply.route)
    return str(job.error or "")
