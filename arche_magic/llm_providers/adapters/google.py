"""Gemini through Google's SDK (the Developer API)."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..provider_failure import ProviderFailure, Remedy
from ..request import Request
from ..types import Metric, Observation, Period, Usage
from .adapter import Adapter
from .bodies import ErrorInReply, field_text, is_code, mapping, mappings
from .failures import FORBIDDEN_PLACE, Refusal, Rule, Words, by_rule
from .formats import Format, system_prompt
from .google_parts import calls_in, contents_of, first_call_only, tool_config, translated
from .http import STAND_IN, Call
from .limits import as_amount, parse_duration
from .replies import Part, as_count, counted, finish_kind

_COUNTS = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
# By how the reason of an ErrorInfo begins.
_REASONS: Words = {
    "API_KEY_IP_ADDRESS_BLOCKED": ("access from this network refused", Remedy.CHECK_ADDRESS),
    "API_KEY_": ("key refused", Remedy.REPLACE_KEY),
}
_RULES = (
    Rule(
        (400,), FORBIDDEN_PLACE, Remedy.CHECK_ADDRESS,
        status="^FAILED_PRECONDITION$", message="location",
    ),
    # Billing is not enabled.
    Rule(
        (400,), "the account's settings exclude the model", Remedy.CHANGE_PLAN,
        status="^FAILED_PRECONDITION$",
    ),
    Rule(
        (400,), "the prompt is too long", Remedy.SHORTEN_PROMPT,
        message="token count .{0,40}exceeds the maximum",
    ),
)  # fmt: skip
# Seen: "Invalid thought signature" (github.com/lbjlaq/Antigravity-Manager/pull/3342, 2026-08).
_ABOUT_SIGNATURE = re.compile("thought.?signature", re.IGNORECASE)
API_VERSION = "v1beta"
"""Set, because the SDK's default moved to v1, and nearly all known behaviour is v1beta's."""


class GoogleAdapter(Adapter):
    """Gemini's generateContent; it sends no limit headers at all."""

    @staticmethod
    def _keep(answer: Any) -> Any:
        if not isinstance(answer, dict) or answer.get("error"):
            # The SDK recognises errors only in streams.
            raise ErrorInReply(answer)
        is_reply = bool(answer.get("candidates"))
        if "models" in answer and not is_reply:
            names = [field_text(one, "name") for one in mappings(answer["models"])]
            return {"models": [{"name": name} for name in names if name]}
        if "embeddings" in answer and not is_reply:
            values = [{"values": one.get("values")} for one in mappings(answer["embeddings"])]
            tokens = as_count(mapping(answer.get("usageMetadata")).get("promptTokenCount"))
            return {"embeddings": values, "usageMetadata": {"promptTokenCount": tokens}}
        # The SDK gets the reply as the text of one field. Otherwise it would print each word that
        # it does not know in a warning, exactly as the server wrote it: with terminal escapes, or
        # the key. It returns the JSON itself only for a reply that is not streamed.
        return {"responseId": json.dumps(answer)}

    def _build(self) -> Any:
        from google import genai
        from google.genai import types

        # The SDK also creates an asynchronous client, which would read the machine's certificates
        # and proxies although it is not used.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unused = {"verify": context, "ssl": context, "trust_env": False}
        options = types.HttpOptions(
            base_url=self._base_url,
            api_version=API_VERSION,
            httpx_client=self._http.open(),
            async_client_args=unused,
        )
        # Otherwise, the environment could select another service of Google.
        return genai.Client(api_key=STAND_IN, vertexai=False, http_options=options)

    def _send(
        self, sdk: Any, request: Request, model: str, stream: bool, form: Format | None
    ) -> Iterable[Part | None]:
        config: dict[str, Any] = {
            "system_instruction": system_prompt(request) or None,
            "max_output_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop_sequences": list(request.stop) or None,
            "seed": request.seed,
            **_response_format(request, form),
            **tool_config(request),
            **translated(request, model),
        }
        given = {name: value for name, value in config.items() if value is not None}
        # With either of these the SDK would send requests that the ledger does not count.
        given["automatic_function_calling"] = {"disable": True}
        given["automatic_continuation"] = False
        contents = contents_of(request, model, self._formats.stale_signatures)
        models = sdk.models
        send = models.generate_content_stream if stream else models.generate_content
        answer = send(model=model, contents=contents, config=given)
        responses = answer if stream else (answer,)
        parts = (_part(json.loads(response.response_id)) for response in responses)
        yield from first_call_only(parts) if request.parallel_tool_calls is False else parts

    def _embed(self, sdk: Any, request: Request, model: str) -> tuple[Sequence[Any], Usage | None]:
        config = {} if request.dimensions is None else {"output_dimensionality": request.dimensions}
        # Not plain texts: for some models the SDK would join them into one.
        contents = [{"parts": [{"text": text}]} for text in request.inputs]
        answer = sdk.models.embed_content(model=model, contents=contents, config=config)
        usage = answer.usage_metadata
        values = [embedding.values or () for embedding in answer.embeddings or ()]
        return values, usage and counted(usage.prompt_token_count)

    def _list(self, sdk: Any) -> Iterable[str]:
        # One page: going through all of them would send further requests.
        page = sdk.models.list(config={"page_size": 1000}).page
        return [str(model.name).removeprefix("models/") for model in page]

    def _account(self, call: Call, fields: Mapping[str, Any]) -> str | None:
        for detail in _details(fields, "ErrorInfo"):
            consumer = field_text(mapping(detail.get("metadata")), "consumer")
            if consumer.startswith("projects/"):
                return consumer
        # The 429 of a limit that all models share names the project here; other 429s do not.
        named = re.search(r"project_number:(\d{1,20})", field_text(fields, "message"))
        return f"projects/{named[1]}" if named else None

    def _classify(self, refusal: Refusal) -> ProviderFailure:
        return classify(refusal)

    def _refused(self, refusal: Refusal, request: Request | None) -> ProviderFailure:
        # A conversation can have signatures of another model or service.
        if request and refusal.status == 400 and _ABOUT_SIGNATURE.search(refusal.words):
            calls = (call for message in request.messages for call in message.tool_calls)
            stale = self._formats.stale_signatures
            if fresh := {call.signature for call in calls if call.signature} - stale:
                stale |= fresh
                summary = f"{refusal.model} does not take the signatures of earlier calls"
                return refusal.failure(summary, Remedy.ASK_DIFFERENTLY, said="")
        return super()._refused(refusal, request)


