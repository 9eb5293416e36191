"""Interrupts at chosen lines, and everything that tools print of the traceback."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

Point = tuple[str, int]


class Interrupter:
    """Interrupts a call at a line that is reached for the first time.

    Args:
        call: the function to interrupt.
        of_interest: whether the lines of a function count.
    """

    def __init__(self, call: Callable[[], object], of_interest: Callable[[CodeType], bool]) -> None:
        self._call, self._of_interest = call, of_interest

    def points(self) -> list[Point]:
        """The lines that the call reaches, in order."""
        seen: dict[Point, None] = {}
        self._traced(seen.setdefault)
        return list(seen)

    def interrupted_at(self, at: Point) -> BaseException | None:
        """The error of a call interrupted at that line; None if the call completes."""

        def stop(point: Point) -> None:
            if point == at:
                raise KeyboardInterrupt

        try:
            self._traced(stop)
        except BaseException as error:  # noqa: BLE001
            return error
        return None

    def _traced(self, look: Callable[[Point], object]) -> None:
        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if not self._of_interest(frame.f_code):
                return trace
            if event in ("line", "call"):
                look((frame.f_code.co_filename, frame.f_lineno))
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            self._call()
        finally:
            sys.settrace(before)


def printed(error: BaseException) -> str:
    """The error with its causes, contexts and the local variables of all frames."""
    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(whole.format())
