"""Keeps IPython from repeating displayed results as `Out`; `_` still has them."""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

Value = TypeVar("Value")
_RUN_MAGIC = ("run_line_magic", "run_cell_magic")


class OutHook:
    """IPython's display hook, except that it skips values that the running cell has already shown.

    `x = %llm_quota` and `x` on the next line do show the frame, because the magic has shown a
    table. `display(reply)`, and the same value in a later cell, are shown too.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._usual: Any = shell.display_trap.hook
        self._shown: list[Any] = []
        self._shown_itself: list[Any] = []
        self._cell = -1
        self._replace(self._usual, self)

    def shown(self, value: Value, *, itself: bool = False) -> Value:
        """Note that the running magic has displayed its result; returns the value.

        With `itself`, the magic has displayed the value itself, so a variable with that value is
        not shown again in this cell.
        """
        if value is None:
            return value
        if self._cell != self._shell.execution_count:
            self._cell, self._shown, self._shown_itself = self._shell.execution_count, [], []
        if itself:
            self._shown_itself.append(value)
        elif _is_magic_alone(_caller_of_magic()):
            self._shown.append(value)
        self._watch_capture()
        return value

    def remove(self) -> None:
        """Restore IPython's own hook."""
        self._replace(self, self._usual)

    def _replace(self, old: Any, new: Any) -> None:
        if self._shell.display_trap.hook is old:
            self._shell.display_trap.hook = new
        # The cell that loads the extension uses the old hook until it ends.
        if sys.displayhook is old:
            sys.displayhook = new

    def __call__(self, value: Any = None) -> None:
        """Show the value of a cell's last line."""
        frame = inspect.currentframe()
        if not self._has_shown(value, frame and frame.f_back):
            self._usual(value)
        elif not self._usual.quiet():
            self._usual.check_for_underscore()
            self._usual.update_user_ns(value)
            self._usual.fill_exec_result(value)

    def _has_shown(self, value: Any, frame: FrameType | None) -> bool:
        """Whether the running cell has already shown the value of this code."""
        shown = self._shown_itself
        if _is_magic_alone(frame):
            shown = [*shown, *self._shown]
        in_this_cell = self._cell == self._shell.execution_count
        return in_this_cell and any(value is one for one in shown)

    def _watch_capture(self) -> None:
        """Make a capture of the cell's output skip values that were already shown."""
        from IPython.core.displayhook import CapturingDisplayHook

        usual = sys.displayhook
        if not isinstance(usual, CapturingDisplayHook):
            return

        def show(value: Any = None) -> None:
            frame = inspect.currentframe()
            if not self._has_shown(value, frame and frame.f_back):
                usual(value)

        sys.displayhook = show


def is_captured(shell: InteractiveShell) -> bool:
    """Whether displays are captured where they cannot be updated.

    `%%capture` and `capture_output()` would keep each draw. An Output widget in JupyterLab and
    nbclient shows the first draw and ignores updates.
    """
    from IPython.core.displaypub import CapturingDisplayPublisher

    if isinstance(shell.display_pub, CapturingDisplayPublisher):
        return True
    widgets = sys.modules.get("ipywidgets.widgets.widget")
    output = getattr(sys.modules.get("ipywidgets.widgets.widget_output"), "Output", None)
    kernel = getattr(shell, "kernel", None)
    if widgets is None or output is None or kernel is None:
        return False
    parents = (shell.get_parent(), kernel.get_parent())  # type: ignore[attr-defined]  # ipykernel's
    requests = [parent["header"]["msg_id"] for parent in parents if parent and "header" in parent]
    # ipywidgets has no public list of its widgets.
    known = list(getattr(widgets, "_instances", {}).values())
    return any(isinstance(one, output) and one.msg_id in requests for one in known)


def _caller_of_magic() -> FrameType | None:
    """The frame of the code that runs the current magic."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name not in _RUN_MAGIC:
        frame = frame.f_back
    while frame is not None and frame.f_code.co_name in _RUN_MAGIC:
        frame = frame.f_back
    return frame


def _is_magic_alone(frame: FrameType | None) -> bool:
    """Whether this code is a magic and nothing else.

    IPython turns a magic into a call of the shell and compiles the last expression of a cell
    separately: the code of `%llm hi` has no other names, the code of `x = %llm hi` and `x` has.
    """
    # Some versions of IPython call a cell `<cell line: 1>`.
    if frame is None or not frame.f_code.co_name.startswith(("<module", "<cell")):
        return False
    names = frame.f_code.co_names
    return "get_ipython" in names and set(names) <= {"get_ipython", *_RUN_MAGIC}
