"""Classifies failures: a table of refusals that all wires fall back on, and network errors."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx

from .. import network
from ..provider_failure import NO_CONNECTION, ProviderFailure, Remedy
from ..request import Request
from ..types import Observation, Usage
from .bodies import MOST_READ, Unreadable, field_text, label, words_of
from .limits import retry_delay, served_at, stated_delay

if TYPE_CHECKING:
    from .http import Call

Words = Mapping[str, tuple[str, Remedy]]
"""By a word in an error: what happened, and what helps."""

_RETIRED = re.compile("decommission|deprecated|retired|no longer", re.IGNORECASE)
_OPTION = re.compile(
    r"temperature|top_?p\b|max_?(completion_?|output_?)?tokens|\bstop|\bseed\b|random_seed|\brole|image"
    r"|system.?instruction|developer instruction|can only afford|\btools?\b|tool_(choice|call)"
    # A conversation that ends with the assistant, in the words of Gemini from 3.5 Flash-Lite on
    # (github.com/LibreChat-AI/agents/pull/323) and of Claude from 4.6 on.
    r"|ending with a model turn|prefill",
    re.IGNORECASE,
)
_NO_IMAGES = re.compile(
    r"support image input|image input.{0,40}not (enabled|supported)|only supported by certain"
    r"|not a multimodal|at most 0 image|does not (support|accept|take)[^.]{0,30}(image|vision)"
    r"|image.{0,40}not supported|unknown variant .?image_url|content.{0,40}must be a string",
    re.IGNORECASE,
)
# In the words of Ollama, OpenRouter, Groq, Google, Mistral, OpenAI, vLLM, llama.cpp and SambaNova.
_NO_TOOLS = re.compile(
    r"(not|n't) support[^.]{0,30}\b(tool|function)|support (tool use|tools|function)"
    r"|\b(tools?|function)\b[` -]{0,2}(use|calling|calls?|choice|param)?[` ]{0,2}[^.]{0,12}"
    r"(not (supported|enabled|available)|unsupported|requires --)",
    re.IGNORECASE,
)
# Refusals of one way to use tools (the model accepts others), or of the order of turns.
_ONE_WAY = re.compile(
    r"tool_choice|parallel|strict|schema|json|mime|model turn|prefix", re.IGNORECASE
)
# Servers quote the name of a field or begin with it.
_NAME = re.compile(r"(?:^|['`\"])(\w+)")
_FIELDS = frozenset({
    "messages", "temperature", "top_p", "stop", "seed", "max_tokens", "max_completion_tokens",
    "tools", "tool_choice", "parallel_tool_calls", "response_format", "dimensions",
})  # fmt: skip
_DELAYED = (Remedy.WAIT_FOR_LIMIT, Remedy.RETRY_LATER)


class Refusal:
    """An answer that is an error.

    `status` is its HTTP status, or the one that fits an error event. `fields` is the part of its
    body that describes the error, and `words` are the server's own. Rules search `texts`.
    """

    def __init__(self, call: Call, status: int, fields: Mapping[str, Any]) -> None:
        self.call, self.status, self.fields, self.model = call, status, fields, call.asked.model
        self.label = label(status, fields)
        is_redirect = 300 <= status < 400
        self.words = (
            call.headers.get("location", "") if is_redirect else words_of(call.body, fields)
        )
        names_model = bool(self.model) and self.model in self.words
        self.texts: Mapping[str, str] = {
            "message": self.words,
            "message_and_label": f"{self.words} {self.label}",
            "subject": f"{self.words} model" if names_model else self.words,
            "status": self.field_text("status"),
            "param": self.field_text("param"),
            "fields": " ".join(fields),
            "body": str(call.body)[:MOST_READ],
        }

    def field_text(self, name: str) -> str:
        """Return a field as text; "" if it is absent."""
        return field_text(self.fields, name)

    def delay(self) -> float | None:
        """Return seconds to wait by the headers, or None."""
        return retry_delay(self.call.headers, time.time())

    def failure(self, summary: str, remedy: Remedy, **facts: Any) -> ProviderFailure:
        """Return the failure with the refusal's label and words and, if it helps, its delay."""
        if remedy is Remedy.CHANGE_MODEL and _RETIRED.search(self.texts["message_and_label"]):
            summary = "model retired"
        if remedy in _DELAYED:
            facts.setdefault("retry_after", self.delay())
        if remedy is Remedy.FIX_REQUEST:
            facts.setdefault("names_option", bool(_OPTION.search(self.words)))
        facts.setdefault("said", self.words)
        return ProviderFailure(f"{summary} {self.label}", remedy, **facts)


