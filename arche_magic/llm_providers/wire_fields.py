"""The fields of a request that a provider's wire does not support, in words.

A route that does not support a field is not asked, because no part of a request is ever dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .request import Request

# Fields of OpenAI's chat completions that the SDKs of Mistral and Google also have, under the same
# name or another one.
MISTRAL_FIELDS = frozenset({
    "frequency_penalty", "metadata", "prediction", "presence_penalty", "reasoning_effort",
    "response_format",
})  # fmt: skip
GOOGLE_FIELDS = frozenset({
    "frequency_penalty", "presence_penalty", "reasoning_effort", "response_format",
})  # fmt: skip
_TRANSLATED = {"mistral": MISTRAL_FIELDS, "google": GOOGLE_FIELDS}
# Groq refuses these with a 400 (console.groq.com/docs/openai, 2026).
_GROQ_REFUSES = frozenset({"logit_bias", "logprobs", "n", "top_logprobs"})
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


class Unsupported(NamedTuple):
    """What a wire cannot take of a request.

    Attributes:
        field: the field by OpenAI's name.
        words: the field, or what of it: `response_format together with tools`.
        takes_others: whether the wire takes other values of the field; `words` name them.
    """

    field: str
    words: str
    takes_others: bool = False


def unsupported_fields(wire: str, request: Request) -> list[Unsupported]:
    """Return the fields of a request that a provider with this wire does not support.

    A field with its default value, such as `n=1`, counts as not given.

    Args:
        wire: `groq`, `mistral`, `google`, or `openai` for OpenAI and every compatible service.
        request: the request to examine.
    """
    if wire == "openai":
        return []
    fields = [
        refused
        for name, value in request.extra.items()
        if not _asks_for_default(name, value) and (refused := _refused(wire, name, value))
    ]
    if wire == "groq" and request.uses_tools and "response_format" in request.extra:
        # console.groq.com/docs/structured-outputs, 2026-07.
        fields.append(Unsupported("response_format", "response_format together with tools"))
    if any(message.name for message in request.messages):
        fields.append(Unsupported("messages", "names of participants"))
    if wire == "google":
        if any(image.url for image in request.images):
            fields.append(Unsupported("messages", "addresses of images"))
        if any(image.detail for image in request.images):
            fields.append(Unsupported("messages", "detail of images"))
    return fields


def may_be_unsuitable(request: Request) -> bool:
    """Return whether the request has anything that some routes do not support."""
    if request.extra or request.tools or request.inputs:
        return True
    for message in request.messages:
        if message.images or message.name or message.tool_calls or message.role == "tool":
            return True
    return False


def unsuitable(wire: str, request: Request) -> str:
    """Return why a provider with this wire cannot take a request (`takes no logprobs`), or ""."""
    fields = unsupported_fields(wire, request)
    if not fields:
        return ""
    *others, last = [field.words for field in fields]
    return f"takes no {', '.join(others)} or {last}" if others else f"takes no {last}"


def _refused(wire: str, name: str, value: Any) -> Unsupported | None:
    """Return what a wire cannot take: the field, or all but some of its values; None if it can."""
    if wire == "groq":
        return Unsupported(name, name) if name in _GROQ_REFUSES else None
    if name not in _TRANSLATED[wire]:
        return Unsupported(name, name)
    if name == "response_format" and value.get("type") != "json_object":
        taken = "json_object and json_schema"
    elif name == "reasoning_effort" and wire == "google" and value not in _EFFORTS:
        taken = f"{', '.join(_EFFORTS[:-1])} and {_EFFORTS[-1]}"
    else:
        return None
    return Unsupported(name, f"{name} other than {taken}", takes_others=True)


def _asks_for_default(name: str, value: object) -> bool:
    if name == "n":
        return value == 1
    if name == "stream_options":
        # Usage is always requested.
        return isinstance(value, dict) and set(value) <= {"include_usage"}
    return name in ("logprobs", "top_logprobs") and not value
