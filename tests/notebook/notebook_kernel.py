"""A real kernel, and the results of a cell as a notebook stores them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.manager import KernelManager

from arche_magic.sandbox import Sandbox

KEY_VARIABLES = ("GROQ_", "MISTRAL_", "GOOGLE_", "GEMINI_", "OPENAI_", "ARCHE_")
_DISPLAYS = ("display_data", "update_display_data", "execute_result")


def kernel_environment(folder: Path, **more: str) -> dict[str, str]:
    """This process's variables, with IPython's profile and the user's settings in a folder."""
    own = {"IPYTHONDIR": str(folder / "ipython"), "XDG_CONFIG_HOME": str(folder)}
    return {**os.environ, **own, **more}


@dataclass
class Cell:
    """The results of one execution."""

    status: str = ""
    error: list[str] = field(default_factory=list)
    error_name: str = ""
    messages: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)
    payload: list[dict[str, Any]] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0

    @property
    def printed(self) -> str:
        """The text on stdout and stderr."""
        return "".join(c["text"] for _, kind, c in self.messages if kind == "stream")

    @property
    def displays(self) -> list[dict[str, Any]]:
        """The final outputs: the content of each display after its last update."""
        kept: list[dict[str, Any]] = []
        places: dict[str, int] = {}
        for _, kind, content in self.messages:
            if kind not in _DISPLAYS:
                continue
            display_id = content.get("transient", {}).get("display_id")
            if kind == "update_display_data":
                if display_id in places:
                    kept[places[display_id]] = content
                continue
            if display_id:
                places[display_id] = len(kept)
            kept.append(content)
        return kept

    def data(self, mimetype: str = "text/plain") -> list[str]:
        """The displays' content in this format."""
        return [content["data"].get(mimetype, "") for content in self.displays]

    @property
    def results(self) -> list[str]:
        """The texts of `Out[n]`."""
        found = (c for _, kind, c in self.messages if kind == "execute_result")
        return [content["data"]["text/plain"] for content in found]

    @property
    def message(self) -> str:
        """The error in one line."""
        assert len(self.error) == 1, self.error
        return self.error[0]


class Kernel:
    """A python3 kernel in a separate folder, without keys unless it is given some."""

    def __init__(self, folder: Path, extension: bool = True, **variables: str) -> None:
        self.folder = folder
        # Messages that came meanwhile and do not belong to the running cell, such as those of
        # threads.
        self.elsewhere: list[dict[str, Any]] = []
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder), env=kernel_environment(folder, **variables))
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        if extension:
            assert self.run("%load_ext arche_magic").status == "ok"

    def run(
        self,
        code: str,
        interrupt_when: Callable[[Cell], bool] | None = None,
        timeout: float = 60.0,
    ) -> Cell:
        """Execute a cell; interrupt the kernel once `interrupt_when` is true for its outputs.

        It is called after each output, and fifty times a second. `started` is then the time of the
        interrupt.
        """
        cell = Cell(started=time.monotonic())
        request = self.client.execute(code, store_history=True)
        deadline = time.monotonic() + timeout
        while True:
            if interrupt_when is not None and interrupt_when(cell):
                interrupt_when = None
                cell.started = time.monotonic()
                self.manager.interrupt_kernel()
            left = max(0.1, deadline - time.monotonic())
            try:
                message = self.client.get_iopub_msg(timeout=0.02 if interrupt_when else left)
            except Empty:
                assert time.monotonic() < deadline, f"the cell still runs after {timeout:g} s"
                continue
            if message["parent_header"].get("msg_id") != request:
                self.elsewhere.append(message)
                continue
            kind, content = message["msg_type"], message["content"]
            cell.messages.append((time.monotonic(), kind, content))
            if kind == "error":
                cell.error, cell.error_name = content["traceback"], content["ename"]
            if kind == "status" and content["execution_state"] == "idle":
                break
        cell.ended = time.monotonic()
        while True:
            reply = self.client.get_shell_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == request:
                cell.status = reply["content"]["status"]
                cell.payload = reply["content"].get("payload", [])
                return cell

    def run_and_type(self, code: str, typed: str | None) -> tuple[Cell, list[dict[str, Any]]]:
        """Execute a cell and type this whenever it asks; with None, no input is possible.

        Returns the cell and the questions.
        """
        cell, questions = Cell(started=time.monotonic()), []

        def note(message: dict[str, Any]) -> None:
            kind, content = message["msg_type"], message["content"]
            cell.messages.append((time.monotonic(), kind, content))
            if kind == "error":
                cell.error, cell.error_name = content["traceback"], content["ename"]

        def answer(message: dict[str, Any]) -> None:
            questions.append(message["content"])
            self.client.input(typed or "")

        reply = self.client.execute_interactive(
            code,
            allow_stdin=typed is not None,
            output_hook=note,
            stdin_hook=answer,
            timeout=120,
        )
        cell.status, cell.ended = reply["content"]["status"], time.monotonic()
        return cell, questions

    def page(self, code: str) -> str:
        """The text that `?` shows in the frontend's pager."""
        reply = self.client.execute(code, reply=True, timeout=120)
        while self.client.get_iopub_msg(timeout=60)["content"].get("execution_state") != "idle":
            pass
        return "".join(page["data"]["text/plain"] for page in reply["content"]["payload"])

    def value(self, expression: str) -> Any:
        """The value of an expression in the kernel, rebuilt from its repr."""
        import ast

        cell = self.run(f"print(repr({expression}))")
        assert cell.status == "ok", cell.error
        return ast.literal_eval(cell.printed)

    def use(self, sandbox: Sandbox, store: str = "") -> None:
        """Set the kernel's environment for a sandbox, with an empty ledger."""
        variables = sandbox.environment() | {
            "ARCHE_QUOTA_STORE": store or f"memory://{time.monotonic_ns()}"
        }
        self.forget_keys(after=f"os.environ.update({variables!r})")

    def forget_keys(self, before: str = "", after: str = "") -> None:
        """Remove all keys from the kernel, and stop its `%llm_sandbox`.

        `before` and `after` are code that runs in the same cell.
        """
        code = (
            f"{before}\n"
            "import os, warnings\n"
            "%llm_sandbox stop\n"
            f"for name in [n for n in os.environ if n.startswith({KEY_VARIABLES!r})]:\n"
            "    del os.environ[name]\n"
            f"{after}"
        )
        assert self.run(code).status == "ok"

    def stop(self) -> None:
        """Shut the kernel down."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
