"""Tools that a model may ask for, and its calls of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

LONGEST_NAME = 64


@dataclass(frozen=True)
class Tool:
    """A function that a model may ask its caller to run.

    Attributes:
        name: letters, digits, `_` and `-`, at most 64 characters.
        description: what it does, for the model.
        parameters: the JSON Schema of its arguments, as text.
        strict: whether the provider must enforce that schema; None if not stated.
    """

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}}'
    strict: bool | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its arguments; each access returns a new copy."""
        return cast("dict[str, Any]", json.loads(self.parameters))


@dataclass(frozen=True)
class ToolCall:
    """A model's request to run a tool.

    Attributes:
        id: the provider's name for this call, which the result must repeat.
        name: the tool's name.
        arguments: JSON text as the model wrote it, which may be invalid.
        signature: Gemini's thought signature (base64), which must be sent back with the call; ""
            for other providers.
    """

    id: str
    name: str
    arguments: str = "{}"
    signature: str = ""


@dataclass(frozen=True)
class ToolRun:
    """A call of a function that was run for the model.

    Attributes:
        call: what the model asked for.
        result: the text that goes back to it.
        failed: whether that is an error: of the arguments, or raised by the function.
        seconds: how long the function took.
        round: number of the request whose reply asked for it, from 1.
    """

    call: ToolCall
    result: str
    failed: bool = False
    seconds: float = 0.0
    round: int = 1


def is_name(text: str) -> bool:
    """Return whether a tool or a schema can have this name on every wire."""
    return re.fullmatch(rf"[A-Za-z0-9_-]{{1,{LONGEST_NAME}}}", text) is not None


def thought_signature(call: Mapping[str, Any]) -> str:
    """Gemini's thought signature of a call in OpenAI's form; "" if it has none.

    It is where Google's own service puts it (ai.google.dev/gemini-api/docs/openai).
    """
    extra = call.get("extra_content")
    google = extra.get("google") if isinstance(extra, Mapping) else None
    signature = google.get("thought_signature") if isinstance(google, Mapping) else None
    return signature if isinstance(signature, str) else ""
