"""What all wires share: errors, checks of parameters, and answers over HTTP."""

from __future__ import annotations

import base64
import json
import math
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ..types import Answer, Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

Headers = list[tuple[str, str]]
EVENT_TYPE = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
_COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


# --- errors


class Error(NamedTuple):
    """One error of a provider; {names} in its text are details of the refusal."""

    text: str
    code: str | None = None
    status: int = 400
    type: str = "invalid_request_error"
    param: str | None = None

    def words(self, details: Mapping[str, Any]) -> str:
        """The text with its details; a detail that is missing reads "None"."""
        return self.text.format_map(defaultdict(lambda: None, details))


# The errors for invalid values at providers whose own wording was not recorded.
PLAIN = {
    "type": "'{param}' : value must be {expected}",
    "below": "'{param}' : number must be at least {bound}",
    "above": "'{param}' : number must be at most {bound}",
    "value": "'{param}' : value must be one of {known}",
    "other": "'{param}' : value is not valid",
}


def stated(text: str, code: str | None = None, param: str | None = None) -> NoReturn:
    """Refuse a request with the provider's own text. Raises Refusal."""
    raise Refusal("stated", param, text=text, code=code)


# --- parameters, which are None if a request does not have them; every check raises Refusal


def names(text: str) -> frozenset[str]:
    """Parameter names, from a text that lists them."""
    return frozenset(text.split())


def read_model(body: Mapping[str, Any], known: frozenset[str]) -> str:
    """The model of a request that has only known parameters."""
    for name in body:
        if name not in known:
            raise Refusal("unknown", name, value=body[name])
    if not isinstance(body.get("model"), str):
        raise Refusal("missing", "model")
    return str(body["model"])


def check_base64(data: object, place: str) -> None:
    """Check that the data is base64, in the standard or the URL-safe alphabet."""
    try:
        base64.b64decode(str(data).replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        raise Refusal("type", place, expected="base64 data") from None


def read_number(
    body: Mapping[str, Any], name: str, least: float, most: float = math.inf, *, whole: bool = False
) -> Any:
    """Read a number within bounds, which must be an integer if `whole`."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise Refusal("type", name, expected="an integer" if whole else "a number", value=value)
    if value < least:
        raise Refusal("below", name, bound=least, value=value)
    if value > most:
        raise Refusal("above", name, bound=most, value=value)
    return value


read_integer = partial(read_number, whole=True)


def read_stop(body: Mapping[str, Any], name: str, most: int) -> tuple[str, ...]:
    """Read the stop texts, at most `most` of them."""
    value = body.get(name)
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(t, str) and t for t in texts):
        raise Refusal("type", name, expected="a string or array of strings")
    if len(texts) > most:
        raise Refusal("above", name, bound=most, value=len(texts))
    return tuple(texts)


# --- answers


def json_bytes(value: object) -> bytes:
    """Compact JSON."""
    return _COMPACT.encode(value).encode("utf-8", "replace")


def json_answer(value: object, headers: Headers, status: int = 200) -> Answer:
    """A response with a JSON value."""
    return Answer(status, [("content-type", "application/json"), *headers], json_bytes(value))


def event_answer(headers: Headers, events: list[bytes], kind: str = EVENT_TYPE) -> Answer:
    """A response that streams events."""
    return Answer(200, [("content-type", kind), *headers], events=events)


def event(value: object, end: bytes = b"\n\n") -> bytes:
    """One server-sent event with a JSON value."""
    return b"data: " + json_bytes(value) + end


def go_duration(seconds: float) -> str:
    """A duration as Go prints it, to the millisecond: "26ms", "4.186s", "1m26.4s", "11m0.528s"."""
    milliseconds = max(0, round(seconds * 1000)) if seconds < math.inf else 0
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def whole_seconds(seconds: float) -> str:
    """Seconds rounded up, at least 1, as in `retry-after`."""
    return str(max(1, math.ceil(seconds - 1e-6)))