class Rule:
    """One row of the table: statuses, what happened in our words, and what helps.

    All `patterns` must be found, in upper or lower case, each in the text of `Refusal.texts` that
    it is named for. The `subject` is the message, and "model" if it names the model.
    """

    def __init__(
        self, statuses: Collection[int], summary: str, remedy: Remedy, **patterns: str
    ) -> None:
        self.statuses, self.summary, self.remedy = statuses, summary, remedy
        self._patterns = [
            (name, re.compile(pattern, re.IGNORECASE)) for name, pattern in patterns.items()
        ]

    def fits(self, refusal: Refusal) -> bool:
        """Return whether the rule is about this refusal."""
        return refusal.status in self.statuses and all(
            pattern.search(refusal.texts[name]) for name, pattern in self._patterns
        )


# Groq: "Access denied. Please check your network settings."; OpenAI:
# unsupported_country_region_territory; Gemini: "User location is not supported"; Cloudflare's
# and other firewalls' own bodies.
_ABOUT_PLACE = (
    r"country|region|territory|\blocation|network|\bvpn\b|\bip\b|firewall|cloudflare|zscaler"
    r"|\bwaf\b|browser|captcha"
)
_ABOUT_KEY = (
    r"key|token|credential|permission|auth|account|organi[sz]ation|project|forbidden|leaked"
    r"|unregistered|suspended|disabled|limit"
)
# In the words of xAI, Zhipu, SiliconFlow, Anthropic, Fireworks, Moonshot, LiteLLM and Mistral. They
# say so with a 400, 401, 403, 412 or 429.
_NO_CREDIT = (
    r"insufficient (account )?(balance|credit|funds)|balance is (insufficient|not enough|too low)"
    r"|(used|exhausted) (up )?all (of )?(your )?(available |included )?credits|out of credits?\b"
    r"|(n't|not) have (any|enough) credits|monthly spending limit|budget has been exceeded"
    r"|account is in good standing|suspended,? please check your plan and billing"
    r"|inactive subscription or usage limit"
)
_TOO_LONG = (
    r"reduce the length of the messages|maximum context length|prompt is too long"
    r"|exceeds? (the |this )?(model's )?(available |maximum )?context (size|length|window)"
    # LM Studio
    r"|context length of only|context the overflows"
)
_NO_ADDRESS = (
    r"(invalid|unknown|request) (url|path|endpoint)|unknown_url|no route matched|page not found"
    r"|(url|path|endpoint|file|route|resource) not found|cannot (get|post)|^not found\b"
)
_NO_MODEL = (
    r"\bmodel\b.{0,80}(not exist|not found|decommissioned|has been deprecated|retired"
    r"|no longer (available|supported)|not a valid)|no such model|not a valid model"
    r"|(invalid|unknown) model( id| name)?(:|\.|$| ['`\"])"
)
_BLOCKED = "access blocked between this machine and the provider"
_PAGE = r"^\s*<"
_INVALID, _MISSING = (400, 406, 411, 414, 415, 422, 431), (404, 405, 410)
# 499: Google's CANCELLED, and a proxy whose client left.
_OUTAGES = (408, 409, 424, 425, 498, 499, *range(500, 1000))
FORBIDDEN_PLACE = "access from this region or network refused"

