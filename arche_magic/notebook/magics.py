"""The magics: every command of `commands/`, registered with IPython."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics
from traitlets import TraitError

from .command import Session
from .commands.llm import llm
from .commands.llm_chat import llm_chat
from .commands.llm_doctor import llm_doctor
from .commands.llm_explain import llm_explain
from .commands.llm_history import llm_history
from .commands.llm_insert import llm_insert
from .commands.llm_jobs import llm_jobs
from .commands.llm_keys import llm_keys
from .commands.llm_last import llm_last
from .commands.llm_models import llm_models
from .commands.llm_panel import llm_panel
from .commands.llm_prompts import llm_prompts
from .commands.llm_quota import llm_quota
from .commands.llm_retry import llm_retry
from .commands.llm_sandbox import llm_sandbox
from .commands.llm_serve import llm_serve
from .commands.llm_services import llm_services
from .commands.llm_stats import llm_stats
from .commands.llm_why import llm_why
from .defaults import Defaults
from .display_hook import OutHook
from .explain import FailureWatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import TextIOWrapper

    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    from .status_bar import StatusBar

COMMANDS = (
    llm, llm_chat, llm_doctor, llm_explain, llm_history, llm_insert, llm_jobs, llm_keys, llm_last,
    llm_models, llm_panel, llm_prompts, llm_quota, llm_retry, llm_sandbox, llm_serve, llm_services,
    llm_stats, llm_why,
)  # fmt: skip


class ArcheMagics(Defaults, Magics):
    """Prompt language models within their limits. Defaults: `%config ArcheMagics`."""

    registered = True
    magics = {  # noqa: RUF012  # as IPython's own decorator sets it
        "line": {command.__name__: command.__name__ for command in COMMANDS},
        "cell": {llm.__name__: llm.__name__},
    }

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell=shell, parent=shell)
        self.replaced: dict[tuple[str, str], Callable[..., Any]] = {}
        self.session = Session(shell, self, OutHook(shell), FailureWatch(shell))
        self.status_bar: StatusBar | None = None
        self.strict_stdout: TextIOWrapper | None = None
        self._checks_provider = True

    def update_config(self, config: Config) -> None:
        """Apply the values that `%config` sets.

        IPython then passes the same object to the shell, which must not keep a refused value,
        because the next `%load_ext` would fail.
        """
        try:
            super().update_config(config)
        except TraitError:
            config.pop(type(self).__name__)
            raise

    def unload(self) -> None:
        """Close panels and the status bar, stop jobs, sandbox and server, restore `Out`."""
        from . import panel, receipt, sandbox_switch

        panel.close_all()
        if self.status_bar:
            self.status_bar.close()
        if server := self.session.server:
            print(f"The server at {server.base_url} has stopped.")
            server.stop()
        if "jobs" in vars(self.session) and (stopped := self.session.jobs.close()):
            print(f"Background jobs stopped: {stopped}.")
        if sandbox_switch.is_running():
            # From now on, prompts use real quota.
            print(sandbox_switch.stop())
        receipt.forget_hint()
        self.session.failures.remove()
        self.session.out.remove()


for _command in COMMANDS:
    setattr(ArcheMagics, _command.__name__, _command)
