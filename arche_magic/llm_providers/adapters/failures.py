"""Refusals in our words: the parts of the classification that every provider shares."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from ..errors import ProviderFailure, Remedy
from .http import Call, parse_body
from .limits import retry_delay

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..types import Request


_READ = 20_000
# Groq: "Access denied. Please check your network settings."; OpenAI:
# unsupported_country_region_territory; Gemini: "User location is not supported"; Cloudflare's
# and other firewalls' own bodies.
_ABOUT_PLACE = re.compile(
    r"country|region|territory|\blocation|network|\bvpn\b|\bip\b|firewall|cloudflare|zscaler"
    r"|\bwaf\b"
    r"|browser|captcha",
    re.IGNORECASE,
)
_ABOUT_KEY = re.compile(
    r"key|token|credential|permission|auth|account|organi[sz]ation|project|forbidden|leaked"
    r"|unregistered|suspended|disabled|limit",
    re.IGNORECASE,
)
# In the words of xAI, Zhipu, SiliconFlow, Anthropic, Fireworks, Moonshot and LiteLLM, which say so
# with a 400, 403, 412 or 429.
_NO_CREDIT = re.compile(
    r"insufficient (account )?(balance|credit|funds)|balance is (insufficient|not enough|too low)"
    r"|(used|exhausted) (up )?all (of )?(your )?(available |included )?credits|out of credits?\b"
    r"|(n't|not) have (any|enough) credits|monthly spending limit|budget has been exceeded"
    r"|account is in good standing|suspended,? please check your plan and billing",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"reduce the length of the messages|maximum context length|prompt is too long"
    r"|exceeds? (the |this )?(model's )?(available |maximum )?context (size|length|window)"
    # LM Studio
    r"|context length of only|context the overflows",
    re.IGNORECASE,
)
_NO_ADDRESS = re.compile(
    r"(invalid|unknown|request) (url|path|endpoint)|unknown_url|no route matched|page not found"
    r"|(url|path|endpoint|file|route|resource) not found|cannot (get|post)|^not found\b",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"\bmodel\b.{0,80}(not exist|not found|decommissioned|has been deprecated|retired"
    r"|no longer (available|supported)|not a valid)|no such model|not a valid model"
    r"|(invalid|unknown) model( id| name)?(:|\.|$| ['`\"])",
    re.IGNORECASE,
)
_RETIRED = re.compile("decommission|deprecated|retired|no longer", re.IGNORECASE)
# In the words of OpenRouter, Gemini, OpenAI, vLLM, llama.cpp, Mistral, DeepSeek and Groq.
_NO_IMAGES = re.compile(
    r"support image input|image input.{0,40}not (enabled|supported)|only supported by certain"
    r"|not a multimodal|at most 0 image|does not (support|accept|take)[^.]{0,30}(image|vision)"
    r"|image.{0,40}not supported|unknown variant .?image_url|content.{0,40}must be a string",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"temperature|top_?p\b|max_?(completion_?|output_?)?tokens|\bstop|\bseed\b|random_seed|\brole|image"
    r"|system.?instruction|developer instruction",
    re.IGNORECASE,
)


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


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list; what a body should hold there and may not."""
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
    """The server's own words: its message, of a page the title, else the body as it came."""
    words = said(fields, "message") or said(fields, "detail") or validation_problems(fields)
    if behind := said(mapping(fields.get("metadata")), "raw"):
        # OpenRouter's own message is "Provider returned error" alone.
        words = f"{words}: {behind}"
    if words or not body:
        return words
    if not isinstance(body, str):
        return json.dumps(body)[:_READ]
    if not _is_page(body):
        return body
    title = re.search(r"<(title|h1)[^>]{0,100}>([^<]{1,200})", body[:_READ], re.IGNORECASE)
    return title[2].strip() if title else ""


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


def by_status(
    call: Call, status: int, fields: Mapping[str, Any], model: str = ""
) -> ProviderFailure:
    """What a status says where no code or type in the body says more."""
    what = label(status, fields)
    words = words_of(call.body, fields)
    delay = retry_delay(call.headers, time.time())
    if 300 <= status < 400:
        return ProviderFailure(
            f"the server redirected to another address {what}; the key was not sent there",
            Remedy.CHECK_ADDRESS,
            said=call.headers.get("location", ""),
        )
    if status == 407:
        message = f"the proxy of this network wants a user name and a password {what}"
        return ProviderFailure(message, Remedy.CHECK_SETUP, said=words)
    # A page that is not an error of the API comes from a proxy or a firewall before it, or from a
    # web site at a wrong base URL.
    if status in (400, 401, 403, 422) and (_is_page(call.body) or (status == 403 and not fields)):
        message = f"access blocked on the way {what}"
        return ProviderFailure(message, Remedy.CHECK_ADDRESS, said=words)
    if status == 401:
        return ProviderFailure(f"key refused {what}", Remedy.REPLACE_KEY, said=words)
    if no_credit := _about_money(status, words, what):
        return no_credit
    if status == 403:
        return _forbidden(call, words, what)
    if status in (404, 405):
        return _not_found(call, words, what, model)
    if status == 413:
        return ProviderFailure(f"the prompt is too long {what}", Remedy.SHORTEN_PROMPT, said=words)
    if status == 429:
        return ProviderFailure(
            f"rate limited {what}", Remedy.WAIT_FOR_LIMIT, retry_after=delay, said=words
        )
    if status in (451, 511):
        message = f"access from this region or network refused {what}"
        return ProviderFailure(message, Remedy.CHECK_ADDRESS, said=words)
    # LM Studio says so under a 200.
    if status >= 500 and "unexpected endpoint" in words.lower():
        return ProviderFailure(f"no such address {what}", Remedy.CHECK_ADDRESS, said=words)
    if status in (408, 409, 424, 425, 498) or status >= 500:
        names = {408: "timed out", 498: "no capacity", 503: "overloaded", 504: "timed out"}
        message = f"{names.get(status, 'server error')} {what}"
        return ProviderFailure(message, Remedy.RETRY_LATER, retry_after=delay, said=words)
    if status in (400, 406, 411, 414, 415, 422, 431):
        if _TOO_LONG.search(words):
            return ProviderFailure(
                f"the prompt is too long {what}", Remedy.SHORTEN_PROMPT, said=words
            )
        # Of an option it is said, too, that the model does not support it any longer.
        if said(fields, "param") in ("", "model") and _NO_MODEL.search(words):
            return model_missing(words, what)
        return ProviderFailure(
            f"request refused {what}",
            Remedy.FIX_REQUEST,
            said=words,
            names_option=bool(_OPTION.search(words)),
        )
    return ProviderFailure(
        f"an unknown answer {what}", Remedy.RETRY_LATER, unknown=True, said=words
    )


