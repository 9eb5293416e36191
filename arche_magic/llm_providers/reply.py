"""The results of a request: the reply, and the attempts that led to it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, Self

from .errors import InvalidRequest
from .files import expanded
from .text.characters import whole_characters, without_controls
from .text.code_blocks import blocks_of, code_of, fence_around
from .text.markdown import harmless_markdown
from .tools import ToolCall, ToolRun
from .types import RouteId, Usage, Vectors, in_seconds

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from .routing import Decision

Outcome = Literal["served", "skipped", "refused", "failed", "interrupted"]
NOT_SPENT: tuple[Outcome, ...] = ("skipped", "refused")
"""The outcomes of attempts that use no quota."""


def outcome_in_words(outcome: str) -> str:
    """Return an outcome as displays name it: `served`, the word of records, is "answered"."""
    return "answered" if outcome == "served" else outcome


@dataclass(frozen=True)
class Attempt:
    """One request offered to one route, and its outcome.

    `session` is the process, `notebook` is its notebook's file, if known, and `tag` is the name
    that the caller gave to the request. `error` may end with the server's own text, `said`, which
    may quote the prompt, so it is displayed but never stored.
    """

    provider: str
    key: str
    model: str
    outcome: Outcome
    error: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    first_token_s: float | None = None
    waited_s: float = 0.0
    cost_usd: float | None = None
    at: float = 0.0
    request: str = ""
    opens_at: float | None = None
    session: str = ""
    notebook: str = ""
    tag: str = ""
    said: str = ""

    def __str__(self) -> str:
        words = f"{self.route} {outcome_in_words(self.outcome)}"
        return f"{words}: {self.why}" if self.error else words

    @property
    def route(self) -> RouteId:
        """The route that it was offered to."""
        return RouteId(self.provider, self.key, self.model)

    @property
    def why(self) -> str:
        """Why the route did not answer and, where known, when it opens; "" if it answered."""
        if not self.error or self.opens_at is None or self.opens_at <= self.at:
            return self.error or ""
        return f"{self.error.rstrip(' .')}, opens {in_seconds(self.opens_at - self.at)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the attempt as plain JSON values, without the server's own text."""
        values = dict(self.without_said().__dict__)
        del values["said"]
        return values

    def without_said(self) -> Attempt:
        """Return the attempt without the server's own text, for logs and files."""
        if not self.said:
            return self
        return replace(self, error=(self.error or "").removesuffix(f": {self.said}"), said="")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Attempt:
        """Return the attempt that `to_dict` wrote; fields of later versions are ignored.

        Raises:
            TypeError, ValueError: the values are not those of an attempt.
        """
        attempt = cls(**{name: values[name] for name in _FIELDS if name in values})
        for name, kinds in _FIELDS.items():
            if not isinstance(getattr(attempt, name), kinds):
                raise TypeError(f"{name} is {getattr(attempt, name)!r}")
        for name in _NUMBERS:
            if not 0 <= (getattr(attempt, name) or 0) <= MOST_TOKENS:
                raise ValueError(f"no call has this {name}")
        return attempt


MOST_LEVELS = 300
"""Values that are nested more deeply cannot be written, because Python limits nested calls."""
MOST_TOKENS = 2**53
"""The highest number that the columns of a frame can hold."""
_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "Outcome": (str,),
    "str | None": (str, NoneType),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, NoneType),
}
_FIELDS = {one.name: _KINDS[str(one.type)] for one in fields(Attempt) if one.name != "said"}
_NUMBERS = [name for name, kinds in _FIELDS.items() if int in kinds]


_NO_USAGE = Usage()


