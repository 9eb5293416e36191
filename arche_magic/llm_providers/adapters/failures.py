"""Refusals in our words: the parts of the classification that every provider shares."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from ..errors import AttemptFailed, Remedy
from .http import Call, parse_body
from .limits import retry_delay

if TYPE_CHECKING:
    from collections.abc import Mapping


class ErrorInReply(Exception):
    """What came under a 200 describes an error; `body` is that description."""

    def __init__(self, body: Any) -> None:
        super().__init__("an error in place of a reply")
        self.body = body


def error_fields(body: Any) -> Mapping[str, Any]:
    """The mapping that describes the error, in any of the shapes providers wrap it into.

    Seen: `{"error": {…}}`, `[{"error": {…}}]` (Google's OpenAI-compatible endpoint), the bare
    mapping, `{"detail": "…"}`, `{"detail": […]}` and `{"message": {"detail": […]}}` (Mistral), and
    plain text. Empty if there is none.
    """
    for _ in range(4):
        if isinstance(body, str):
            body = parse_body(body) if body[:1] in ("{", "[") else {}
        if isinstance(body, list):
            body = body[0] if body else {}
        if not isinstance(body, dict):
            return {}
        wrapped = (body.get(name) for name in ("error", "data"))
        inner = next((w for w in wrapped if w and isinstance(w, dict | list | str)), None)
        if inner is None:
            return body
        if isinstance(inner, str) and inner[:1] not in ("{", "["):
            return {**body, "message": body.get("message") or inner}
        body = inner
    return {}


def said(fields: Mapping[str, Any], name: str) -> str:
    """A field as text; "" if absent. Codes are strings here and numbers there."""
    value = fields.get(name)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list; what a body should hold there and may not."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def event_status(fields: Mapping[str, Any]) -> int | None:
    """The HTTP status that an error under a 200 stands for; None if nothing in it tells."""
    for name in ("status_code", "raw_status_code", "code"):
        if re.fullmatch("[45][0-9][0-9]", said(fields, name)):
            return int(said(fields, name))
    words = {said(fields, name) for name in ("code", "type", "status")}
    if words & {"rate_limit_exceeded", "rate_limited", "RESOURCE_EXHAUSTED"}:
        return 429
    if words & {"server_error", "internal_server_error", "api_error", "INTERNAL", "UNAVAILABLE"}:
        return 500
    return 400 if said(fields, "type").startswith("invalid_request") else None


def by_status(call: Call, status: int, fields: Mapping[str, Any]) -> AttemptFailed:
    """What a status says where no field of the body says more."""
    what = label(status, fields)
    delay = retry_delay(call.headers, time.time())
    quoted = said(fields, "message") or said(fields, "detail")
    if 300 <= status < 400:
        return AttemptFailed(
            f"the server redirected to another address {what}; the key was not sent there",
            Remedy.RETRY_LATER,
        )
    if status == 401:
        return AttemptFailed(f"key refused {what}", Remedy.REPLACE_KEY)
    if status == 402:
        return AttemptFailed(f"no credit left {what}", Remedy.TOP_UP_ACCOUNT)
    # A page that is no error of the API comes from a proxy or a firewall before it.
    if (status == 403 and not fields) or (status in (400, 422) and _is_page(call.body)):
        return AttemptFailed(f"access blocked on the way {what}", Remedy.RETRY_LATER)
    if status == 403:
        return AttemptFailed(f"access refused {what}: {quoted}", Remedy.REPLACE_KEY)
    if status == 404:
        message = f"model not found {what}"
        if not fields:
            message += "; is the base URL right?"
        return AttemptFailed(message, Remedy.CHANGE_MODEL)
    if status == 413:
        return AttemptFailed(f"the prompt is too long {what}", Remedy.SHORTEN_PROMPT)
    if status == 429:
        return AttemptFailed(f"rate limited {what}", Remedy.WAIT_FOR_LIMIT, retry_after=delay)
    if status in (408, 409, 424, 425, 498) or status >= 500:
        words = {408: "timed out", 498: "no capacity", 503: "overloaded", 504: "timed out"}
        return AttemptFailed(
            f"{words.get(status, 'server error')} {what}", Remedy.RETRY_LATER, retry_after=delay
        )
    if status in (400, 422):
        quoted = quoted or (call.body if isinstance(call.body, str) else "")
        return AttemptFailed(f"request refused {what}: {quoted}", Remedy.FIX_REQUEST)
    return AttemptFailed(f"an unknown answer {what}", Remedy.RETRY_LATER, unknown=True)


def _is_page(body: Any) -> bool:
    return isinstance(body, str) and body.lstrip()[:1] == "<"


def label(status: int, fields: Mapping[str, Any]) -> str:
    """`(429 rate_limit_exceeded)`; a code that is only a number is left to its status and type."""
    names = (said(fields, name) for name in ("code", "status", "type"))
    word = next((name for name in names if name and not name.isdigit()), "")
    return f"({status} {word})" if word else f"({status})"
