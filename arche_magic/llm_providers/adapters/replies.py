"""The parts of a reply as they arrive, and whether they form a complete answer.

The words for how a reply ended are those of the four providers, and of Anthropic, Cohere, Hugging
Face, Fireworks, Together, DeepSeek, Zhipu and Bedrock, from their references of 2025 and 2026.
Brokers pass them on.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
from array import array
from codecs import getincrementaldecoder
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..provider_failure import AttemptFailed, ProviderFailure, Remedy
from ..request import Request
from ..text.characters import whole_characters
from ..text.reasoning import without_reasoning
from ..tools import ToolCall, thought_signature
from ..types import MOST_UNITS, Usage, Vectors, little_endian
from .bodies import field_text, is_code, mapping

# Searched in this order, in words without anything but letters. If no pattern fits, the reply is
# complete: the text is there, and servers often invent new words for "done".
_PATTERNS = {
    "content_filter": re.compile(
        # Not Google's "function_call_filter: MALFORMED_FUNCTION_CALL" on OpenAI's wire.
        "(?<!call)filter|safety|unsafe|prohibited|blocklist|blocked|spii|recitation|refus|guardrail"
        "|sensitive|moderat|toxic|policy|violat|modelarmor|censor|escalation|flagged|copyright"
    ),
    "error": re.compile(
        "error|fail|cancel|abort|timeout|timedout|interrupt|malformed|unexpected|toomany|missing"
        "|overload|capacity|insufficient|unavailable|exception|disconnect|disabled|preempt"
        "|quota|noimage|(?:rate|usage|spend)limit|other$|^language$|^continuation$"
    ),
    "length": re.compile(
        "length|truncat|incomplete|max(?:imum)?(?:new|output|completion)?tokens?|contextwindow"
        "|maxtime"
        "|limit(?:reached|exceeded|hit)?$"
    ),
    "tool_calls": re.compile("^(?:tool|function)(?:call|use)?s?$"),
}
_NOT_YET = ("null", "none", "finishreasonunspecified")


@dataclass(frozen=True)
class Part:
    """The part of a reply in one object of an SDK.

    `finish_reason` is a result of `finish_kind`; `reason` is the provider's own word for it.
    `call_pieces` are those of `whole_calls`, and `choices` are as in `Reply`.
    """

    text: str = ""
    refusal: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    reason: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    call_pieces: tuple[Mapping[str, Any], ...] = ()
    choices: tuple[Mapping[str, Any], ...] = ()


def counted(input_tokens: Any, *output_tokens: Any) -> Usage | None:
    """The provider's own count, with -1 for what is not a count; None if it gave no figures."""
    counted_input, *counts = map(as_count, (input_tokens, *output_tokens))
    counted_output = -1 if -1 in counts else sum(counts)
    return Usage(counted_input, counted_output) if counted_input or counted_output else None


def as_count(figure: Any) -> int:
    """A figure as a whole number: 0 for None, -1 for what is not a count."""
    if figure is None:
        return 0
    is_whole = isinstance(figure, int) or (isinstance(figure, float) and figure.is_integer())
    return int(figure) if is_whole and not isinstance(figure, bool) and figure >= 0 else -1


