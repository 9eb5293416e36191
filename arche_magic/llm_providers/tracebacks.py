"""Tracebacks that show no local variables of the frames that handle keys.

`%xmode Verbose`, debuggers and error trackers print the local variables of each frame. On its way
from the environment to a request, a key is in variables of ours, of dotenv, of httpx and of the
standard library, and an interrupt may come at any of those lines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from traceback import clear_frames
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

P = ParamSpec("P")
T = TypeVar("T")


class NoLocals:
    """A `with` block whose exceptions have no local variables in the frames below it."""

    def __enter__(self) -> Self:
        # An error that the caller is already handling keeps its frames.
        self._outer = sys.exception()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            _clear(error, self._outer)


def without_locals(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function: its exceptions have no local variables of it or of its callees."""

    @wraps(function)
    def hiding(*args: P.args, **kwargs: P.kwargs) -> T:
        outer = sys.exception()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            _clear(error, outer)
            raise
        finally:
            # Emptied rather than deleted, because tools that list arguments look up their names.
            args, kwargs = (), {}  # type: ignore[assignment]

    return hiding


def _clear(error: BaseException, outer: BaseException | None) -> None:
    """Clear the frames of an error and of its causes and contexts, except the caller's error."""
    waiting: list[BaseException | None] = [error]
    seen: list[BaseException] = []
    while waiting:
        link = waiting.pop()
        if link is None or link is outer or any(link is one for one in seen):
            continue
        seen.append(link)
        clear_frames(link.__traceback__)
        waiting += [link.__cause__, link.__context__]
