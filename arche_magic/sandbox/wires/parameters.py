"""Parameters of requests that all wires check in the same way."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any, NoReturn

from ..types import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

# The errors for invalid values at providers whose own wording was not recorded.
PLAIN = {
    "type": "'{param}' : value must be {expected}",
    "below": "'{param}' : number must be at least {bound}",
    "above": "'{param}' : number must be at most {bound}",
    "value": "'{param}' : value must be one of {known}",
    "other": "'{param}' : value is not valid",
}


def invalid(problem: str, param: str | None = None, **details: Any) -> NoReturn:
    """Refuse a request for a problem that each wire has an error for. Raises Refusal."""
    raise Refusal(problem, param=param, **details)


def stated(text: str, code: str | None = None, param: str | None = None) -> NoReturn:
    """Refuse a request with the provider's own text. Raises Refusal."""
    raise Refusal("stated", text=text, code=code, param=param)


def names(text: str) -> frozenset[str]:
    """Parameter names, from a text that lists them."""
    return frozenset(text.split())


def read_model(body: Mapping[str, Any], known: frozenset[str]) -> str:
    """The model of a request that has only known parameters. Raises Refusal."""
    for name in body:
        if name not in known:
            invalid("unknown", name, value=body[name])
    if not isinstance(body.get("model"), str):
        invalid("missing", "model")
    return str(body["model"])


def check_base64(data: object, place: str) -> None:
    """Raise Refusal unless the data is base64, in the standard or the URL-safe alphabet."""
    try:
        base64.b64decode(str(data).replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        invalid("type", place, expected="base64 data")


def check_number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    """A parameter that is a number within bounds, or None. Raises Refusal."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        invalid("type", name, expected="a number", value=value)
    if value < least:
        invalid("below", name, bound=least, value=value)
    if value > most:
        invalid("above", name, bound=most, value=value)
    return value


def check_integer(
    body: Mapping[str, Any], name: str, least: int, most: float = math.inf
) -> int | None:
    """A parameter that is an integer within bounds, or None. Raises Refusal."""
    value = check_number(body, name, least, math.inf)
    if value is None:
        return None
    if not isinstance(value, int):
        invalid("type", name, expected="an integer", value=value)
    if value > most:
        invalid("above", name, bound=most, value=value)
    return value


def read_stop(body: Mapping[str, Any], name: str, most: int) -> tuple[str, ...]:
    """The stop texts, at most `most` of them. Raises Refusal."""
    value = body.get(name)
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(t, str) and t for t in texts):
        invalid("type", name, expected="a string or array of strings")
    if len(texts) > most:
        invalid("above", name, bound=most, value=len(texts))
    return tuple(texts)
