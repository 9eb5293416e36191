"""`%llm_explain`: remembers the cell that failed last, and describes the failure for a prompt.

The engine is imported inside a function, because this module is loaded with the extension.
"""

from __future__ import annotations

import inspect
import itertools
import linecache
import sys
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

SYSTEM = (
    "You explain Python errors to the person whose notebook cell failed. Say in a few sentences "
    "what went wrong and why, then show the corrected code. Do not repeat the traceback."
)
QUESTION = "What went wrong, and how do I fix it?"
FIX = "Answer with the whole corrected cell."
_STANDARD = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "<frozen")
_PACKAGES = ("site-packages", "dist-packages")
_CELL_LINES, _AROUND, _FRAMES, _CAUSES = 60, 3, 8, 3
_MESSAGE_CHARACTERS = 1500
_TOKENS_PER_LOCAL, _LOCALS = 60, 12


@dataclass(frozen=True)
class CellFailure:
    """An error that ended a cell; `cell` is its source and `number` its number, if known."""

    error: BaseException
    cell: str = ""
    number: int | None = None


class FailureWatch:
    """Remembers the last failure that is not an error of this package.

    Attributes:
        ours: a later error of this package, from any command except `%llm_explain`.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.ours: BaseException | None = None
        self._shell = shell
        self._last: CellFailure | None = None
        shell.events.register("post_run_cell", self._look)

    def remove(self) -> None:
        """Stop watching."""
        self._shell.events.unregister("post_run_cell", self._look)

    def last(self) -> CellFailure | None:
        """The last failure; it may have happened before this extension was loaded."""
        if self._last is None:
            error = getattr(sys, "last_value", None)
            return CellFailure(error) if _is_failure(error) and not _is_ours(error) else None
        return self._last

    def _look(self, result: ExecutionResult) -> None:
        error = result.error_before_exec or result.error_in_exec
        cell = getattr(result.info, "raw_cell", None) or ""
        if not _is_failure(error):
            return
        if not _is_ours(error):
            self._last, self.ours = CellFailure(error, cell, result.execution_count), None
        elif "llm_explain" not in cell:
            self.ours = error


def _is_failure(error: BaseException | None) -> TypeGuard[BaseException]:
    return error is not None and not isinstance(error, KeyboardInterrupt)


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "arche_magic"


def describe(failure: CellFailure, shell: InteractiveShell, with_locals: bool = False) -> str:
    """Describe the failure: its cell with an arrow, the user's own frames, causes and message.

    Frames of libraries are only counted, except the one that raised. Values of variables are
    included only `with_locals`.
    """
    error = failure.error
    steps = list(traceback.walk_tb(error.__traceback__))
    parts = []
    line = _failing_line(failure, steps, shell)
    if failure.cell:
        title = f"Cell In[{failure.number}]" if failure.number else "The cell"
        lines = failure.cell.rstrip("\n").split("\n")
        parts.append(f"{title}:\n{_listing(lines, line, _CELL_LINES)}")
    frames = _frames(steps, shell)
    # If there is one frame, it is already shown as the line with the arrow.
    if len(frames) > bool(failure.cell):
        parts.append("Called, innermost last:\n" + "\n".join(frames))
    own = [(frame, number) for frame, number in steps if _is_own(frame, shell)]
    if own and not (failure.cell and _is_cell(own[-1][0], failure, shell)):
        frame, number = own[-1]
        name = frame.f_code.co_filename
        source = [text.rstrip("\n") for text in linecache.getlines(name)]
        if source:
            parts.append(f"{_place(name, shell)}:\n{_listing(source, number, 2 * _AROUND + 1)}")
    parts.append(_chain(error, shell))
    if with_locals and own:
        parts.append(_locals(own[-1][0]))
    return "\n\n".join(filter(None, parts))


def _failing_line(
    failure: CellFailure, steps: list[tuple[FrameType, int]], shell: InteractiveShell
) -> int | None:
    """The line of the cell that failed, counted from 1."""
    error, line = failure.error, None
    # The body of a cell magic such as %%time is compiled separately, under a name such as <stdin>.
    has_body = failure.cell.startswith("%%")
    for frame, number in steps:
        name = frame.f_code.co_filename
        if _is_cell(frame, failure, shell):
            line = number
        elif has_body and name.startswith("<") and not name.startswith(_STANDARD):
            return number + 1
    if isinstance(error, SyntaxError) and error.lineno:
        if has_body and (error.filename or "").startswith("<"):
            return error.lineno + 1
        # If the cell ran, the syntax error is in a module that it imported or in code that it
        # compiled.
        return line or error.lineno
    return line


def _frames(steps: list[tuple[FrameType, int]], shell: InteractiveShell) -> list[str]:
    """A line per frame of the user; frames of libraries between them are counted."""
    from arche_magic.llm_providers.text.wording import plural

    entries: list[str] = []
    groups = [
        (own, list(group))
        for own, group in itertools.groupby(steps, lambda step: _is_own(step[0], shell))
    ]
    for place, (own, group) in enumerate(groups):
        if own:
            entries += [_frame(frame, number, shell) for frame, number in group]
        elif entries:
            # The frames before the user's first one belong to IPython.
            last = place == len(groups) - 1
            passed = len(group) - last
            if passed:
                entries.append(f"  … {plural(passed, 'frame')} of libraries")
            if last:
                entries.append(_frame(*group[-1], shell))
    if len(entries) > _FRAMES:
        half = _FRAMES // 2
        middle = f"  … {len(entries) - _FRAMES} more"
        entries = [*entries[:half], middle, *entries[-half:]]
    return entries


def _frame(frame: FrameType, number: int, shell: InteractiveShell) -> str:
    code = linecache.getline(frame.f_code.co_filename, number).strip()
    where = f"  {_place(frame.f_code.co_filename, shell)}, line {number}, in {frame.f_code.co_name}"
    return f"{where}: {code}" if code else where


def _place(name: str, shell: InteractiveShell) -> str:
    """`Cell In[3]`, the end of a file's path, or Python's name for the code."""
    if label := shell.compile.format_code_name(name):
        return " ".join(label)
    for library in (*_PACKAGES, *_STANDARD):
        if library in name:
            return name.rpartition(library)[2].strip("/\\")
    return name if name.startswith("<") else Path(name).name


def _is_own(frame: FrameType, shell: InteractiveShell) -> bool:
    name = frame.f_code.co_filename
    if shell.compile.format_code_name(name):
        return True
    return not name.startswith(_STANDARD) and not any(part in name for part in _PACKAGES)


def _is_cell(frame: FrameType, failure: CellFailure, shell: InteractiveShell) -> bool:
    label = shell.compile.format_code_name(frame.f_code.co_filename)
    return label is not None and label[1] == f"In[{failure.number}]"


def _listing(lines: list[str], marked: int | None, most: int) -> str:
    """Numbered lines with an arrow at one; at most `most` of them, around it."""
    from arche_magic.llm_providers.text.wording import plural

    start = 0
    if len(lines) > most:
        start = min(max(0, (marked or 1) - 1 - most // 2), len(lines) - most)
    shown = lines[start : start + most]
    width = len(str(start + len(shown)))
    listed = [
        f"{'>' if number == marked else ' '} {number:{width}} {line}".rstrip()
        for number, line in enumerate(shown, start + 1)
    ]
    if start:
        listed.insert(0, f"  … {plural(start, 'line')} above")
    if below := len(lines) - start - len(shown):
        listed.append(f"  … {plural(below, 'line')} below")
    return "\n".join(listed)


def _chain(error: BaseException, shell: InteractiveShell) -> str:
    """The error's message, then the messages of its causes."""
    messages = [_message(error, shell)]
    link = error
    for _ in range(_CAUSES):
        cause = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        if cause is None:
            break
        how = "caused by" if link.__cause__ else "while handling"
        messages.append(f"{how} {_message(cause, shell)}")
        link = cause
    return "\n".join(messages)


