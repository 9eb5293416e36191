"""The parts of chat completions that OpenAI, Groq, Mistral and many others share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .error_bodies import ErrorInReply, mapping, mappings, said
from .finish import finish_kind
from .parts import Part, counted

if TYPE_CHECKING:
    from ..request import Message, Request


def chat_messages(request: Request) -> list[dict[str, Any]]:
    """The messages of a request."""

    def content(message: Message) -> str | list[dict[str, Any]]:
        if not message.images:
            return message.content
        pictures = [
            {"type": "image_url", "image_url": {"url": image.data_uri}} for image in message.images
        ]
        return [{"type": "text", "text": message.content}, *pictures]

    return [{"role": m.role, "content": content(m)} for m in request.messages]


def chat_part(item: Any) -> Part | None:
    """One chat completion, or one chunk of it.

    Raises:
        TypeError: it is not a JSON object.
        ErrorInReply: it describes an error.
    """
    if not isinstance(item, dict):
        raise TypeError("JSON that is not an object")
    extra = mapping(item.get("x_groq"))
    usage = mapping(extra.get("usage")) or mapping(item.get("usage"))
    count = counted(usage.get("prompt_tokens"), usage.get("completion_tokens"))
    choices = mappings(item.get("choices"))
    if not choices:
        # Mistral's error in a stream, or the error of a service behind a broker (OpenRouter).
        if item.get("error") or item.get("object") == "error":
            raise ErrorInReply(item)
        return Part(usage=count) if count else None
    choice = choices[0]
    message = mapping(choice.get("message")) or mapping(choice.get("delta"))
    # Groq names here why it stopped a stream early.
    stopped, reason = said(extra, "error"), said(choice, "finish_reason")
    return Part(
        text=_text(message.get("content")),
        refusal=_text(message.get("refusal")),
        finish_reason="error" if stopped else finish_kind(reason),
        usage=count,
        reason=stopped or reason,
    )


def _text(content: Any) -> str:
    """The text of a message, which some services send in parts; parts of reasoning are left out."""
    if isinstance(content, str):
        return content
    return "".join(said(part, "text") for part in mappings(content) if part.get("type") == "text")
