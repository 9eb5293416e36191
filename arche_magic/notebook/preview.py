"""`--show-prompt` and `--dry-run`: what a cell would send and whom it would reach, in words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping

from arche_magic.llm_providers.attempts import Spent
from arche_magic.llm_providers.preview import Preview
from arche_magic.llm_providers.types import Message, Request, Route, in_seconds

Name = tuple[str, str, str]
"""Provider, key and model."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PARAMETERS = ("max_tokens", "temperature", "top_p", "stop", "seed")


def prompt_text(request: Request) -> str:
    """Everything that would leave the machine, message by message; image data by its size.

    Control characters, which a screen would obey, are shown by their numbers.
    """
    parts = [_message(message) for message in request.messages]
    if request.schema:
        fields = json.dumps(request.schema.definition, indent=2, ensure_ascii=False)
        parts.append(f"── schema {request.schema.name} ──\n{fields}")
    given = {name: getattr(request, name) for name in _PARAMETERS}
    settings = ", ".join(
        f"{name} {value}" for name, value in given.items() if value not in (None, ())
    )
    return "\n\n".join([*parts, f"({settings})"] if settings else parts)


def route_text(preview: Preview) -> str:
    """Who would answer and when, what it would take, and who is passed over."""
    spent = preview.usage
    size = f"about {spent.input_tokens:,} tokens in, {spent.output_tokens:,} out"
    if preview.route is None:
        patience = f"{preview.request.patience:g} s"
        opens = f"; the first opens {in_seconds(preview.wait)}" if preview.wait < math.inf else ""
        lines = [f"No route would answer within {patience}{opens} · {size}"]
    else:
        when = "now" if preview.wait <= 0 else in_seconds(preview.wait)
        lines = [f"{preview.route} would answer {when} · {size} · {paid_text(preview.cost)}"]
    lines += [f"  {route} is passed over: {reason}" for route, _, reason in preview.shut]
    if preview.request.private:
        lines.append("Private: only routes that are marked so would be asked.")
    return "\n".join([*lines, "Nothing was sent."])


def price_text(cost: float | None) -> str:
    """`free`, `$0.0012`, or that it is not known."""
    if cost is None:
        return "paid, price not known"
    if 0 < cost < 1e-6:
        return "less than $0.000001"
    return f"${cost:.{4 if cost >= 0.0001 else 6}f}" if cost else "free"


def paid_text(cost: float | None) -> str:
    """`free`, `paid · $0.0012`, or that the price is not known."""
    return f"paid · {price_text(cost)}" if cost else price_text(cost)


def paid_routes(routes: Iterable[Route], spent: Mapping[Name, Spent]) -> dict[Name, str]:
    """The routes that cost money, each with what this session has paid for it, in words."""
    words = {}
    for route in routes:
        if not route.paid:
            continue
        name = route.provider, route.key.label, route.model
        bill = spent.get(name, Spent())
        words[name] = "paid"
        if bill.cost_usd:
            more = " and more" if bill.unpriced else ""
            words[name] = f"{paid_text(bill.cost_usd)}{more} in this session"
        elif bill.unpriced:
            words[name] = paid_text(None)
    return words


def _message(message: Message) -> str:
    shown = _CONTROL.sub(lambda sign: f"\\x{ord(sign[0]):02x}", message.content)
    images = [f"[image {number}: {image}]" for number, image in enumerate(message.images, 1)]
    return "\n".join([f"── {message.role} ──", shown.rstrip("\n"), *images])