def _message(error: BaseException, shell: InteractiveShell) -> str:
    text = "".join(traceback.format_exception_only(error)).strip()
    if isinstance(error, SyntaxError) and error.filename:
        text = text.replace(f'File "{error.filename}"', _place(error.filename, shell), 1)
    if isinstance(error, BaseExceptionGroup):
        text += "".join(f"\n  - {_message(inner, shell)}" for inner in error.exceptions[:_CAUSES])
    if len(text) <= _MESSAGE_CHARACTERS:
        return text
    half = _MESSAGE_CHARACTERS // 2
    return f"{text[:half]} … {text[-half:]}"


def _locals(frame: FrameType) -> str:
    """The variables that the failing code uses, each shortened."""
    from arche_magic.prompts.values import as_text

    code, lines = frame.f_code, []
    for name in dict.fromkeys((*code.co_varnames, *code.co_names)):
        value: Any = frame.f_locals.get(name)
        if name.startswith("_") or name not in frame.f_locals:
            continue
        if callable(value) or inspect.ismodule(value):
            continue
        try:
            if isinstance(value, str):
                shown = f"{value!r:.{5 * _TOKENS_PER_LOCAL}}"
            else:
                shown = as_text(value, name, _TOKENS_PER_LOCAL).text
        except Exception:  # noqa: BLE001  # it has no text form, or its own code fails
            shown = type(value).__name__
        lines.append(f"{name} = {shown}")
    return "Variables:\n" + "\n".join(lines[:_LOCALS]) if lines else ""