class Reply(str):
    """The text of a reply, with attributes about its origin.

    It is a `str`, because users of the older package rely on that.

    Attributes:
        provider, key, model: the route that answered; `key` is the label.
        usage: tokens as the provider counted them.
        attempts: every route considered for this request, in order, the answering one last.
        seconds: from the call to the last piece, including waiting.
        finish_reason: `stop`, `length` or `tool_calls`; `interrupted` for the text of an
            interrupted cell in the variable of `-o`.
        cost: USD of all attempts, including failed ones; None if the price of the last is unknown.
        standing: what is left of the route's tightest limit, in words, or "".
        decisions: the inputs of each choice of a route, in order, the answering one last.
            `decisions[-1].choice()` repeats that choice, and `%llm_why` explains it.
        parsed: the value of a structured reply; None if there was no schema.
        from_memory: when a kept reply was originally given (aware, UTC); None for a new reply. A
            kept reply has no attempts, because nothing was sent. Its usage, cost, seconds and
            request are the original ones.
        request: the id of its attempts in the record.
        tool_calls: the calls that the model asks its caller to run; the text may then be empty.
        choices: the provider's own choices of a chat completion, for a request with `n` or
            `logprobs`; empty for others.
        tool_runs: the functions that were run for this reply, in order. Its text, route and
            decisions are those of the last round; usage, attempts, seconds and cost of all rounds.
        vectors: the vectors of the texts of an embedding request, in their order; the text is "".
    """

    provider: str
    key: str
    model: str
    usage: Usage
    attempts: tuple[Attempt, ...]
    seconds: float
    finish_reason: str
    cost: float | None
    standing: str
    decisions: tuple[Decision, ...]
    parsed: Any
    from_memory: datetime | None
    request: str
    tool_calls: tuple[ToolCall, ...]
    choices: tuple[Mapping[str, Any], ...]
    tool_runs: tuple[ToolRun, ...]
    vectors: Vectors

    def __new__(
        cls,
        text: str,
        *,
        provider: str = "",
        key: str = "",
        model: str = "",
        usage: Usage = _NO_USAGE,
        attempts: tuple[Attempt, ...] = (),
        seconds: float = 0.0,
        finish_reason: str = "stop",
        cost: float | None = None,
        standing: str = "",
        decisions: tuple[Decision, ...] = (),
        parsed: Any = None,
        from_memory: datetime | None = None,
        request: str = "",
        tool_calls: tuple[ToolCall, ...] = (),
        choices: tuple[Mapping[str, Any], ...] = (),
        tool_runs: tuple[ToolRun, ...] = (),
        vectors: Vectors = (),
    ) -> Self:
        """Create a reply from its text and attributes."""
        reply = super().__new__(cls, whole_characters(text))
        reply.provider, reply.key, reply.model = provider, key, model
        reply.usage, reply.cost, reply.seconds = usage, cost, seconds
        reply.attempts, reply.decisions, reply.request = attempts, decisions, request
        reply.finish_reason, reply.standing = finish_reason, standing
        reply.parsed, reply.choices, reply.vectors = parsed, choices, vectors
        reply.tool_calls, reply.tool_runs = tool_calls, tool_runs
        reply.from_memory = from_memory
        return reply

    @property
    def route(self) -> RouteId:
        """The route that answered."""
        return RouteId(self.provider, self.key, self.model)

    def changed(self, text: str | None = None, **changes: Any) -> Reply:
        """Return the reply with another text, if given, and other attributes, such as `parsed`."""
        return Reply(str(self) if text is None else text, **{**self.__dict__, **changes})

    @property
    def code(self) -> str:
        """The Python code in the reply, or else the code in the language of its first block, or "".

        Blocks of that language are joined. A reply without blocks counts as code if it is a valid
        Python program.
        """
        return code_of(str(self))[1]

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """The language (in lower case, or "") and the code of each fenced block."""
        return blocks_of(str(self))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the text to a file in UTF-8, and return its path.

        The file is never incomplete.

        Raises:
            InvalidRequest: the path does not name a file, the file exists and `overwrite` is
                False, or it cannot be written.
        """
        path = expanded(path)
        if not path.name:
            raise InvalidRequest(f"save: {str(path)!r} is not the name of a file")
        if path.exists() and not overwrite:
            raise InvalidRequest(f"save: {path} already exists; overwrite=True replaces it")
        # Another thread may save there too.
        part = path.parent / f".{path.name}.{os.urandom(4).hex()}.part"
        try:
            part.write_bytes(str(self).encode("utf-8"))
            part.replace(path)
        except OSError as error:
            raise InvalidRequest(f"save: {path}: {error.strerror or error}") from None
        finally:
            # It is still there after an error or an interrupt.
            with suppress(OSError):
                part.unlink()
        return path

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        # A pickle of an earlier version gets the defaults of attributes that came later.
        return (str(self),), dict(self.__dict__)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the text in IPython; inside a list or dict, the repr."""
        inside = len(printer.stack) > 1
        printer.text(repr(self) if inside else without_controls(str(self)))

    def _repr_markdown_(self) -> str:
        text = str(self) if self.parsed is None else f"```json\n{self}\n```"
        if self.tool_calls:
            text = f"{text}\n\n{_shown_calls(self.tool_calls)}".lstrip()
        # The text of a model is untrusted wherever it is shown.
        return harmless_markdown(without_controls(text))


def _shown_calls(calls: Sequence[ToolCall]) -> str:
    """Calls of tools as a block of code, one a line."""
    lines = [f"{call.name}({' '.join(call.arguments.split())})" for call in calls]
    fence = fence_around("".join(lines))
    return "\n".join(["The model asks to run:", "", fence, *lines, fence])


def total_cost(attempts: Sequence[Attempt]) -> float | None:
    """Return USD of all attempts of a request; None if the price of the last one is unknown."""
    if attempts[-1].cost_usd is None:
        return None
    return sum(attempt.cost_usd or 0.0 for attempt in attempts)


def fields_of(parsed: Any) -> dict[str, Any]:
    """Return the fields of a structured reply's value, by their names in the class.

    Nested objects become dicts, and members of an Enum become their values.

    Raises:
        InvalidRequest: the class's own code made a value that has no such form.
    """
    try:
        if is_dataclass(parsed) and not isinstance(parsed, type):
            parsed = asdict(parsed)
        elif dump := getattr(parsed, "model_dump", None):
            parsed = dump()
        return {name: _plain(value, MOST_LEVELS) for name, value in dict(parsed).items()}
    except RecursionError:
        why = "it contains itself, or is nested too deeply"
    except ValueError as error:
        # In pydantic's words.
        why = str(error).partition("\n")[0]
    raise InvalidRequest(f"the value of the reply cannot be shown in columns: {why}")


def _plain(value: Any, levels: int) -> Any:
    if isinstance(value, Enum):
        return value.value
    if levels < 0:
        raise RecursionError
    if isinstance(value, dict):
        return {_plain(name, levels): _plain(entry, levels - 1) for name, entry in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)([_plain(entry, levels - 1) for entry in value])
    return value


def without_defaults(record: DataclassInstance) -> dict[str, Any]:
    """Return the fields of a dataclass whose values differ from their defaults, by name."""
    values = ((field, getattr(record, field.name)) for field in fields(record))
    return {field.name: value for field, value in values if value != default_of(field)}


def default_of(field: Field[Any]) -> Any:
    """Return the default of a field, or `MISSING`, which equals no value."""
    return field.default_factory() if field.default_factory is not MISSING else field.default
