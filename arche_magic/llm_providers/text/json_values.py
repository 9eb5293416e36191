"""Parses the text of a reply into a value, and describes what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .characters import whole_characters
from .reasoning import END_TOKEN, after_reasoning

# Models forget to escape line breaks inside strings.
_DECODER = json.JSONDecoder(strict=False)
_OBJECT = re.compile(r"\{(?=\s*[\"}])")
_BEGINS_WITH_OBJECT = re.compile(r"\s*(?:```\w*\s*)?\{")
_LABEL = re.compile(r"(?:```|~~~)[ \t]*json\w*\s*\Z", re.IGNORECASE)
_LONGEST_LABEL = 30
_SPACE = re.compile(r"\s*")
# Each broken object takes time in proportion to its position in the text.
_MOST_OBJECTS = 1000
_SHOWN_PROBLEMS = 5
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Problem:
    """A problem at one place of a value; `place` is a path of names and positions."""

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
    """A text does not fit a schema. The message names the first problems."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        more = len(problems) - _SHOWN_PROBLEMS
        shown = "; ".join(map(str, problems[:_SHOWN_PROBLEMS]))
        super().__init__(f"{shown}; and {more} more" if more > 0 else shown)


def value_in(text: str, validate: Callable[[Any], Any]) -> Any:
    """Return the value of a reply: what `validate` makes of the JSON in it.

    The JSON may follow reasoning, and may be surrounded by sentences, code fences and tokens of a
    chat template. If the reply begins with an object, that object counts. Otherwise the last object
    that fits counts, because models reason first and conclude last. Objects in a fence labelled as
    JSON take precedence.

    Raises:
        Misfit: there is none, or `validate` raises it for all of them.
    """
    try:
        return _found_in(text, validate)
    except RecursionError:
        # Checking a value needs more levels of calls than parsing it.
        raise Misfit([Problem((), "it is nested too deeply")]) from None


def json_in(text: str, /) -> Any:
    """Return the JSON in a text, of any type; raises Misfit, which is a ValueError."""
    return value_in(text, lambda value: value)


def _found_in(text: str, validate: Callable[[Any], Any]) -> Any:
    # Servers that enforce JSON may put all of it into the reasoning.
    places = dict.fromkeys((after_reasoning(text), text))
    for place in places:
        try:
            value = in_whole_characters(json.loads(place), place)
        except (ValueError, RecursionError) as error:
            problem = error
        else:
            return fitted(value, validate)
    for place in places:
        if found := list(_json_objects(place)):
            if not _BEGINS_WITH_OBJECT.match(place):
                found.reverse()
                found.sort(key=lambda one: one[1], reverse=True)
            return _first_fitting((value for value, _ in found), validate)
    raise Misfit([Problem((), f"it is not JSON ({problem})")])


def _json_objects(text: str) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield the complete JSON objects in a text, and whether each is in a fence labelled as JSON.

    Objects inside a cut or broken object do not count, nor after a token that ends the reply.
    """
    at = 0
    for _ in range(_MOST_OBJECTS):
        start = _OBJECT.search(text, at)
        if start is None:
            return
        try:
            value, at = _DECODER.raw_decode(text, start.start())
        except json.JSONDecodeError as error:
            if error.msg.startswith("Unterminated string"):
                return
            at = max(error.pos, start.end())
        except (RecursionError, ValueError):
            # Python reads no numbers of more than 4,300 digits.
            return
        else:
            before = text[max(0, start.start() - _LONGEST_LABEL) : start.start()]
            labelled = _LABEL.search(before) is not None
            yield in_whole_characters(value, text), labelled
            space = _SPACE.match(text, at)
            if space and END_TOKEN.match(text, space.end()):
                return


def in_whole_characters(value: Any, text: str) -> Any:
    """Return the value without lone surrogates, which JSON can contain as escapes."""
    if "\\ud" not in text.lower():
        return value
    return json.loads(whole_characters(json.dumps(value, ensure_ascii=False)))


def _first_fitting(values: Iterable[Any], validate: Callable[[Any], Any]) -> Any:
    misfits = []
    for value in values:
        try:
            return fitted(value, validate)
        except Misfit as misfit:
            misfits.append(misfit)
    raise misfits[0]


def fitted(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Return the value, if it fits.

    A null that the schema does not allow counts as a missing field, because strict schemas require
    every field (see `schemas.json_schema`).
    """
    try:
        return _checked(value, validate)
    except Misfit as misfit:
        left_out = [_leave_out(value, problem.place) for problem in misfit.problems]
        if not any(left_out):
            raise
    return _checked(value, validate)


def _checked(value: Any, validate: Callable[[Any], Any]) -> Any:
    try:
        return validate(value)
    except (Misfit, RecursionError):
        raise
    except Exception as error:  # whatever a validator of the user's class raises
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise Misfit([Problem((), said, True, value)]) from error


def _leave_out(value: Any, place: tuple[str | int, ...]) -> bool:
    """Remove the null field on the path to a place; False if there is none."""
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
