"""From the text of a reply to a value, or to what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..types import Message, Request

_FENCED = re.compile(r"\s*```\w*\n(.*)```\s*", re.DOTALL)
_SHOWN_PROBLEMS = 5
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Problem:
    """What is wrong at one place of a value; `place` is the way there, by names and positions."""

    place: tuple[str | int, ...]
    words: str
    shows_value: bool = False
    value: Any = None

    def __str__(self) -> str:
        words = self.words
        if self.shows_value:
            words += f" (got {self.value!r:.{_SHOWN_CHARACTERS}})"
        return f"{'.'.join(map(str, self.place))}: {words}" if self.place else words


class Misfit(ValueError):
    """A text does not fit a schema; its message names the first problems."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        more = len(problems) - _SHOWN_PROBLEMS
        shown = "; ".join(map(str, problems[:_SHOWN_PROBLEMS]))
        super().__init__(f"{shown}; and {more} more" if more > 0 else shown)


def reader(validate: Callable[[Any], Any]) -> Callable[[str], Any]:
    """A function from a reply's text to its value.

    A null where none may stand counts as a field left out: strict schemas have the model give
    every field (see `strict`).

    Args:
        validate: from the parsed JSON to the value; raises Misfit.
    """

    def read(text: str) -> Any:
        value = _parsed(text)
        try:
            return validate(value)
        except Misfit as misfit:
            left_out = [_leave_out(value, problem.place) for problem in misfit.problems]
            if not any(left_out):
                raise
        return validate(value)

    return read


def with_correction(request: Request, text: str, problems: str) -> Request:
    """A request that goes on from a reply that did not fit, saying what was wrong with it."""
    correction = (
        f"This does not fit the schema: {problems}. Reply once more with the corrected JSON alone."
    )
    said = (Message("assistant", text), Message("user", correction))
    return replace(request, messages=(*request.messages, *said))


def _parsed(text: str) -> Any:
    """The JSON of a reply, out of the fence or the sentences that some models put around it."""
    fenced = _FENCED.fullmatch(text)
    candidates = [text, fenced[1] if fenced else "", text[text.find("{") : text.rfind("}") + 1]]
    reason: Exception | None = None
    for candidate in candidates:
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError) as error:
            reason = reason or error
    raise Misfit([Problem((), f"it is no JSON ({reason})")])


def _leave_out(value: Any, place: tuple[str | int, ...]) -> bool:
    """Remove the field that is null on the way to a place; whether there was one."""
    for step in place:
        try:
            inner = value[step]
        except (LookupError, TypeError):
            return False
        if inner is None and isinstance(value, dict):
            del value[step]
            return True
        value = inner
    return False
