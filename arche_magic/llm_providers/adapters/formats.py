"""How JSON and a system prompt are requested from each model.

If a model does not accept them as a parameter or a role, they go into the prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from ..provider_failure import ProviderFailure, Remedy
from ..request import Message, Request, Schema


class Format(IntEnum):
    """The ways to ask for JSON, the strictest first."""

    SCHEMA = 0
    JSON = 1
    PROMPT = 2


# Words of a refusal that name the schema, and words that name any request for JSON.
_ABOUT_SCHEMA = re.compile(
    r"json[ _]?schema|schema for response|response_(json_)?schema|too many states", re.IGNORECASE
)
_ABOUT_JSON = re.compile(
    r"response[ _]?format|response_mime_type|json (mode|output)|json_object", re.IGNORECASE
)
# A refused system prompt, as Gemini says it of Gemma ("Developer instruction is not enabled"),
# OpenAI of its first reasoning models ("does not support 'system' with this model"), and chat
# templates of Gemma and Mistral ("System role not supported", "roles must alternate").
_ABOUT_SYSTEM = re.compile(
    r"\b(system|developer)\W{0,3}(role|message|prompt|instruction)s?\b.{0,60}(\bnot\b|n't|unsupported)"
    r"|(\bnot|n't) (support|allow|accept|take)s?\b.{0,40}\b(system|developer)\b"
    r"|(unsupported|unexpected|invalid|unknown).{0,30}\bsystem\b|['\"]system['\"] is not"
    r"|roles must alternate|only user.{0,40}roles",
    re.IGNORECASE,
)
# On the Gemini API they refuse both a system prompt and JSON mode (reports of 2025 and 2026).
_PLAIN_GEMMA = re.compile(r"(models/)?gemma-(1|2|3n?)\b")
_OLDER_GEMINI = re.compile(r"(models/)?gemini-[12]\b")
_SCHEMA_NAME = re.compile(r"schema for response_format:? '([\w-]+)'")


@dataclass(frozen=True)
class Asked:
    """What a request asked for; `form` is how it asked for JSON, `schema` the text of a schema."""

    model: str = ""
    form: Format | None = None
    schema: str = ""
    system: bool = False


class Formats:
    """The formats that each model of one service accepts, as far as known.

    Each refusal makes the next request less strict by one step, so a model refuses a request at
    most twice, and once more for its system prompt. `refused_names` are models, each with a
    parameter of ours that it refused; `stale_signatures` are not sent again.
    """

    def __init__(self, provider: str) -> None:
        self._is_gemini, self._is_groq = provider == "google", provider == "groq"
        self._without_system: set[str] = set()
        # The keys are model and schema text; "" stands for every schema.
        self._plainest: dict[tuple[str, str], Format] = {}
        self.refused_names: set[tuple[str, str]] = set()
        self.stale_signatures: set[str] = set()

    def refused(
        self, asked: Asked, status: int, message: str, label: str
    ) -> ProviderFailure | None:
        """Learn from a refusal whose message names the format or the system prompt.

        Returns None if it is about something else. `label` becomes part of the summary.
        """
        if status not in (400, 404, 422, 500, 501):
            return None
        if asked.system and _ABOUT_SYSTEM.search(message):
            self._without_system.add(asked.model)
            return ProviderFailure(
                f"{asked.model} does not accept a system prompt {label}", Remedy.ASK_DIFFERENTLY
            )
        if _ABOUT_SCHEMA.search(message):
            form = Format.JSON
        elif _ABOUT_JSON.search(message):
            form = Format.PROMPT
        else:
            return None
        return self._plainer(asked, form, label, named=bool(_SCHEMA_NAME.search(message)))

    def suspected(self, asked: Asked, label: str) -> ProviderFailure | None:
        """Become less strict with one schema, after a refusal that may be about it.

        Gemini answers INVALID_ARGUMENT without a reason to schemas that it cannot compile.
        """
        if asked.form is Format.PROMPT:
            # The format was not the reason.
            self._plainest.pop((asked.model, asked.schema), None)
        return self._plainer(asked, Format.JSON, label, named=True)

    def asking(self, request: Request, model: str) -> tuple[Request, Asked]:
        """Return the request in the form that this model accepts, and what it asks for."""
        is_plain = self._is_gemini and _PLAIN_GEMMA.match(model) is not None
        asked, schema = Asked(model), request.schema
        if schema is not None:
            places = ((model, ""), (model, schema.text))
            form = max(self._plainest.get(place, Format.SCHEMA) for place in places)
            form = Format.PROMPT if is_plain or self._refuses_both(request, model) else form
            request = _with_schema(request, schema) if form > Format.SCHEMA else request
            asked = Asked(model, form, schema.text)
        if all(message.role != "system" for message in request.messages):
            return request, asked
        # Gemini requires a user's turn.
        has_no_turn = self._is_gemini and all(m.role == "system" for m in request.messages)
        if is_plain or has_no_turn or model in self._without_system:
            return _without_system(request), asked
        return request, replace(asked, system=True)

    def _refuses_both(self, request: Request, model: str) -> bool:
        """Return whether the service refuses tools together with a format for the reply.

        Groq does (console.groq.com/docs/structured-outputs, 2026-07), and Gemini before its third
        version ("Function calling with a response mime type: 'application/json' is unsupported",
        github.com/symfony/ai/issues/803).
        """
        older = self._is_gemini and _OLDER_GEMINI.match(model) is not None
        return request.uses_tools and (self._is_groq or older)

    def _plainer(
        self, asked: Asked, form: Format, label: str, *, named: bool
    ) -> ProviderFailure | None:
        if asked.form is None or asked.form is Format.PROMPT:
            return None
        # At least one step less strict than the refused request, whatever the message says.
        form = max(form, Format(asked.form + 1))
        place = (asked.model, asked.schema if named else "")
        self._plainest[place] = max(form, self._plainest.get(place, form))
        if asked.form is Format.JSON:
            kind = "JSON"
        else:
            kind = "this JSON Schema" if named else "a JSON Schema"
        return ProviderFailure(
            f"{asked.model} does not support {kind} {label}", Remedy.ASK_DIFFERENTLY
        )


def _with_schema(request: Request, schema: Schema) -> Request:
    """Put the schema of a request into its system prompt, for a model that does not enforce it."""
    when = "When you need no more tools, reply" if request.tools else "Reply"
    instruction = (
        f"{when} with one JSON object and nothing else, no Markdown either. It must fit this JSON "
        f"Schema:\n{schema.text}"
    )
    others = (message for message in request.messages if message.role != "system")
    # One system message, because some models accept only one.
    whole = Message("system", "\n\n".join(filter(None, (system_prompt(request), instruction))))
    return replace(request, messages=(whole, *others))


def _without_system(request: Request) -> Request:
    """Return the request with its system prompt at the start of the user's first message."""
    turns = [message for message in request.messages if message.role != "system"]
    if not turns or turns[0].role != "user":
        turns.insert(0, Message("user", ""))
    text = "\n\n".join(filter(None, (system_prompt(request), turns[0].content)))
    return replace(request, messages=(replace(turns[0], content=text), *turns[1:]))


def system_prompt(request: Request) -> str:
    """Return all system prompts of a request together."""
    return "\n\n".join(m.content for m in request.messages if m.role == "system" and m.content)


def response_format(
    request: Request, form: Format | None, schema_field: str
) -> dict[str, Any] | None:
    """Return the `response_format` parameter of OpenAI's, Groq's and Mistral's chat completions."""
    schema = request.schema
    if schema is None or form is Format.PROMPT:
        return None
    if form is Format.JSON:
        return {"type": "json_object"}
    described = {"name": schema.name, schema_field: schema.definition, "strict": schema.strict}
    if schema.description:
        described["description"] = schema.description
    return {"type": "json_schema", "json_schema": described}


_formats: dict[tuple[str, str], Formats] = {}


def formats_of(provider: str, base_url: str) -> Formats:
    """Return what is known of a service, shared by its keys."""
    return _formats.setdefault((provider, base_url), Formats(provider))