class Received:
    """The parts of one reply so far."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        # A stream may split a character that JSON writes as two surrogates between its events.
        self._characters = getincrementaldecoder("utf-16-le")("replace")

    def __bool__(self) -> bool:
        return bool(self.parts)

    def whole(self, text: str) -> str:
        """The whole characters of a streamed text; a half one is kept until its rest arrives."""
        return self._characters.decode(text.encode("utf-16-le", "surrogatepass"))

    def rest(self) -> str:
        """The incomplete character that is left when the stream has ended."""
        return self._characters.decode(b"", final=True)

    @property
    def text(self) -> str:
        """All text so far."""
        return whole_characters("".join(part.text for part in self.parts))

    @property
    def usage(self) -> Usage | None:
        """The provider's last count, or None."""
        return next((part.usage for part in reversed(self.parts) if part.usage), None)

    @property
    def finish_reason(self) -> str | None:
        """How the reply ended, or None if no part says so."""
        reasons = (part.finish_reason for part in reversed(self.parts))
        return next(filter(None, reasons), None)

    @cached_property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of tools that it asks for, with unique ids, once everything has arrived."""
        whole = [call for part in self.parts for call in part.tool_calls]
        pieces = [piece for part in self.parts for piece in part.call_pieces]
        by_id: dict[str, ToolCall] = {}
        for call in (*whole, *whole_calls(pieces)):
            one = replace(call, id=new_call_id()) if call.id in by_id else call
            by_id[one.id] = one
        return tuple(by_id.values())

    @property
    def choices(self) -> tuple[Mapping[str, Any], ...]:
        """The provider's own choices, of a reply in one piece."""
        return self.parts[-1].choices if self.parts else ()

    @property
    def is_whole(self) -> bool:
        """Whether the stream has stated its end and contains an answer."""
        last = next((p for p in reversed(self.parts) if p.finish_reason or p.text), None)
        return (
            last is not None
            and last.finish_reason in ("stop", "length", "tool_calls")
            and bool(self.tool_calls or without_reasoning(self.text).strip())
            and not any(part.refusal for part in self.parts)
        )

    def checked_finish(self, request: Request, stream: bool) -> str:
        """`stop`, `length` or `tool_calls`.

        Raises:
            AttemptFailed: what was received is not an answer.
        """
        finish_reason = self.finish_reason
        reason = next((part.reason for part in reversed(self.parts) if part.reason), "")
        reason = "" if reason.casefold() == finish_reason else reason
        named = f" ({reason})" if is_code(reason) else ""
        words = "" if named else reason

        def failed(summary: str, remedy: Remedy) -> AttemptFailed:
            return AttemptFailed(ProviderFailure(f"{summary}{named}", remedy, words))

        if refusal := "".join(part.refusal for part in self.parts):
            summary = "the model refused to answer"
            raise AttemptFailed(ProviderFailure(summary, Remedy.CHANGE_PROMPT, text=refusal))
        if finish_reason == "content_filter":
            raise failed("the provider filtered the reply", Remedy.CHANGE_PROMPT)
        if finish_reason is None and stream:
            raise stream_ended_early()
        if finish_reason == "error":
            raise failed("the reply ended without an answer", Remedy.RETRY_LATER)
        if self.tool_calls:
            # The limit may have cut the arguments of the last call.
            return "length" if finish_reason == "length" else "tool_calls"
        text = self.text
        if finish_reason == "length" and not without_reasoning(text).strip():
            summary = self._all_reasoning(request)
            raise AttemptFailed(ProviderFailure(summary, Remedy.RAISE_MAX_TOKENS))
        # A model that must reply in JSON may put all of it between its reasoning tags; the reader
        # of the schema looks there.
        answer = text if request.schema else without_reasoning(text)
        if not answer.strip():
            summary = "the reply ended without an answer" if reason else "an empty reply"
            raise failed(summary, Remedy.RETRY_LATER)
        return "length" if finish_reason == "length" else "stop"

    def _all_reasoning(self, request: Request) -> str:
        tokens = request.max_tokens or (self.usage.output_tokens if self.usage else 0)
        # A figure that is not a count is -1.
        spent = f"all {tokens:,} tokens" if 0 < tokens <= MOST_UNITS else "all its tokens"
        return f"the model used {spent} for reasoning; raise --max-tokens (max_tokens in Python)"


def stream_ended_early() -> AttemptFailed:
    """The failure of a stream that ended early."""
    return AttemptFailed(ProviderFailure("the stream ended early", Remedy.RETRY_LATER))


def finish_kind(word: str) -> str | None:
    """`stop`, `length`, `tool_calls`, `content_filter` or `error`; None for "not yet"."""
    if not word or word == "stop":
        # The usual case needs no patterns.
        return word or None
    letters = re.sub("[^a-z]", "", word.casefold())
    if letters in _NOT_YET:
        return None
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.search(letters)), "stop")


