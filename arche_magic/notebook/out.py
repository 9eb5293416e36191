"""The value of a magic that its cell has shown already: kept as `_`, not shown again as `Out`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

Value = TypeVar("Value")


class OutHook:
    """IPython's display hook, except that it passes over what the running cell has shown.

    A `display(reply)` of the user's own, and the same value in a later cell, show it as usual.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._usual: Any = shell.display_trap.hook
        self._shown: list[Any] = []
        self._cell = -1
        self._replace(self._usual, self)

    def shown(self, value: Value) -> Value:
        """Note that the running cell has shown this value; returns it."""
        if self._cell != self._shell.execution_count:
            self._cell, self._shown = self._shell.execution_count, []
        self._shown.append(value)
        return value

    def remove(self) -> None:
        """Give IPython its own hook back."""
        self._replace(self, self._usual)

    def _replace(self, old: Any, new: Any) -> None:
        if self._shell.display_trap.hook is old:
            self._shell.display_trap.hook = new
        # The cell that loads the extension runs under the old one until it ends.
        if sys.displayhook is old:
            sys.displayhook = new

    def __call__(self, value: Any = None) -> None:
        """Show the value of a cell's last line."""
        shown = self._cell == self._shell.execution_count
        if not (shown and any(value is one for one in self._shown)):
            self._usual(value)
        elif not self._usual.quiet():
            self._usual.check_for_underscore()
            self._usual.update_user_ns(value)
            self._usual.fill_exec_result(value)
