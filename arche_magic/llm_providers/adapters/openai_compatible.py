"""Groq, OpenAI, and every service that speaks OpenAI's chat completions."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from ..errors import AttemptFailed, Remedy
from .base import Part, SdkAdapter, chat_messages, counted
from .failures import by_status, label, said
from .formats import response_format
from .http import STAND_IN, Call
from .limits import LimitSentence, header_observations, read_sentence, retry_delay

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..types import Observation, Period, Request

# Codes as OpenAI and Groq document or send them (2025 and 2026).
BILLING = {
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active",
    "credit_balance_exhausted", "organization_spend_limit_exceeded",
    "organization_spend_limit_reached", "project_spend_limit_exceeded",
    "project_spend_limit_reached", "organization_usage_limit_exceeded",
    "organization_usage_limit_reached",
}  # fmt: skip
BAD_KEY = {"invalid_api_key", "organization_restricted", "account_deactivated"}
NO_MODEL = {"model_not_found", "model_decommissioned", "model_terms_required"}
TOO_LONG = {"context_length_exceeded", "string_above_max_length", "request_too_large"}
FILTERED = {"content_filter", "content_policy_violation"}
# The model's own output broke a format; the request is not at fault, and the next try may do.
BROKEN_OUTPUT = {"tool_use_failed", "json_validate_failed", "output_parse_failed"}

FINISH_REASONS = {"tool_calls": "stop", "function_call": "stop"}


class OpenAIAdapter(SdkAdapter):
    """OpenAI's wire through its SDK, for OpenAI itself and for compatible services."""

    _used = "chat.completions"

    def _build(self) -> Any:
        from openai import OpenAI

        sdk = OpenAI(
            api_key=STAND_IN,
            base_url=self._base_url,
            max_retries=0,
            http_client=self._http.client,  # type: ignore[arg-type]  # httpx2 in its annotation
        )
        if self._key.provider != "openai":
            # The SDK took them from the environment, and they are no business of another service.
            sdk.organization = sdk.project = None
        return sdk

    def _send(self, sdk: Any, request: Request, model: str, stream: bool) -> Iterable[Part | None]:
        parameters = self._parameters(request, model, stream)
        answer = sdk.chat.completions.create(**parameters)
        for item in answer if stream else (answer,):
            yield _part(item)

    def _list(self, sdk: Any) -> Iterable[str]:
        return [model.id for model in sdk.models.list().data]

    def _parameters(self, request: Request, model: str, stream: bool) -> dict[str, Any]:
        request, form = self._formats.asking(request, model)
        parameters: dict[str, Any] = {
            "model": model,
            "messages": chat_messages(request),
            self._max_tokens: request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": list(request.stop) or None,
            "seed": request.seed,
            "response_format": response_format(request, form, "schema"),
            "stream": stream or None,
            "stream_options": self._stream_options if stream else None,
        }
        return {name: value for name, value in parameters.items() if value is not None}

    # Without it OpenAI streams carry no usage.
    _stream_options: Mapping[str, Any] | None = {"include_usage": True}

    @property
    def _max_tokens(self) -> str:
        # OpenAI's reference calls max_tokens deprecated, and its reasoning models refuse it; some
        # compatible services know nothing else.
        return "max_completion_tokens" if self._key.provider == "openai" else "max_tokens"

    def _observe(self, call: Call) -> tuple[Observation, ...]:
        return header_observations(call.headers)

    def _account(self, call: Call, fields: Mapping[str, Any]) -> str | None:
        names = (call.headers.get(f"openai-{part}") for part in ("organization", "project"))
        return "/".join(name for name in names if name) or None

    def _classify(
        self, call: Call, status: int, fields: Mapping[str, Any], model: str
    ) -> AttemptFailed:
        code, what = said(fields, "code") or said(fields, "type"), label(status, fields)
        if code in BILLING or said(fields, "type") in BILLING:
            return AttemptFailed(f"no credit left {what}", Remedy.TOP_UP_ACCOUNT)
        if code in BAD_KEY:
            return AttemptFailed(f"key refused {what}", Remedy.REPLACE_KEY)
        if code in NO_MODEL:
            return AttemptFailed(f"model not available {what}", Remedy.CHANGE_MODEL)
        if code in TOO_LONG or (not said(fields, "code") and _context_text(fields)):
            return AttemptFailed(f"the prompt is too long {what}", Remedy.SHORTEN_PROMPT)
        if code in FILTERED:
            return AttemptFailed(f"the provider filtered the prompt {what}", Remedy.CHANGE_PROMPT)
        if code in BROKEN_OUTPUT:
            return AttemptFailed(f"the model's output was unusable {what}", Remedy.RETRY_LATER)
        if code == "slow_down":
            delay = retry_delay(call.headers, time.time())
            return AttemptFailed(
                f"asked to slow down {what}", Remedy.RETRY_LATER, retry_after=delay
            )
        message = said(fields, "message")
        if plainer := self._formats.refused(model, status, message, what):
            return plainer
        sentence = read_sentence(message)
        if sentence is not None and status in (413, 429):
            return _limited(call, status, sentence)
        if status in (400, 422) and said(fields, "param") and code.startswith("un"):
            # unsupported_parameter, unsupported_value, unknown_parameter
            return AttemptFailed(
                f"{model} does not take {said(fields, 'param')} {what}: {said(fields, 'message')}",
                Remedy.FIX_REQUEST,
            )
        return by_status(call, status, fields)


