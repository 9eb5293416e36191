"""The values that the HTTP layer, the service, the limits and the wires exchange."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .windows import Window

# Writes a reply to a model's name and messages, which are dicts of role and content.
Writer = Callable[[str, list[dict[str, str]]], str]
_PIECE = re.compile(r"\s*\S+\s*")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call, with the JSON schema of its arguments."""

    name: str
    schema: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt: who speaks ("system", "user", "assistant", "tool"), text, images.

    `calls` are the tool calls of an assistant. `tool` is the name of the tool whose result the
    text is.
    """

    role: str
    text: str
    images: int = 0
    calls: tuple[ToolCall, ...] = ()
    tool: str = ""


@dataclass(frozen=True, slots=True)
class EmbeddingInputs:
    """The texts of a request for embeddings, and the tokens of all texts.

    A request for a reply has no texts.

    `dimensions` is the length of vectors that the request asks for, or None. `base64` asks for
    vectors as base64 of 32-bit floats. `single` is true for Gemini's method for one text.
    """

    texts: tuple[str, ...] = ()
    tokens: int = 0
    dimensions: int | None = None
    base64: bool = False
    single: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One request, in terms common to all providers."""

    provider: str
    model: str
    messages: tuple[Message, ...]
    stream: bool = False
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    json_wanted: bool = False
    json_schema: Mapping[str, Any] | None = None
    usage_wanted: bool = False  # stream_options.include_usage of the OpenAI format
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"  # "auto", "none", "required" or the name of a tool
    parallel: bool = True  # whether one reply may call several tools
    choices: int = 1  # how many replies are asked for (`n`)
    top_logprobs: int | None = None  # None: no log probabilities are asked for
    embedding: EmbeddingInputs = EmbeddingInputs()

    @property
    def requests(self) -> int:
        """How many requests this counts as, for the limits.

        Gemini counts every text of a batch: github.com/garrytan/gbrain/pull/1922, 2026-06.
        """
        return max(1, len(self.embedding.texts)) if self.provider == "google" else 1

    @property
    def prompt(self) -> str:
        """The text of the last user message, or ""."""
        return next((m.text for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def images(self) -> int:
        """How many images came with the messages."""
        return sum(m.images for m in self.messages)


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished simulated reply, with its token counts.

    `thought_tokens` are output that is not shown (Gemini's thinking); `output_tokens` includes
    them. `finish` is "length" when `max_tokens` cut the text. `calls` are tool calls, which come
    instead of a text. `others` are the second and later replies to a request for several; the
    token counts of the first reply include theirs.
    """

    text: str
    input_tokens: int
    output_tokens: int
    thought_tokens: int = 0
    finish: Literal["stop", "length", "content_filter", "tool_calls", "malformed_call"] = "stop"
    calls: tuple[ToolCall, ...] = ()
    others: tuple[Reply, ...] = ()

    @property
    def pieces(self) -> tuple[str, ...]:
        """The text in the pieces of a stream: word by word."""
        return tuple(_PIECE.findall(self.text)) or ((self.text,) if self.text else ())


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit without room for a request, and the seconds until it has room."""

    name: str
    limit: int
    used: int
    requested: int
    wait_seconds: float

    @property
    def unit(self) -> str:
        """What is counted: "requests", "tokens", "input_tokens" or "output_tokens"."""
        return self.name.partition("_per_")[0]

    @property
    def period(self) -> str:
        """The window's name: "second", "minute", "hour", "day" or "month"."""
        return self.name.partition("_per_")[2]

    @property
    def too_large(self) -> bool:
        """Whether waiting can never help, because one request asks for more than the limit."""
        return self.unit != "requests" and 0 < self.limit < self.requested


@dataclass(frozen=True, slots=True)
class Caller:
    """The key, the account and their limits: the data for headers and error texts.

    `limits` are those of the account for the model.
    """

    key: str
    account: str
    request_id: str
    now: float
    limits: Mapping[str, Window] = field(default_factory=dict)


class Refusal(Exception):
    """Why a request is refused, in terms common to all providers.

    `kind` is a failure kind (see `failures.py`), "limit" with `breaches`, "stated" with the
    provider's `text`, or a problem with a parameter ("missing", "above"). Each wire has a table of
    its errors by kind. `details` has what the text of the error names: param, value, bound, ...
    """

    def __init__(
        self, kind: str, param: str | None = None, breaches: tuple[Breach, ...] = (), **details: Any
    ) -> None:
        super().__init__(kind)
        self.kind = kind
        self.breaches = breaches
        self.details = {"param": param, **details}


@dataclass(slots=True)
class Answer:
    """The answer over HTTP: a body, or the events of a stream, and how it ends.

    `charge` charges the output of a stream after a share of it (0 to 1) was sent.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    events: list[bytes] | None = None
    ending: Literal["complete", "broken", "stall", "reset"] = "complete"
    charge: Callable[[float], None] = lambda share: None


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as the sandbox saw it.

    `at` is in epoch seconds of the sandbox's clock; `key` is a label, or None for a key that the
    sandbox did not give out; `status` is 0 when no response was sent at all. `headers` holds no
    secret: the value of a header that carries a key reads "hidden".
    """

    at: float
    provider: str
    key: str | None = None
    account: str | None = None
    model: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False
    status: int = 200
    failure: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