# The first rule that fits counts.
RULES = (
    Rule(
        range(300, 400),
        "the server redirected to another address, and the key was not sent there",
        Remedy.CHECK_ADDRESS,
    ),
    Rule((407,), "the proxy requires a user name and a password", Remedy.CHECK_SETUP),
    # A page that is not an error of the API comes from a proxy or a firewall before it, or from a
    # web site at a wrong base URL.
    Rule((400, 401, 403, 422), _BLOCKED, Remedy.CHECK_ADDRESS, body=_PAGE),
    Rule((403,), _BLOCKED, Remedy.CHECK_ADDRESS, fields="^$"),
    Rule((400, 401, 403, 412, 429), "no credit left", Remedy.TOP_UP_ACCOUNT, message=_NO_CREDIT),
    Rule((401,), "key refused", Remedy.REPLACE_KEY),
    # OpenRouter: there is credit, but not enough for `max_tokens`.
    Rule(
        (402,), "not enough credit for this request", Remedy.FIX_REQUEST,
        message="fewer max_tokens|can only afford",
    ),
    Rule((402,), "no credit left", Remedy.TOP_UP_ACCOUNT),
    # xAI answers a bad key with a 400.
    Rule((400, 422), "key refused", Remedy.REPLACE_KEY, message="(incorrect|invalid) api key"),
    Rule((403,), FORBIDDEN_PLACE, Remedy.CHECK_ADDRESS, body=_ABOUT_PLACE),
    Rule((403,), "the model is not in the plan", Remedy.CHANGE_PLAN, message=r"\bmodels?\b"),
    Rule((403,), "access refused", Remedy.REPLACE_KEY, body=_ABOUT_KEY),
    Rule((403,), "access refused", Remedy.CHECK_ADDRESS),
    # OpenRouter: no provider of the model takes images, tools or a parameter of the request.
    Rule(
        _MISSING, "request refused", Remedy.FIX_REQUEST,
        message="no endpoints found that (support|can)",
    ),
    Rule(
        _MISSING, "the account's settings exclude the model", Remedy.CHANGE_PLAN,
        message="data policy|allowed providers",
    ),
    Rule(_MISSING, "no such address", Remedy.CHECK_ADDRESS, message="(invalid|request) url"),
    Rule(
        _MISSING, "model not found", Remedy.CHANGE_MODEL,
        # The last is NVIDIA's.
        subject=r"\bmodels?\b|no longer available|no endpoints found for|not found for account",
    ),
    Rule((405, 410), "no such address", Remedy.CHECK_ADDRESS),
    Rule((404,), "no such address", Remedy.CHECK_ADDRESS, message="^$"),
    Rule((404,), "no such address", Remedy.CHECK_ADDRESS, body=_PAGE),
    Rule((404,), "no such address", Remedy.CHECK_ADDRESS, message_and_label=_NO_ADDRESS),
    Rule((404,), "not found", Remedy.FIX_REQUEST),
    Rule((413,), "the prompt is too long", Remedy.SHORTEN_PROMPT),
    Rule((429,), "rate limited", Remedy.WAIT_FOR_LIMIT),
    Rule((451, 511), FORBIDDEN_PLACE, Remedy.CHECK_ADDRESS),
    # LM Studio says so with status 200.
    Rule(range(500, 1000), "no such address", Remedy.CHECK_ADDRESS, message="unexpected endpoint"),
    Rule((408, 504), "timed out", Remedy.RETRY_LATER),
    Rule((498,), "no capacity", Remedy.RETRY_LATER),
    Rule((503,), "overloaded", Remedy.RETRY_LATER),
    Rule(_OUTAGES, "server error", Remedy.RETRY_LATER),
    Rule(_INVALID, "the prompt is too long", Remedy.SHORTEN_PROMPT, message=_TOO_LONG),
    # Servers use the same words for an option that the model no longer supports.
    Rule(_INVALID, "model not found", Remedy.CHANGE_MODEL, message=_NO_MODEL, param="^(model)?$"),
    Rule(_INVALID, "request refused", Remedy.FIX_REQUEST),
)  # fmt: skip


def by_rule(refusal: Refusal, rules: Iterable[Rule] = ()) -> ProviderFailure:
    """Return what a refusal means by these rules or the table; temporary trouble if none fits."""
    for rule in (*rules, *RULES):
        if rule.fits(refusal):
            return refusal.failure(rule.summary, rule.remedy)
    return refusal.failure("an unexpected response", Remedy.RETRY_LATER, unknown=True)


def words(*rows: tuple[str, str, Remedy]) -> Words:
    """Return a table for `by_word` from rows of words, what happened, and what helps."""
    return {word: (summary, remedy) for row, summary, remedy in rows for word in row.split()}


def by_word(words: Words, refusal: Refusal) -> ProviderFailure | None:
    """Return what a refusal means by its `code` or else its `type`; None if it has no known one."""
    for name in ("code", "type"):
        if known := words.get(refusal.field_text(name).lower()):
            return refusal.failure(*known)
    return None


def about_request(failure: ProviderFailure, request: Request) -> ProviderFailure:
    """Return the failure with the capability that the model lacks, or the field that it names."""
    words = failure.said
    if request.images and _NO_IMAGES.search(words):
        lacks, option = "images", "messages"
    elif request.uses_tools and _NO_TOOLS.search(words) and not _ONE_WAY.search(words):
        lacks = option = "tools"
    elif failure.remedy is Remedy.FIX_REQUEST:
        named = (name for name in _NAME.findall(words) if name in _FIELDS or name in request.extra)
        return replace(failure, option=next(named, ""))
    else:
        return failure
    label = failure.summary[failure.summary.find("(") :]
    return ProviderFailure(
        f"takes no {lacks} {label}", Remedy.FIX_REQUEST, words, lacks=lacks, option=option
    )