def classify(refusal: Refusal) -> ProviderFailure:
    """Classify a refusal by Google, on either wire."""
    details = _details(refusal.fields, "ErrorInfo")
    # Anything but a code may be a text that quotes the prompt.
    reasons = [reason for detail in details if is_code(reason := field_text(detail, "reason"))]
    # A bad key is a 400 here, like a bad parameter; only the reason tells them apart.
    for reason in reasons:
        known = next((_REASONS[start] for start in _REASONS if reason.startswith(start)), None)
        if known:
            summary, remedy = known
            return ProviderFailure(f"{summary} ({refusal.status} {reason})", remedy, refusal.words)
    if refusal.status == 429:
        return _limited(refusal)
    return by_rule(refusal, _RULES)


def _response_format(request: Request, form: Format | None) -> dict[str, Any]:
    if "response_format" in request.extra:
        # Any other type makes the route unsuitable, see `unsuitable`.
        return {"response_mime_type": "application/json"}
    if request.schema is None or form is Format.PROMPT:
        return {}
    schema = request.schema.definition if form is Format.SCHEMA else None
    return {"response_mime_type": "application/json", "response_json_schema": schema}


def _part(answer: Mapping[str, Any]) -> Part | None:
    """One response, or one chunk of it, without the model's thinking."""
    usage = mapping(answer.get("usageMetadata"))
    count = counted(*map(usage.get, _COUNTS))
    block = field_text(mapping(answer.get("promptFeedback")), "blockReason")
    if block and not block.endswith("UNSPECIFIED"):
        return Part(finish_reason="content_filter", usage=count, reason=block)
    candidates = mappings(answer.get("candidates"))
    if not candidates:
        return Part(usage=count) if count else None
    pieces = mappings(mapping(candidates[0].get("content")).get("parts"))
    ending = field_text(candidates[0], "finishReason")
    return Part(
        text="".join(field_text(piece, "text") for piece in pieces if not piece.get("thought")),
        finish_reason=finish_kind(ending),
        usage=count,
        reason=ending,
        tool_calls=calls_in(pieces),
    )


def _details(fields: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """The details of one kind; their order varies, so they are found by their type."""
    details = mappings(fields.get("details"))
    return [detail for detail in details if field_text(detail, "@type").endswith(f".{kind}")]


def _limited(refusal: Refusal) -> ProviderFailure:
    """Classify a 429 by its quotaId, because it states under a minute even for a daily limit."""
    violations = [
        violation
        for detail in _details(refusal.fields, "QuotaFailure")
        for violation in mappings(detail.get("violations"))
    ]
    if any(str(v.get("quotaValue", "0")) == "0" for v in violations) or (
        not violations and re.search(r"limit: 0\b", refusal.words)
    ):
        return refusal.failure("the model is not in the plan", Remedy.CHANGE_PLAN)
    if not violations and re.search("prepayment credits|spending cap", refusal.words):
        return refusal.failure("no credit left", Remedy.TOP_UP_ACCOUNT)
    named = [d.get("retryDelay") for d in _details(refusal.fields, "RetryInfo")]
    delay = parse_duration(str(named[0])) if named else None
    # The stated delay is rounded down to whole seconds, and the window resets on the full minute.
    delay = None if delay is None else delay + 1
    observations = [o for o in map(_observation, violations) if o is not None]
    daily = next((o for o in observations if o.name.endswith("_per_day")), None)
    worst = daily or next(iter(observations), None)
    if worst is None:
        return refusal.failure("rate limited", Remedy.WAIT_FOR_LIMIT, retry_after=delay)
    if not daily:
        observations = [replace(seen, opens_in=delay) for seen in observations]
    return ProviderFailure(
        f"{worst.name.replace('_', ' ')} used up (limit {worst.amount:,.0f})",
        Remedy.WAIT_FOR_LIMIT,
        retry_after=None if daily else delay,
        limit=worst.name,
        observations=tuple(observations),
    )


def _observation(violation: Mapping[str, Any]) -> Observation | None:
    quota = str(violation.get("quotaId", ""))
    value = as_amount(str(violation.get("quotaValue")))
    periods: dict[str, Period] = {"PerDay": "day", "PerMinute": "minute"}
    period = next((name for text, name in periods.items() if text in quota), None)
    metric: Metric = "tokens"
    if "InputTokens" in quota or "input_token" in str(violation.get("quotaMetric")):
        metric = "input_tokens"
    elif "Requests" in quota:
        metric = "requests"
    if period is None or value is None:
        return None
    # A refused request means that no request is left. Refused tokens may only have been too many
    # for what is left.
    remaining, excess = (0.0, 1.0) if metric == "requests" else (None, None)
    return Observation(f"{metric}_per_{period}", value, remaining, evidence="error", excess=excess)
