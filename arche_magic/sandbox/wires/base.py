"""What all wires share: JSON, events, and checks of common parameters."""

from __future__ import annotations

import base64
import json
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from ..exchange import Answer, Call, Caller, Refusal, Reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Headers = list[tuple[str, str]]
JSON_TYPE = ("content-type", "application/json")
EVENT_TYPE = ("content-type", "text/event-stream; charset=utf-8")
DONE = b"data: [DONE]\n\n"


def names(text: str) -> frozenset[str]:
    """Parameter names, from a text that lists them."""
    return frozenset(text.split())


def json_bytes(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def event(value: object) -> bytes:
    """One server-sent event with a JSON value."""
    return b"data: " + json_bytes(value) + b"\n\n"


def go_duration(seconds: float) -> str:
    """A duration as Go prints it, to the millisecond: "26ms", "4.186s", "1m26.4s", "11m0.528s"."""
    milliseconds = max(0, round(seconds * 1000))
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


class Wire(ABC):
    """One provider's wire format. Holds no state."""

    provider: str

    @abstractmethod
    def key_text(self, headers: Mapping[str, str]) -> str | None:
        """The key in a request's headers, or None."""

    @abstractmethod
    def read(self, body: Mapping[str, Any], path: str) -> Call:
        """Read and check a request; `path` is its last part. Raises Refusal."""

    @abstractmethod
    def answer(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The response to a call that does not stream."""

    @abstractmethod
    def stream(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The response to a call that streams, with all its events."""

    @abstractmethod
    def embeddings(self, call: Call, vectors: Sequence[list[float]], caller: Caller) -> Answer:
        """The response to a request for embeddings."""

    @abstractmethod
    def refuse(self, refusal: Refusal, model: str, caller: Caller) -> Answer:
        """The provider's own response for a refusal of any kind."""

    @abstractmethod
    def broken_off(self) -> list[bytes]:
        """The events of an error in the middle of a stream."""

    @abstractmethod
    def models(self, names: Mapping[str, int], caller: Caller) -> Answer:
        """The list of models, given with their context windows in tokens."""


def check_known(value: Mapping[str, Any], known: frozenset[str], place: str) -> None:
    """Raise Refusal for the first unknown field of protocol buffers' JSON."""
    for name in value:
        # Both spellings of a field are accepted.
        parts = name.split("_")
        if parts[0] + "".join(p.capitalize() for p in parts[1:]) not in known:
            raise Refusal("invalid_request", param=name, problem="unknown", place=place)


def check_base64(data: object, place: str) -> None:
    """Raise Refusal unless the data is base64, in the standard or the URL-safe alphabet."""
    try:
        base64.b64decode(str(data).replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        raise Refusal(
            "invalid_request", param=place, problem="type", expected="base64 data"
        ) from None


def check_number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    """A parameter that is a number within bounds, or None. Raises Refusal."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal(
            "invalid_request", param=name, problem="type", expected="a number", value=value
        )
    if value < least:
        raise Refusal("invalid_request", param=name, problem="below", bound=least, value=value)
    if value > most:
        raise Refusal("invalid_request", param=name, problem="above", bound=most, value=value)
    return value


def check_integer(body: Mapping[str, Any], name: str, least: int) -> int | None:
    """A parameter that is an integer of at least `least`, or None. Raises Refusal."""
    value = check_number(body, name, least, math.inf)
    if value is not None and not isinstance(value, int):
        raise Refusal(
            "invalid_request", param=name, problem="type", expected="an integer", value=value
        )
    return value


def read_stop(body: Mapping[str, Any], name: str, most: int) -> tuple[str, ...]:
    """The stop texts, at most `most` of them. Raises Refusal."""
    value = body.get(name)
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(t, str) and t for t in texts):
        raise Refusal(
            "invalid_request", param=name, problem="type", expected="a string or array of strings"
        )
    if len(texts) > most:
        raise Refusal("invalid_request", param=name, problem="above", bound=most, value=len(texts))
    return tuple(texts)


NO_JSON_WORD = (
    "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
    "'json_object'."
)


def _schema_words(details: Mapping[str, Any]) -> str:
    """Groq's error for a schema that it refuses, as reported in 2026."""
    path = "".join(f"/{step}" for step in details["place"])
    problem = {
        "closed": f"{path}: `additionalProperties:false` must be set on every object",
        "required": (
            f"{path}/required: `required` is required to be supplied and to be an array including "
            f"every key in properties. The following properties must be listed in `required`: "
            f"{details['name']}"
        ),
        "keyword": f"{path}: {details['name']} is not supported",
    }[details["rule"]]
    return f"invalid JSON schema for response_format: '{details['schema']}': {problem}"


def explain(details: Mapping[str, Any]) -> str:
    """The error for an invalid parameter, where a provider's own wording was not recorded."""
    param, problem = details.get("param"), details.get("problem")
    texts = {
        "missing": f"'{param}' : property is missing",
        "empty": f"'{param}' : minimum number of items is 1",
        "type": f"'{param}' : value must be {details.get('expected')}",
        "below": f"'{param}' : number must be at least {details.get('bound')}",
        "above": f"'{param}' : number must be at most {details.get('bound')}",
        "unknown": f"property '{param}' is unsupported",
        "value": f"'{param}' : value must be one of {list(details.get('known', ()))}",
        "json": "We could not parse the JSON body of your request.",
        "no_json_word": NO_JSON_WORD,
        "json_with_tools": "json mode cannot be combined with tool/function calling",
        "no_stream_format": "`response_format` does not support streaming",
    }
    if problem == "schema":
        return _schema_words(details)
    return texts.get(str(problem), f"'{param or 'request'}' : value is not valid")