def with_observations(
    failure: ProviderFailure, in_headers: tuple[Observation, ...]
) -> ProviderFailure:
    """Complete a refusal with its usage, and with limits that only its headers name."""
    named = {observation.name for observation in failure.observations}
    seen = tuple(o for o in in_headers if o.name not in named)
    limit, usage = failure.limit, failure.usage
    if failure.remedy is Remedy.WAIT_FOR_LIMIT and limit is None:
        # The one that was hit has nothing left.
        limit = next((o.name for o in seen if o.remaining == 0), None)
    if failure.remedy in (Remedy.RETRY_LATER, Remedy.CHANGE_PROMPT):
        # The provider may have counted the request, but it generated no tokens.
        usage = Usage()
    observations = (*failure.observations, *seen)
    return replace(failure, observations=observations, limit=limit, usage=usage)


def delay_of(failure: ProviderFailure, call: Call, fields: Mapping[str, Any]) -> float | None:
    """Return the delay in seconds, from the text if the headers and fields state none."""
    if failure.retry_after is not None or failure.remedy not in _DELAYED:
        return failure.retry_after
    # Gemini also states seconds for a limit per day, which stays closed until midnight.
    if (failure.limit or "").endswith(("_per_day", "_per_month")):
        return None
    said_in = call.body if call.refused else fields
    return stated_delay(str(said_in), served_at(call.headers, time.time()))


def transport_failure(error: BaseException, call: Call) -> ProviderFailure | None:
    """The failure if the error comes from the network, else None."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    host, proxy = call.client.host, call.client.proxy
    for link in links:
        if isinstance(link, ssl.SSLError):
            return _tls_failure(link, host)
    for link in links:
        if isinstance(link, httpx.ConnectTimeout):
            seconds = min(call.timeouts.connect, call.timeouts.total)
            return unsent(f"{NO_CONNECTION} within {duration_in_words(seconds)}")
        if isinstance(link, httpx.TimeoutException):
            return ProviderFailure(call.lateness(), Remedy.RETRY_LATER)
        if isinstance(link, httpx.ProxyError):
            if re.match("5[0-9][0-9]", str(link)):
                return unsent(f"the proxy in {proxy} cannot connect to {host} ({link})")
            problem = f"the proxy in {proxy} refused the connection ({link})"
            return unsent(problem, Remedy.CHECK_SETUP)
        if isinstance(link, httpx.ConnectError):
            if proxy:
                return unsent(f"no connection to the proxy in {proxy}", Remedy.CHECK_SETUP)
            return unsent(NO_CONNECTION)
        if isinstance(link, Unreadable):
            return ProviderFailure(str(link), Remedy.RETRY_LATER)
        if isinstance(link, httpx.TransportError | httpx.StreamError):
            return ProviderFailure("connection lost", Remedy.RETRY_LATER)
    return None


# OpenSSL's codes for a certificate without a trusted issuer.
_UNKNOWN_ISSUER = (2, 18, 19, 20, 21)


def _tls_failure(error: ssl.SSLError, host: str) -> ProviderFailure:
    if isinstance(error, ssl.SSLCertVerificationError):
        problem = f"the certificate of {host} is not valid ({error.verify_message})"
        if error.verify_code in _UNKNOWN_ISSUER:
            problem = (
                f"the certificate of {host} is not trusted ({error.verify_message}); "
                f"{network.where_to_trust()}"
            )
        return unsent(problem, Remedy.CHECK_SETUP)
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        problem = f"{host} does not speak TLS; should its address begin with http://?"
        return unsent(problem, Remedy.CHECK_ADDRESS)
    reason = (error.reason or "").replace("_", " ").lower() or "no reason given"
    return unsent(f"the TLS connection to {host} failed ({reason})")


def unsent(summary: str, remedy: Remedy = Remedy.RETRY_LATER) -> ProviderFailure:
    """A failure before anything was sent."""
    return ProviderFailure(summary, remedy, sent=False)


def duration_in_words(seconds: float) -> str:
    """`2.5 s`."""
    return f"{round(seconds, 1) or seconds:g} s"
