"""`%%llm --background`: what runs while other cells run."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextvars import copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

from arche_magic.llm_providers import Pending, PendingReply
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.stopping import raise_if_stopped, stopped_by

from .display import CellOutput, ReplyDisplay, show
from .receipt import attempt_lines
from .styles import day_and_time, quiet_line, red_line

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from arche_magic.llm_providers.attempt_log import Ended

    from .command import SentPrompt, Session

RunState = Literal["queued", "running", "done", "failed", "stopped"]
_MOST_AT_ONCE = 8


class BackgroundJob(ABC):
    """A job that runs after its cell has ended, and fills in the outputs of that cell.

    The cell creates the outputs in advance, because a new output would belong to the cell that is
    running then. Below the result is a line about the job. If outputs cannot be updated, as in a
    terminal or below `%%capture`, nothing is shown.

    Attributes:
        pending: the object that waits for its result.
        number: its number in `%llm_jobs`; 0 before it starts.
        name: its name in messages.
        since: when its cell ran (epoch seconds).
    """

    pending: Pending[Any]
    in_turn = True
    """Whether it is queued for one of the threads that all jobs share."""
    result = "result"
    """The word for its result in messages."""
    _bounds: tuple[type[Exception], ...] = ()
    """The errors that mean that it reached a bound set by the user."""
    _left = ""
    """Added to a message about a stopped job: the part of the result that is kept."""
    reply: Reply | None = None
    """The reply to its prompt, if it was answered."""

    def __init__(
        self, shell: InteractiveShell, prompt: str, variable: str | None, quiet: bool
    ) -> None:
        self.prompt, self.variable = prompt, variable
        self.number, self.name = 0, ""
        self.state: RunState = "queued"
        self.since = get_configuration().clock.time()
        self.error: Exception | None = None
        self._above: CellOutput | None = None
        self._below = CellOutput(shell)
        self._says = not quiet
        self._unseen = quiet or not (hasattr(shell, "kernel") and self._below.may_redraw)
        self._began = time.monotonic()
        self._seconds: float | None = None
        # The context determines to which cell an output belongs.
        self._context = copy_context()
        self._stop = threading.Event()
        self._begun = threading.Lock()
        self._drawn_again = False

    @property
    def has_ended(self) -> bool:
        """Whether it is done, failed or was stopped; its result may not be shown yet."""
        return self.state not in ("queued", "running")

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return time.monotonic() - self._began if self._seconds is None else self._seconds

    @property
    def outcome(self) -> str:
        """The route that answered, or the error."""
        return str(self.error or "" if self.reply is None else self.reply.route)

    @property
    def tokens(self) -> int | None:
        """Tokens of the prompt and the reply, if known."""
        return None if self.reply is None else self.reply.usage.total_tokens

    def about(self) -> str:
        """Its name and its state."""
        return f"{self.name} {'' if self.state == 'failed' else 'is '}{self.state}"

    def begin(self, number: int) -> None:
        """Create the outputs of the cell; they stay if the kernel ends before the job."""
        self.number, self.name = number, f"job {number}"
        since = day_and_time(self.since, seconds=True)
        line = f"{self.name} was started in the background on {since}; %llm_jobs lists and stops it"
        if not self._unseen:
            self._show_begin()
            self._below.draw(quiet_line(line))
        elif self._says:
            show(f"{line}, and shows its {self.result}")

    def run(self) -> None:
        """Do the work, show its result, and end all waits for it; later calls do nothing."""
        if self._begun.acquire(blocking=False):
            self._context.run(self._run)

    def stop(self) -> None:
        """Stop it soon, or immediately if it is queued."""
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
            end = self.error = LLMProviderError(f"{self.name} was stopped{self._left}")
            self._close("stopped")
            self._draw_below(quiet_line(f"{self.name} was stopped on {now_in_words()}"))
        except Exception as error:  # noqa: BLE001  # raised again where the result is used
            end = self.error = error
            self._close("stopped" if isinstance(error, self._bounds) else "failed")
            self._show_error(error, f"{self.name} {self.state} on {now_in_words()}")
        else:
            self._close("done")
            try:
                self._show_end(end)
            except Exception as error:  # noqa: BLE001  # such as one of a schema's own class
                self._show_error(error, f"the {self.result} of {self.name} cannot be shown")
        self.pending.finish(end)

    def _close(self, state: RunState) -> None:
        self.state, self._seconds = state, self.seconds

    def _draw_below(self, bundle: dict[str, str]) -> None:
        if not self._unseen:
            self._below.draw(bundle)

    def _draw_again(self) -> None:
        """Draw the final state once more, for a frontend that has missed it.

        nbclient reads no messages of ended cells while it executes a notebook.
        """
        if self._unseen or self._drawn_again:
            return
        self._drawn_again = True
        if self._above is not None:
            self._above.draw_again()
        self._below.draw_again()

    @abstractmethod
    def _show_begin(self) -> None:
        """Create the output above the line about the job."""

    @abstractmethod
    def _work(self) -> Any:
        """Do the work and show its progress; returns the result."""

    @abstractmethod
    def _show_end(self, end: Any) -> None:
        """Show the result."""

    @abstractmethod
    def _show_error(self, error: Exception, line: str) -> None:
        """Show the error, and the line about the job."""

    @abstractmethod
    def show(self, shell: InteractiveShell) -> None:
        """Show its result, or what is known about it, in the running cell."""


class ReplyJob(BackgroundJob):
    """A prompt in the background. When its reply arrives, it becomes the session's last reply.

    `ask` sends the request and shows its reply, in the form `form`, in the `view`.
    """

    result = "reply"

    def __init__(
        self, session: Session, asked: SentPrompt, form: str, ask: Callable[[ReplyDisplay], Reply]
    ) -> None:
        options = asked.options
        super().__init__(session.shell, asked.prompt.text, options.output, options.quiet)
        self.pending: PendingReply = PendingReply(self.about, self._draw_again)
        self.view = _JobDisplay(session.shell, self._unseen, form, self._below)
        self._above = self.view.place
        self._session, self._asked, self._form, self._ask = session, asked, form, ask

    def _show_begin(self) -> None:
        self.view.begin()

    def _work(self) -> Reply:
        with self._session.noting_unsent():
            return self._ask(self.view)

    def _show_end(self, end: Reply) -> None:
        self.reply = self._asked.reply = self._session.reply = end
        self.view.finish(end, self.name)

    def _show_error(self, error: Exception, line: str) -> None:
        self.view.broke(error)
        self._draw_below(quiet_line(line))

    def show(self, shell: InteractiveShell) -> None:
        """Show its reply or its state in the running cell."""
        if self.reply is not None:
            ReplyDisplay(shell, form=self._form).finish(self.reply, self.name)
        elif self.error is not None:
            show(quiet_line(f"{self.name} {self.state}: {self.error}"))
        else:
            show(quiet_line(self.about()))


class _JobDisplay(ReplyDisplay):
    """The view of a reply whose cell has ended, with the receipt in a separate output."""

    def __init__(self, shell: InteractiveShell, quiet: bool, form: str, below: CellOutput) -> None:
        super().__init__(shell, quiet, form)
        self._below = below

    @property
    def place(self) -> CellOutput:
        """The output of the reply."""
        return self._place

    def begin(self) -> None:
        """Make the output of the reply."""
        self._draw(quiet_line("waiting for its turn …"))

    def broke(self, error: Exception) -> None:
        """Show the error instead of the reply."""
        attempts = attempt_lines(getattr(error, "attempts", ()))
        text = f"{type(error).__name__}: {error}"
        self._draw(red_line(text), {"arche_magic": {"attempts": attempts}}, last=True)

    def failed(self, ended: Ended | None) -> None:
        """Do nothing, because `broke` shows the error."""

    def interrupted(self, ended: Ended | None) -> Reply | None:
        """Mark the part that arrived; ignore `ended`, which may belong to another cell."""
        if not self._text:
            self._draw(quiet_line("stopped before a reply arrived"), last=True)
            return None
        return super().interrupted(None)

    def _show_receipt(self, receipt: dict[str, str]) -> None:
        self._below.draw(receipt)

    def _offer(self, code: str) -> None:
        """Do nothing, because a cell that has ended cannot offer a new cell."""


class BackgroundJobs:
    """The background jobs of a kernel. A few threads run prompts in the order of their cells."""

    def __init__(self) -> None:
        self._jobs: list[BackgroundJob] = []
        self._queue: SimpleQueue[BackgroundJob | None] = SimpleQueue()
        self._threads = 0

    def __iter__(self) -> Iterator[BackgroundJob]:
        return iter(list(self._jobs))

    def start(self, job: BackgroundJob) -> None:
        """Run a job in the background, immediately or in turn."""
        job.begin(len(self._jobs) + 1)
        self._jobs.append(job)
        run = job.run
        if job.in_turn:
            self._queue.put(job)
            if self._threads == _MOST_AT_ONCE:
                return
            self._threads += 1
            run = self._work
        threading.Thread(target=run, name="arche_magic job", daemon=True).start()

    def numbered(self, text: str) -> BackgroundJob:
        """The job with this number; raises InvalidRequest if there is none."""
        for job in self._jobs:
            if str(job.number) == text:
                return job
        raise InvalidRequest(f"%llm_jobs: unknown job {text!r}; %llm_jobs lists all jobs")

    def stop(self) -> int:
        """Stop every job that has not ended; returns how many these are."""
        open_jobs = [job for job in self._jobs if not job.has_ended]
        for job in open_jobs:
            job.stop()
        return len(open_jobs)

    def close(self) -> int:
        """Stop every job, and end the threads; returns how many jobs had not ended."""
        stopped = self.stop()
        for _ in range(self._threads):
            self._queue.put(None)
        self._threads = 0
        return stopped

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job.run()


def now_in_words() -> str:
    """The local day and time, with seconds."""
    return day_and_time(time.time(), seconds=True)
