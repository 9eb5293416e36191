"""The kernel's part of the item in JupyterLab's status bar; `labextension/` draws it.

The page finds the comm of this module by asking the kernel for its comms, which runs no code. It
sends `{"wants": "status"}` or `{"wants": "table"}`. The answers are `{"status": ...}`, sent again
whenever it changes, and `{"table": ...}`. No prompt and no key goes through it.

The engine is imported inside functions, because this module is loaded with the extension.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from comm import get_comm_manager
from comm.base_comm import BaseComm

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .magics import Defaults
    from .quota import QuotaView

TARGET = "arche_magic.status"
# How long changes are sent after a page last asked for them. Otherwise, a kernel whose page was
# closed would never count as idle, and a server would never stop it.
_WATCHED_SECONDS = 600.0
_ENGINE = "arche_magic.llm_providers.orchestrator"
_UNUSED = {
    "sign": "unknown",
    "text": "arche_magic: nothing asked yet",
    "short": "arche_magic",
    "details": ["What is left is shown after the first command.", "Click to see it now."],
    "opens_in": None,
}


class StatusBar(BaseComm):
    """The status of one kernel, and the comm over which all pages that show the kernel get it.

    The pages open no comm themselves, because a kernel without this extension would log an error.
    The route of the next prompt depends on the `defaults`.
    """

    def __init__(self, kernel: Any, defaults: Defaults) -> None:
        super().__init__(target_name=TARGET, primary=False)
        self._kernel = kernel
        self._defaults = defaults
        self._watched_until = 0.0
        self._sent: dict[str, Any] = {}
        get_comm_manager().register_comm(self)

    def publish_msg(
        self,
        msg_type: str,
        data: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        buffers: list[bytes] | None = None,
        **keys: Any,
    ) -> None:
        """Send a message to the pages, from any thread.

        The message belongs to no cell. With ipykernel's own comms, it would belong to the running
        cell, and messages of pages would be handled only after that cell has ended.
        """
        content = {"data": data or {}, "comm_id": self.comm_id, **keys}
        session, socket = self._kernel.session, self._kernel.iopub_socket
        session.send(socket, msg_type, content, ident=self.topic)

    def handle_msg(self, msg: dict[str, Any]) -> None:
        """Answer a page.

        The inherited method also runs IPython's hooks for cells. ipykernel 7 handles messages while
        a cell runs, and matplotlib's hook would then close the figures of that cell.
        """
        answers = {"status": self._watch, "table": self._send_table}
        # As text, because a page may send anything.
        data = msg["content"].get("data")
        if answer := answers.get(str(data.get("wants")) if isinstance(data, dict) else ""):
            # Runs in a thread, because importing the engine must not delay the next cell.
            threading.Thread(target=answer, name="arche_magic status", daemon=True).start()

    @property
    def visible(self) -> bool:
        """Whether a page has asked for the status in the last minutes."""
        return time.monotonic() < self._watched_until

    def draw(self, view: QuotaView) -> None:
        """Send the status, if it has changed."""
        from .panel.view import status_of

        status = status_of(view, self._defaults)
        if status == self._sent:
            return
        self._sent = status
        shown = dict(status)
        # Sent as seconds from now, because the clock of the page may differ.
        opens_at = shown.pop("opens_at")
        shown["opens_in"] = None if opens_at is None else max(0.0, opens_at - view.now)
        self.send({"status": shown})

    def close(self, *args: Any, **keys: Any) -> None:
        """Remove the item from all pages."""
        self._watched_until = 0.0
        if _ENGINE in sys.modules:
            from . import panel

            panel.stop_drawing(self)
        super().close(*args, **keys)

    def _watch(self) -> None:
        """Send the status now, and each change during the next minutes."""
        if _ENGINE not in sys.modules:
            # The engine is not imported yet. This keeps loading cheap, and warnings about settings
            # appear in a cell.
            self.send({"status": _UNUSED})
            return
        from . import panel

        with panel.lock:
            if self._closed:
                return
            self._watched_until = time.monotonic() + _WATCHED_SECONDS
            # A page that was just opened has no status yet.
            self._sent = {}
            if self not in panel.open_panels():
                panel.start_drawing(self)
        panel.redraw()

    def _send_table(self) -> None:
        from arche_magic.llm_providers.errors import LLMProviderError

        from . import quota

        try:
            table = quota.view_bundle(quota.current_quota())
        except LLMProviderError as error:
            table = {"text/plain": f"{type(error).__name__}: {error}"}
        self.send({"table": table})
        self._watch()


def start(shell: InteractiveShell, defaults: Defaults) -> StatusBar | None:
    """The status of this kernel; None in a plain terminal, which has no status bar."""
    kernel = getattr(shell, "kernel", None)
    return StatusBar(kernel, defaults) if hasattr(kernel, "iopub_socket") else None
