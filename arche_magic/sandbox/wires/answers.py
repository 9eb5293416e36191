"""Answers as all wires send them: errors, JSON, events, and durations in words."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from ..types import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping

Headers = list[tuple[str, str]]
EVENT_TYPE = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
_COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


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