def new_call_id() -> str:
    """Return an id for a call that came without one."""
    return f"call_{os.urandom(12).hex()}"


class _Growing:
    """The part of a call that has arrived."""

    def __init__(self) -> None:
        self.id = self.name = self.signature = ""
        self.arguments: list[str] = []

    def is_whole(self) -> bool:
        """Return whether it came in one piece, with arguments that are complete."""
        if len(self.arguments) != 1:
            return False
        try:
            json.loads(self.arguments[0])
        except (ValueError, RecursionError):
            return False
        return True


def whole_calls(deltas: Iterable[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
    """Return the calls that a stream asks for, from their pieces.

    OpenAI sends the id and the name once and the arguments in pieces, with the call's index.
    Compatible services also send whole calls that all have the index 0, or no index at all, or
    calls without an id, or repeat id and name with each piece. A call without a name is left out,
    and one without an id gets one.
    """
    calls: list[_Growing] = []
    # By index, and by id where a piece has no index.
    at: dict[int | str, _Growing] = {}
    for delta in deltas:
        function = mapping(delta.get("function"))
        # In Mistral's reference, "null" is the id of a call without one.
        call_id = "" if delta.get("id") == "null" else field_text(delta, "id")
        name, index = field_text(function, "name"), delta.get("index")
        place = index if isinstance(index, int) else call_id
        call = at.get(place) if place != "" else calls[-1] if calls else None
        if call is None or _begins_another(call, call_id, name):
            call = _Growing()
            calls.append(call)
        at[place] = call
        call.id, call.name = call.id or call_id, call.name or name
        call.signature = call.signature or thought_signature(delta)
        if (arguments := function.get("arguments")) is not None:
            # Mistral's reference also allows an object.
            text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            call.arguments.append(text)
    return tuple(
        ToolCall(
            whole_characters(call.id) or new_call_id(),
            whole_characters(call.name),
            whole_characters("".join(call.arguments)) or "{}",
            call.signature,
        )
        for call in calls
        if call.name
    )


def _begins_another(call: _Growing, call_id: str, name: str) -> bool:
    """Return whether a piece with this id and name starts a new call instead of continuing one."""
    if not name or not call.name:
        return False
    if call_id and call.id:
        return call_id != call.id
    return call.is_whole()


def read_vectors(values: Sequence[Any], count: int) -> Vectors:
    """Return one vector per text, in 32-bit floats.

    `values` are lists of numbers, or base64 texts of little-endian 32-bit floats.

    Raises:
        ValueError: another number of vectors, vectors of different lengths, empty ones, or values
            that are not finite numbers.
    """
    if len(values) != count:
        raise ValueError(f"{len(values)} vectors for {count} texts")
    vectors = tuple(map(_vector, values))
    if len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
        raise ValueError("vectors of different lengths, or empty ones")
    # 32-bit floats do not overflow a sum of 64-bit ones, so only infinities and NaN remain.
    if not all(math.isfinite(sum(vector)) for vector in vectors):
        raise ValueError("a vector with infinite or missing numbers")
    return vectors


def vectors_of(answer: Mapping[str, Any]) -> tuple[list[Any], Usage | None]:
    """Return the vectors of OpenAI or Mistral in the order of the texts, and the usage.

    Raises:
        TypeError, KeyError: an entry is not an embedding.
    """
    data, usage = answer["data"], mapping(answer.get("usage"))
    by_place = {entry.get("index"): entry["embedding"] for entry in data}
    places = range(len(data))
    # Some services number them wrongly, but send them in order.
    in_place = by_place.keys() == set(places)
    vectors = [by_place[n] if in_place else data[n]["embedding"] for n in places]
    return vectors, counted(usage.get("prompt_tokens"), 0)


def _vector(value: Any) -> array[float]:
    if isinstance(value, str):
        return little_endian(array("f", base64.b64decode(value, validate=True)))
    try:
        return array("f", value)
    except (TypeError, OverflowError):
        raise ValueError("a vector that is not a list of numbers") from None