class GroqAdapter(OpenAIAdapter):
    """Groq through its own SDK."""

    # Groq streams carry x_groq.usage without being asked.
    _stream_options = None
    # "Streaming and tool use are not currently supported with Structured Outputs"
    # (console.groq.com/docs/structured-outputs, 2026-07).
    _streams_json = False
    _max_tokens = "max_completion_tokens"

    def _build(self) -> Any:
        from groq import Groq

        return Groq(
            api_key=STAND_IN,
            base_url=self._base_url,
            max_retries=0,
            http_client=self._http.client,
        )

    def _observe(self, call: Call) -> tuple[Observation, ...]:
        # Groq's headers name no period: requests count per day, tokens per minute.
        periods: Mapping[str, Period] = {"requests": "day", "tokens": "minute"}
        return header_observations(call.headers, periods)

    def _account(self, call: Call, fields: Mapping[str, Any]) -> str | None:
        match = re.search(r"organization `?(org_\w+)", said(fields, "message"))
        return match[1] if match else None


def _part(item: Any) -> Part | None:
    """One chat completion, or one chunk of it."""
    extra = getattr(item, "x_groq", None)
    usage = getattr(extra, "usage", None) or getattr(item, "usage", None)
    count = usage and counted(
        getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    )
    choices = getattr(item, "choices", None)
    if not choices:
        return Part(usage=count) if count else None
    choice = choices[0]
    message = getattr(choice, "message", None) or getattr(choice, "delta", None)
    # Groq names here why it stopped a stream early.
    finish_reason = getattr(extra, "error", None) or choice.finish_reason
    return Part(
        text=getattr(message, "content", None) or "",
        refusal=getattr(message, "refusal", None) or "",
        finish_reason=FINISH_REASONS.get(finish_reason, finish_reason),
        usage=count or None,
    )


def _limited(call: Call, status: int, sentence: LimitSentence) -> AttemptFailed:
    # The retry-after of a 413 is computed from the excess and means nothing.
    if status == 413 or sentence.never_fits:
        return AttemptFailed(
            f"one request too large for the limit ({sentence.figures})",
            Remedy.SHORTEN_PROMPT,
            limit=sentence.name,
            observations=sentence.observations,
        )
    delays = (sentence.wait, retry_delay(call.headers, time.time()))
    return AttemptFailed(
        str(sentence),
        Remedy.WAIT_FOR_LIMIT,
        # Groq rounds the header up and the sentence not; OpenAI's may speak of different limits.
        retry_after=max((delay for delay in delays if delay is not None), default=None),
        limit=sentence.name,
        observations=sentence.observations,
    )


def _context_text(fields: Mapping[str, Any]) -> bool:
    # Groq sends no code for this one, only the parameter and this sentence.
    return said(fields, "param") == "messages" and "reduce the length" in said(fields, "message")
