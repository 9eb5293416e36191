"""Checks of single options: texts, numbers, flags. A wrong value raises InvalidRequest."""

from __future__ import annotations

import math
import numbers
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ..errors import InvalidRequest
from ..text.characters import whole_characters
from ..text.wording import shortened

_LONGEST_TAG = 100
# No service takes an integer of more than 64 bits.
_TOO_LARGE = 2**63


def python_number(value: object) -> int | float | None:
    """Return a number as Python's own, such as one of a NumPy column; None for other values.

    True and False are not numbers.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    with suppress(TypeError):
        return operator.index(value)  # type: ignore[arg-type]  # whatever has `__index__`
    if not isinstance(value, numbers.Real):
        return None
    # The number as it is printed: float32(0.1) becomes 0.1, not 0.10000000149.
    return float(str(value)) if hasattr(value, "dtype") else float(value)


def json_number(value: object) -> int | float:
    """Like `python_number`, as `default` of `json.dumps`; raises TypeError for anything else."""
    number = python_number(value)
    if number is None:
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    return number


def read_text(name: str, value: object) -> str | None:
    """Return a text without lone surrogates; None for an empty one."""
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{name} is of type {type(value).__name__}; it must be text")
    return whole_characters(value) if value else None


def check_fields(
    what: str, entry: Mapping[Any, Any], known: Sequence[str], ignored: Sequence[str] = ()
) -> None:
    """Refuse a field that cannot be sent; libraries also write fields that are not set."""
    for name, value in entry.items():
        is_set = bool(value) if isinstance(value, str | list | dict | bool) else value is not None
        if is_set and name not in known and name not in ignored:
            raise InvalidRequest(
                f"{what} has the unknown field {shown(name)}; known: {', '.join(known)}"
            )


def shown(value: object) -> str:
    """Return the repr of a value for a message: one line, shortened."""
    return shortened(" ".join(repr(value).split()), 60)


def _number(name: str, value: object, rule: str = "", high: float = math.inf) -> float:
    span = f"0 to {high:g}" if high < math.inf else "0 or more"
    number = python_number(value)
    if number is None:
        raise InvalidRequest(f"{name} is {shown(value)}; it must be {rule or f'a number, {span}'}")
    if abs(number) > sys.float_info.max:
        # Python cannot convert larger integers to floats, nor the largest ones to text.
        number = math.inf if number > 0 else -math.inf
    if not 0 <= number <= high:
        raise InvalidRequest(f"{name} is {number:g}; it must be {rule or span}")
    return float(number)


def _seconds(name: str, value: object) -> float:
    rule = "a number of seconds greater than 0"
    seconds = _number(name, value, rule)
    if not 0 < seconds < math.inf:
        raise InvalidRequest(f"{name} is {seconds:g}; it must be {rule}")
    return seconds


def read_flag(name: str, value: object) -> bool:
    """Return True or False."""
    if isinstance(value, bool):
        return value
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise InvalidRequest(f"{name} is {shown(value)}; it must be True or False")


def check_callable(name: str, value: object) -> None:
    """Check, before anything is sent, that a function of the caller can be called later."""
    if value is not None and not callable(value):
        raise InvalidRequest(f"{name} is {shown(value)}; it must be a function", option=name)


def _model(name: str, value: object) -> str | None:
    model = read_text(name, value)
    if model and not model.isprintable():
        raise InvalidRequest(f"{name} is {model!r:.{_LONGEST_TAG}}; it must be one line")
    return model


def _tag(name: str, value: object) -> str:
    tag = (read_text(name, value) or "").strip()
    if len(tag) > _LONGEST_TAG or not tag.isprintable():
        raise InvalidRequest(
            f"tag is {tag[:_LONGEST_TAG]!r}; it must be one line, {_LONGEST_TAG} characters or less"
        )
    return tag


def _integer(name: str, value: object, low: int | None = None) -> int:
    number = python_number(value)
    if not isinstance(number, int):
        raise InvalidRequest(f"{name} is {shown(value)}; it must be a whole number")
    if abs(number) >= _TOO_LARGE:
        raise InvalidRequest(f"{name} must be less than 2**63")
    if low is not None and number < low:
        raise InvalidRequest(f"{name} is {number}; it must be {low} or more")
    return number


def _stop(name: str, value: object) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if isinstance(stops, list | tuple) and all(isinstance(stop, str) and stop for stop in stops):
        return tuple(map(whole_characters, stops))
    raise InvalidRequest(f"{name} must be a text or a list of texts")


# How to check options that become fields of the request with the same name.
READERS: dict[str, Callable[[str, Any], Any]] = {
    "provider": read_text,
    "model": _model,
    "max_tokens": partial(_integer, low=1),
    # The widest range of the four providers. A provider with a narrower one refuses the value.
    "temperature": partial(_number, high=2.0),
    "top_p": partial(_number, high=1.0),
    "stop": _stop,
    "seed": _integer,
    "patience": _number,
    "timeout": _seconds,
    "fallback_on_filter": read_flag,
    "fresh": read_flag,
    "reserve": partial(_number, high=1.0),
    "private": read_flag,
    "same_model": read_flag,
    "tag": _tag,
}
