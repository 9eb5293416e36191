"""How a model is asked for JSON: held to a schema if it can be, told of it in the prompt if not."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from ..errors import AttemptFailed, Remedy
from ..types import Message

if TYPE_CHECKING:
    from ..types import Request, Schema


class Format(IntEnum):
    """The ways to ask, the firmest first."""

    SCHEMA = 0
    JSON = 1
    PROMPT = 2


# What a refusal speaks of: the schema (then any JSON may do), or asking for JSON at all.
_ABOUT_SCHEMA = re.compile(
    r"json[ _]?schema|schema for response|response_(json_)?schema", re.IGNORECASE
)
_ABOUT_JSON = re.compile(
    r"response[ _]?format|response_mime_type|json (mode|output)|json_object", re.IGNORECASE
)
_SCHEMA_NAME = re.compile(r"schema for response_format:? '([\w-]+)'")


class Formats:
    """What the models of one service have refused so far; each refusal costs one request, once."""

    def __init__(self) -> None:
        # By model, and by schema for one that was refused itself ("" for any).
        self._plainest: dict[tuple[str, str], Format] = {}

    def refused(self, model: str, status: int, message: str, what: str) -> AttemptFailed | None:
        """Learn from a refusal; None if it is about something else.

        Args:
            model: which refused.
            status: of the refusal.
            message: its text.
            what: its short label, for the error.
        """
        if status not in (400, 422):
            return None
        if _ABOUT_SCHEMA.search(message):
            form = Format.JSON
        elif _ABOUT_JSON.search(message):
            form = Format.PROMPT
        else:
            return None
        named = _SCHEMA_NAME.search(message)
        place = (model, named[1] if named else "")
        self._plainest[place] = max(form, self._plainest.get(place, form))
        kind = "this JSON Schema" if named else "a JSON Schema" if form == Format.JSON else "JSON"
        return AttemptFailed(f"{model} cannot be held to {kind} {what}", Remedy.PLAINER_FORMAT)

    def asking(self, request: Request, model: str) -> tuple[Request, Format | None]:
        """The request as this model is to get it, and how to ask for JSON; None: not at all."""
        if request.schema is None:
            return request, None
        places = ((model, ""), (model, request.schema.name))
        form = max(self._plainest.get(place, Format.SCHEMA) for place in places)
        return (_told(request, request.schema) if form > Format.SCHEMA else request), form


def _told(request: Request, schema: Schema) -> Request:
    """The request with its schema in the system prompt, for a model that is not held to it."""
    told = (
        "Reply with one JSON object and nothing else, no Markdown either. It must fit this JSON "
        f"Schema:\n{schema.text}"
    )
    system = [message.content for message in request.messages if message.role == "system"]
    others = (message for message in request.messages if message.role != "system")
    # One system message: not every model takes several.
    whole = Message("system", "\n\n".join([*system, told]))
    return replace(request, messages=(whole, *others))


def response_format(
    request: Request, form: Format | None, schema_field: str
) -> dict[str, Any] | None:
    """The parameter of that name, as OpenAI's, Groq's and Mistral's chat completions have it."""
    schema = request.schema
    if schema is None or form is None or form is Format.PROMPT:
        return None
    if form is Format.JSON:
        return {"type": "json_object"}
    described = {"name": schema.name, schema_field: schema.definition, "strict": schema.strict}
    return {"type": "json_schema", "json_schema": described}


_formats: dict[tuple[str, str], Formats] = {}


def formats_of(provider: str, base_url: str) -> Formats:
    """What is known of a service, shared by its keys."""
    return _formats.setdefault((provider, base_url), Formats())