def model_missing(words: str, what: str) -> ProviderFailure:
    """A model that the address does not serve, or not any more."""
    state = "retired" if _RETIRED.search(f"{words} {what}") else "not found"
    return ProviderFailure(f"model {state} {what}", Remedy.CHANGE_MODEL, said=words)


def without_capability(failure: ProviderFailure, request: Request) -> ProviderFailure:
    """The failure, or what it says of a capability of the model that the request needs."""
    if request.images and _NO_IMAGES.search(failure.said):
        return ProviderFailure(
            f"takes no images {failure.summary[failure.summary.find('(') :]}",
            Remedy.FIX_REQUEST,
            said=failure.said,
            lacks="images",
        )
    return failure


def _about_money(status: int, words: str, what: str) -> ProviderFailure | None:
    """A refusal for want of credit; None if it is about something else."""
    if status == 402 and re.search("fewer max_tokens|can only afford", words):
        # OpenRouter: there is credit, but not for the longest reply that was asked for.
        message = f"too little credit for this request {what}"
        return ProviderFailure(message, Remedy.FIX_REQUEST, said=words, names_option=True)
    if status == 402 or (status in (400, 403, 412, 429) and _NO_CREDIT.search(words)):
        return ProviderFailure(f"no credit left {what}", Remedy.TOP_UP_ACCOUNT, said=words)
    return None


def _forbidden(call: Call, words: str, what: str) -> ProviderFailure:
    """A 403 of the API itself: about the place that asks, the model, or the key."""
    if _ABOUT_PLACE.search(str(call.body)[:_READ]):
        message = f"access from this region or network refused {what}"
        return ProviderFailure(message, Remedy.CHECK_ADDRESS, said=words)
    if re.search(r"\bmodels?\b", words, re.IGNORECASE):
        message = f"the model is not in the plan {what}"
        return ProviderFailure(message, Remedy.CHANGE_PLAN, said=words)
    if _ABOUT_KEY.search(str(call.body)[:_READ]):
        return ProviderFailure(f"access refused {what}", Remedy.REPLACE_KEY, said=words)
    return ProviderFailure(f"access refused {what}", Remedy.CHECK_ADDRESS, said=words)


def _not_found(call: Call, words: str, what: str, model: str) -> ProviderFailure:
    """A 404: about what this request needs, the account, the model, or the address."""
    if re.search("no endpoints found that (support|can)", words, re.IGNORECASE):
        # OpenRouter: no provider of the model takes images, tools or a parameter of the request.
        return ProviderFailure(f"request refused {what}", Remedy.FIX_REQUEST, said=words)
    if re.search("data policy|allowed providers", words, re.IGNORECASE):
        message = f"the account's settings exclude the model {what}"
        return ProviderFailure(message, Remedy.CHANGE_PLAN, said=words)
    if re.search("(invalid|request) url", words, re.IGNORECASE):
        return ProviderFailure(f"no such address {what}", Remedy.CHECK_ADDRESS, said=words)
    about_model = re.search(
        r"\bmodels?\b|no longer available|no endpoints found for", words, re.IGNORECASE
    )
    if about_model or (model and model in words):
        return model_missing(words, what)
    is_page = not words or _is_page(call.body) or call.status == 405
    if is_page or _NO_ADDRESS.search(f"{words} {what}"):
        return ProviderFailure(f"no such address {what}", Remedy.CHECK_ADDRESS, said=words)
    return ProviderFailure(f"not found {what}", Remedy.FIX_REQUEST, said=words)


def _is_page(body: Any) -> bool:
    return isinstance(body, str) and body.lstrip()[:1] == "<"


def is_code(word: str) -> bool:
    """Whether a server's word is a name for something, such as `rate_limit_exceeded`."""
    return re.fullmatch(r"[\w.:/-]{1,64}", word, re.ASCII) is not None


def label(status: int, fields: Mapping[str, Any]) -> str:
    """`(429 rate_limit_exceeded)`; a code that is only a number is left to its status and type."""
    names = (said(fields, name) for name in ("code", "status", "type"))
    # Anything else may be a text that quotes the prompt.
    word = next((name for name in names if is_code(name) and not name.isdigit()), "")
    return f"({status} {word})" if word else f"({status})"
