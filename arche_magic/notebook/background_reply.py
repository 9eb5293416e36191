"""`%%llm --background`: a prompt that is answered while other cells run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from arche_magic.llm_providers import PendingReply
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.types import RouteId

from .background import BackgroundJob, red_line
from .display import Place, ReplyDisplay, show
from .receipt import attempt_lines
from .styles import quiet_line

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from arche_magic.llm_providers.attempt_log import Ended


class JobDisplay(ReplyDisplay):
    """The view of a reply whose cell has ended: the reply, and its receipt in another output."""

    def __init__(
        self, shell: InteractiveShell, quiet: bool, form: str, structured: bool, below: Place
    ) -> None:
        super().__init__(shell, quiet, form, structured)
        self._below = below

    @property
    def place(self) -> Place:
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
        """Leave it to `broke`."""

    def interrupted(self, ended: Ended | None) -> Reply | None:
        """Mark the part that arrived; the record's last request may be that of another cell."""
        if not self._text:
            self._draw(quiet_line("stopped before a reply arrived"), last=True)
            return None
        return super().interrupted(None)

    def _show_receipt(self, receipt: dict[str, str]) -> None:
        self._below.draw(receipt)

    def _offer(self, code: str) -> None:
        """A cell that has ended cannot offer another one."""


class ReplyJob(BackgroundJob):
    """A prompt in the background.

    Attributes:
        view: shows its reply.

    Args:
        form: how the reply is shown.
        structured: whether it has a schema.
        ask: sends the request and shows it in the view.
        keep: takes the reply.
    """

    result = "reply"

    def __init__(
        self,
        shell: InteractiveShell,
        prompt: str,
        variable: str | None,
        quiet: bool,
        form: str,
        structured: bool,
        ask: Callable[[ReplyDisplay], Reply],
        keep: Callable[[Reply], None],
    ) -> None:
        super().__init__(shell, prompt, variable, quiet)
        self.view = JobDisplay(shell, self._unseen, form, structured, self._below)
        self._form, self._ask, self._keep = form, ask, keep
        self._reply: Reply | None = None

    def _make_pending(self) -> PendingReply:
        return PendingReply(lambda: f"{self.name} is {self.state}", self._draw_again)

    def _work(self) -> Reply:
        self._reply = self._ask(self.view)
        return self._reply

    def _places(self) -> Sequence[Place]:
        return [self.view.place]

    def _show_begin(self) -> None:
        self.view.begin()

    def _show_end(self, end: Reply) -> None:
        self._keep(end)
        self.view.finish(end, self.name)

    def _show_error(self, error: Exception, line: str) -> None:
        self.view.broke(error)
        self._draw_below(quiet_line(line))

    def show(self, shell: InteractiveShell) -> None:
        """Show its reply or its state in the running cell."""
        if self._reply is not None:
            ReplyDisplay(shell, form=self._form).finish(self._reply, self.name)
        elif self.error is not None:
            show(quiet_line(f"{self.name} {self.state}: {self.error}"))
        else:
            show(quiet_line(f"{self.name} is {self.state}"))

    @property
    def route(self) -> RouteId | None:
        """The route that answered."""
        return self._reply.route if self._reply is not None else None

    @property
    def tokens(self) -> int | None:
        """Tokens of the prompt and the reply."""
        return self._reply.usage.total_tokens if self._reply is not None else None
