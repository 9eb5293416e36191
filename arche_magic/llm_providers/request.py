"""A request: messages with images, a schema for the reply, and the options."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from .errors import InvalidRequest
from .files import expanded
from .text.wording import shortened
from .tools import Tool, ToolCall
from .types import ReplayMode, Timeouts

Kind = Literal["text", "choice", "integer", "number", "boolean", "date", "other"]


@dataclass(frozen=True)
class Image:
    """An image of a message.

    Attributes:
        media_type: `image/png`, `image/jpeg`, `image/webp` or `image/gif`.
        data: the file's bytes.
        url: its address, if the provider is to fetch it; `data` is then empty.
        detail: how closely the model looks at it, `low` or `high`; "" for its default.
    """

    media_type: str
    data: bytes = field(repr=False)
    url: str = field(default="", repr=False)
    detail: str = field(default="", repr=False)

    def __str__(self) -> str:
        if self.url:
            return self.url
        return f"{self.media_type}, {math.ceil(len(self.data) / 1000):,} kB"

    @property
    def data_uri(self) -> str:
        """The image as a data URI, or its URL."""
        if self.url:
            return self.url
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"


# Google accepts 20 MB per request, Groq 4 MB, the others more. If one refuses, the next one is
# asked.
_MOST_BYTES = 20_000_000


def read_image(source: Image | str | Path | bytes) -> Image:
    """Return an image from a path or from a file's bytes: PNG, JPEG, WebP or GIF.

    Raises:
        InvalidRequest: it cannot be read, has another format, or is larger than 20 MB.
    """
    if isinstance(source, Image):
        return source
    if isinstance(source, str | Path):
        name = shortened(str(source), 200)
        if name.startswith(("http://", "https://")):
            raise InvalidRequest(
                f"image {name}: images are not downloaded; save it to a file first"
            )
        try:
            data = expanded(source).read_bytes()
        except OSError as error:
            raise InvalidRequest(f"image {name} cannot be read: {error.strerror}") from None
    elif isinstance(source, bytes):
        name, data = "data", source
    else:
        raise InvalidRequest(f"an image must be a path or bytes, not {type(source).__name__}")
    media_type = _media_type(data)
    if media_type is None:
        raise InvalidRequest(f"image {name} is not a PNG, JPEG, WebP or GIF")
    if len(data) > _MOST_BYTES:
        size = math.ceil(len(data) / 1e6)
        raise InvalidRequest(f"image {name} has {size} MB; the limit is 20 MB")
    return Image(media_type, data)


def _media_type(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


# Groq counts every image as 2,048 input tokens (console.groq.com/docs/vision, 2026-10), the others
# fewer for most sizes. This high estimate is safe, and the provider's own count replaces it.
_TOKENS_PER_IMAGE = 2048


def text_tokens(text: str) -> float:
    """Estimate the tokens of a text from its length.

    Four characters per token is right for English within about 15 %. Other scripts need more bytes
    per character, so bytes/3 is used if it is larger.
    """
    if text.isascii():
        return len(text) / 4
    return max(len(text) / 4, len(text.encode("utf-8", "replace")) / 3)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is system, user, assistant or tool.

    Attributes:
        images: shown to the model after the text; only user turns have images.
        tool_calls: the calls that an assistant turn makes; its text may then be empty.
        tool_call_id: in a tool turn, the id of the call that it answers.
        name: distinguishes participants with the same role; "" for most.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    images: tuple[Image, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""

    @property
    def tokens(self) -> float:
        """Its tokens, estimated from its length."""
        tokens = text_tokens(self.content) + _TOKENS_PER_IMAGE * len(self.images)
        for call in self.tool_calls:
            tokens += text_tokens(call.name + call.arguments)
        return tokens


# Estimated characters of a field's value. Texts and lists have no limit, but most are this short.
_VALUE_CHARACTERS: Mapping[Kind, int] = {"integer": 6, "number": 6, "boolean": 5, "date": 12}
_TEXT_CHARACTERS = 120
# The quotes, colon, comma and space around a name, and the braces around the whole.
_AROUND_FIELD, _AROUND_REPLY = 6, 4
# JSON has fewer characters per token than prose.
_JSON_CHARACTERS_PER_TOKEN = 3.0


@dataclass(frozen=True)
class Field:
    """One field of a structured reply.

    Attributes:
        kind: `choice` is one of some texts; `other` is a list, an object, or of several types.
        choices: the texts of a choice, in the order of the schema.
        definition: its JSON Schema, with the definitions that it refers to.
    """

    kind: Kind
    choices: tuple[str, ...] = ()
    definition: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def characters(self) -> int:
        """Estimated maximum number of characters of its value."""
        if self.choices:
            return max(len(choice) + 2 for choice in self.choices)
        return _VALUE_CHARACTERS.get(self.kind, _TEXT_CHARACTERS)


@dataclass(frozen=True)
class Schema:
    """The schema of a structured reply.

    Attributes:
        name: its name in requests: letters, digits, `_` and `-`, at most 64.
        text: its JSON Schema, as it is sent.
        strict: whether it is in the form that strict modes take.
        read: converts a reply's text to its value; raises a ValueError that says what does not fit.
        fields: the fields of that value, by their names in the value, not by aliases.
        description: tells the model what the reply is for; "" for most.
    """

    name: str
    text: str
    strict: bool
    read: Callable[[str], Any] = field(repr=False, compare=False)
    fields: Mapping[str, Field] = field(default_factory=dict, repr=False, compare=False)
    description: str = ""

    @property
    def tokens(self) -> float:
        """Its tokens, estimated from its length."""
        return text_tokens(self.text)

    @property
    def definition(self) -> dict[str, Any]:
        """The JSON Schema; each access returns a new copy."""
        return cast("dict[str, Any]", json.loads(self.text))

    def reply_tokens(self, guess: float) -> float:
        """Estimate the tokens of a reply without reasoning; at most `guess`."""
        if not self.fields:
            return guess
        fields = self.fields.items()
        characters = sum(len(name) + _AROUND_FIELD + one.characters for name, one in fields)
        return min(guess, (characters + _AROUND_REPLY) / _JSON_CHARACTERS_PER_TOKEN)


# Besides `n`, fields of `Request.extra` whose results are not in a reply's text. `functions` are
# the tools of earlier versions of OpenAI's interface.
_NEED_CHOICES = ("logprobs", "top_logprobs", "functions")


@dataclass(frozen=True)
class Request:
    """A request in the engine's own form, which adapters translate. Units: seconds and tokens.

    Attributes:
        replay: `keep` answers repeated requests from memory, and keeps each new reply; `only`
            answers only from memory.
        fresh: asks even if there is a kept reply, and replaces it.
        reserve: the share of each limit, 0 to 1, that is left for other requests.
        private: uses only routes that the user has marked in `[private]`.
        same_model: uses only the model of the first route, with any key and provider that has it.
        expected_tokens: the length of the reply, if it differs from the model's usual one.
        tag: a name for its attempts in the record.
        tools: what the model may call.
        tool_choice: `auto`, `none`, `required`, the name of the one tool to call, or "" for the
            provider's default.
        parallel_tool_calls: whether the model may make several calls at once; None for the
            provider's default.
        extra: further fields of OpenAI's chat completions, by name. They are sent unchanged or
            translated; a route that cannot take one of them is not asked.
        inputs: texts to embed; `messages` is then empty, and `provider` and `model` name an
            embedding model.
        dimensions: the length of the vectors; None for the model's own.
        counts_as: how many requests the provider counts for this one.
    """

    messages: tuple[Message, ...]
    provider: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    schema: Schema | None = None
    patience: float = 30.0
    timeout: float = Timeouts.total
    fallback_on_filter: bool = False
    replay: ReplayMode = "off"
    fresh: bool = False
    reserve: float = 0.0
    private: bool = False
    same_model: bool = False
    expected_tokens: int | None = None
    tag: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""
    parallel_tool_calls: bool | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    inputs: tuple[str, ...] = ()
    dimensions: int | None = None
    counts_as: int = 1

    @property
    def images(self) -> tuple[Image, ...]:
        """The images of all messages."""
        return tuple(image for message in self.messages for image in message.images)

    @property
    def uses_tools(self) -> bool:
        """Whether it offers tools, or its conversation has calls of tools."""
        return bool(self.tools) or any(m.tool_calls or m.role == "tool" for m in self.messages)

    @property
    def tool_tokens(self) -> float:
        """Tokens of the definitions of its tools, estimated from their length."""
        # Most requests have no tools, and this is read several times for each.
        if not self.tools:
            return 0.0
        return sum(text_tokens(t.name + t.description + t.parameters) for t in self.tools)

    @property
    def reply_count(self) -> int:
        """The number of replies that it asks for (`n` in `extra`)."""
        count = self.extra.get("n")
        return count if isinstance(count, int) and count > 1 else 1

    @property
    def needs_choices(self) -> bool:
        """Whether its reply has the provider's own choices; such a reply is not streamed."""
        return self.reply_count > 1 or any(map(self.extra.get, _NEED_CHOICES))

    @property
    def wants_json(self) -> bool:
        """Whether its reply must be JSON."""
        return self.schema is not None or "response_format" in self.extra
