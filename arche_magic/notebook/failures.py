"""Remembers which cell failed last, so that `%llm_explain` can ask about it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionResult, InteractiveShell


@dataclass(frozen=True)
class Failure:
    """An error that ended a cell; `cell` is its source and `number` its number, if known."""

    error: BaseException
    cell: str = ""
    number: int | None = None


class FailureWatch:
    """Remembers the last failure that is not an error of this package."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._last: Failure | None = None
        shell.events.register("post_run_cell", self._look)

    def remove(self) -> None:
        """Stop watching."""
        self._shell.events.unregister("post_run_cell", self._look)

    def last(self) -> Failure | None:
        """The last failure; it may have happened before this extension was loaded."""
        if self._last is None:
            error = getattr(sys, "last_value", None)
            return Failure(error) if _counts(error) else None
        return self._last

    def _look(self, result: ExecutionResult) -> None:
        error = result.error_before_exec or result.error_in_exec
        if _counts(error):
            cell = getattr(result.info, "raw_cell", None)
            self._last = Failure(error, cell or "", result.execution_count)


def _counts(error: BaseException | None) -> TypeGuard[BaseException]:
    ours = type(error).__module__.partition(".")[0] == "arche_magic"
    return error is not None and not ours and not isinstance(error, KeyboardInterrupt)
