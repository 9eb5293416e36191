"""Reads the body of an error, in all formats that providers send."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .bodies import parse_body

MOST_READ = 20_000
"""Characters of a body that are searched."""


class ErrorInReply(Exception):
    """The body of a response with status 200 describes an error; `body` is that description."""

    def __init__(self, body: Any) -> None:
        super().__init__("an error instead of a reply")
        self.body = body


def error_fields(body: Any) -> Mapping[str, Any]:
    """Return the mapping that describes the error, from any of the formats in which providers send
    it.

    Seen: `{"error": {…}}`, `[{"error": {…}}]` (Google's OpenAI-compatible endpoint), the bare
    mapping, `{"errors": [{…}]}` (Cloudflare), `{"detail": "…"}`, `{"detail": […]}` and
    `{"message": {"detail": […]}}` (Mistral), `{"detail": {…}}`, and plain text. Empty if there is
    none.
    """
    for _ in range(4):
        if isinstance(body, str):
            body = parse_body(body) if body[:1] in ("{", "[") else {}
        if isinstance(body, list):
            body = body[0] if body else {}
        if not isinstance(body, dict):
            return {}
        wrapped = [body.get(name) for name in ("error", "data", "errors")]
        if isinstance(body.get("detail"), dict):
            wrapped.append(body["detail"])
        inner = next((w for w in wrapped if w and isinstance(w, dict | list | str)), None)
        if inner is None:
            return body
        if isinstance(inner, str) and inner[:1] not in ("{", "["):
            return {**body, "message": body.get("message") or inner}
        body = inner
    return {}


def field_text(fields: Mapping[str, Any], name: str) -> str:
    """Return a field as text; "" if absent. Some providers send codes as strings, others as
    numbers.
    """
    value = fields.get(name)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return the mappings in a list; none if it is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def validation_problems(fields: Mapping[str, Any]) -> str:
    """`temperature (Input should be less than …)` from the list that FastAPI's servers send."""
    message = fields.get("message")
    detail = message.get("detail") if isinstance(message, dict) else fields.get("detail")
    steps = {
        ".".join(str(step) for step in problem["loc"][1:]): problem.get("msg")
        for problem in mappings(detail)
        if isinstance(problem.get("loc"), list)
    }
    return "; ".join(f"{parameter} ({reason})" for parameter, reason in steps.items())


def words_of(body: Any, fields: Mapping[str, Any]) -> str:
    """Return the server's own words: its message, the title of a page, or the unchanged body."""
    words = (
        field_text(fields, "message") or field_text(fields, "detail") or validation_problems(fields)
    )
    if behind := field_text(mapping(fields.get("metadata")), "raw"):
        # OpenRouter's own message is "Provider returned error" alone.
        words = f"{words}: {behind}"
    if words or not body:
        return words
    if not isinstance(body, str):
        return json.dumps(body)[:MOST_READ]
    if not is_page(body):
        return body
    title = re.search(r"<(title|h1)[^>]{0,100}>([^<]{1,200})", body[:MOST_READ], re.IGNORECASE)
    return title[2].strip() if title else ""


def event_status(fields: Mapping[str, Any]) -> int | None:
    """Return the HTTP status that fits an error sent with status 200; None if it does not say."""
    for name in ("status_code", "raw_status_code", "code"):
        if re.fullmatch("[45][0-9][0-9]", field_text(fields, name)):
            return int(field_text(fields, name))
    words = {field_text(fields, name) for name in ("code", "type", "status")}
    if words & {"rate_limit_exceeded", "rate_limited", "RESOURCE_EXHAUSTED"}:
        return 429
    if words & {"server_error", "internal_server_error", "api_error", "INTERNAL", "UNAVAILABLE"}:
        return 500
    return 400 if field_text(fields, "type").startswith("invalid_request") else None


def is_page(body: Any) -> bool:
    """Return whether a body is HTML or XML, which no API sends."""
    return isinstance(body, str) and body.lstrip()[:1] == "<"


def is_code(word: str) -> bool:
    """Return whether a server's word is a name for something, such as `rate_limit_exceeded`."""
    return re.fullmatch(r"[\w.:/-]{1,64}", word, re.ASCII) is not None


def label(status: int, fields: Mapping[str, Any]) -> str:
    """`(429 rate_limit_exceeded)`; a code that is only a number is left to its status and type."""
    names = (field_text(fields, name) for name in ("code", "status", "type"))
    # Anything else may be a text that quotes the prompt.
    word = next((name for name in names if is_code(name) and not name.isdigit()), "")
    return f"({status} {word})" if word else f"({status})"
