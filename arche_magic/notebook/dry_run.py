"""`--show-prompt` and `--dry-run`: what a cell would send and which route would answer."""

from __future__ import annotations

import json
import math
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, Preview
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.types import in_seconds

from .receipt import receipt_line
from .words import paid_text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PARAMETERS = ("max_tokens", "temperature", "top_p", "stop", "seed")


def print_preview(
    options: Namespace,
    llm: IntelligentLLMOrchestrator,
    messages: Sequence[Message],
    request: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    """Print what would be sent, and which route would answer."""
    shown = [*notes]
    if options.show_prompt:
        shown.append(_prompt_text(llm.preview(messages, **request).request))
    if options.dry_run:
        kept = llm.kept(messages, **request)
        # If the kept reply calls a function, another request follows.
        if kept is not None and not kept.tool_calls:
            shown.append(f"{receipt_line(kept)}\nNothing was sent, and nothing would be sent.")
        else:
            shown.append(_route_text(llm.preview(messages, **request)))
    print("\n\n".join(shown))


def _prompt_text(request: Request) -> str:
    """Everything that would be sent, message by message; for an image, its size.

    Control characters are shown as escapes.
    """
    parts = [_message(message) for message in request.messages]
    if request.schema:
        fields = json.dumps(request.schema.definition, indent=2, ensure_ascii=False)
        parts.append(f"── schema {request.schema.name} ──\n{fields}")
    for tool in request.tools:
        about = [tool.description] if tool.description else []
        described = json.dumps(tool.schema, indent=2, ensure_ascii=False)
        parts.append("\n".join([f"── function {tool.name} ──", *about, described]))
    given = {name: getattr(request, name) for name in _PARAMETERS} | dict(request.extra)
    settings = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in given.items()
        if value not in (None, ())
    )
    return "\n\n".join([*parts, f"({settings})"] if settings else parts)


def _route_text(preview: Preview) -> str:
    """Which route would answer, when, at how many tokens, and which routes are skipped."""
    spent = preview.usage
    size = f"about {spent.input_tokens:,} tokens in, {spent.output_tokens:,} out"
    if preview.route is None:
        patience = f"{preview.request.patience:g} s"
        opens = f"; the first opens {in_seconds(preview.wait)}" if preview.wait < math.inf else ""
        lines = [f"No route would answer within {patience}{opens} · {size}"]
    else:
        when = "now" if preview.wait <= 0 else in_seconds(preview.wait)
        lines = [f"{preview.route} would answer {when} · {size} · {paid_text(preview.cost)}"]
    lines += [f"  {route} is skipped: {reason}" for route, _, reason in preview.closed]
    if preview.request.tools:
        names = ", ".join(tool.name for tool in preview.request.tools)
        lines.append(f"This is the first round; calls of {names} lead to another round.")
    if preview.request.private:
        lines.append("Private: only marked routes would be used.")
    return "\n".join([*lines, "Nothing was sent."])


def _message(message: Message) -> str:
    shown = _CONTROL.sub(lambda sign: f"\\x{ord(sign[0]):02x}", message.content)
    images = [f"[image {number}: {image}]" for number, image in enumerate(message.images, 1)]
    return "\n".join([f"── {message.role} ──", shown.rstrip("\n"), *images])
