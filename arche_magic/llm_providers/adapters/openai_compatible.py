"""Groq, OpenAI, and every service that speaks OpenAI's chat completions."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..provider_failure import ProviderFailure, Remedy
from ..request import Request
from ..types import TOKEN_LIMIT_NAMES, Usage
from . import google
from .adapter import Adapter
from .bodies import ErrorInReply, field_text, mapping, mappings
from .chat import chat_messages, chat_parameters, chat_part, short_id
from .failures import FORBIDDEN_PLACE, Refusal, by_rule, words
from .formats import Format
from .http import STAND_IN, Call
from .limits import LimitSentence, parse_duration, read_sentence, served_at
from .replies import Part, vectors_of

# Words that come as `code` or as `type`, as OpenAI and Groq document or send them (2025 and 2026),
# and some of compatible services, in lower case: llama.cpp's server, GitHub Models, Hugging Face,
# Moonshot, DashScope, LiteLLM.
_WORDS = words(
    (
        # The last is Groq's, for a spend limit (console.groq.com/docs/spend-limits).
        """insufficient_quota billing_hard_limit_reached billing_not_active credit_balance_exhausted
        organization_spend_limit_exceeded organization_spend_limit_reached
        project_spend_limit_exceeded project_spend_limit_reached
        organization_usage_limit_exceeded organization_usage_limit_reached
        exceeded_current_quota_error arrearage budget_exceeded spend_limit_exceeded
        blocked_api_access""",
        "no credit left", Remedy.TOP_UP_ACCOUNT,
    ),
    (
        "invalid_api_key organization_restricted account_deactivated",
        "key refused", Remedy.REPLACE_KEY,
    ),
    (
        "model_not_found unknown_model model_not_supported model_decommissioned",
        "model not found", Remedy.CHANGE_MODEL,
    ),
    (
        "model_terms_required model_permission_blocked_org model_permission_blocked_project",
        "the account's settings exclude the model", Remedy.CHANGE_PLAN,
    ),
    ("unsupported_country_region_territory", FORBIDDEN_PLACE, Remedy.CHECK_ADDRESS),
    ("ip_not_authorized", "access from this network refused", Remedy.CHECK_ADDRESS),
    ("unknown_url", "no such address", Remedy.CHECK_ADDRESS),
    (
        """context_length_exceeded string_above_max_length request_too_large
        exceed_context_size_error tokens_limit_reached""",
        "the prompt is too long", Remedy.SHORTEN_PROMPT,
    ),
    (
        # OpenAI's reasoning models: "your prompt was flagged as potentially violating our usage
        # policy" is an invalid_prompt.
        "content_filter content_policy_violation data_inspection_failed invalid_prompt",
        "the provider filtered the prompt", Remedy.CHANGE_PROMPT,
    ),
    (
        # The model's own output broke a format: the request is not at fault, and the next try may
        # succeed.
        "tool_use_failed json_validate_failed output_parse_failed",
        "the model's output was unusable", Remedy.RETRY_LATER,
    ),
    ("slow_down", "the provider asked to slow down", Remedy.RETRY_LATER),
)  # fmt: skip
_UNKNOWN_NAME = re.compile(
    r"unsupported|not supported|unknown|unrecogni[sz]ed|unexpected|not permitted|instead|extra",
    re.IGNORECASE,
)
# `messages[0].name`; anything else may be a text that quotes the prompt.
_FIELD = re.compile(r"[\w.\[\]-]{1,64}", re.ASCII)
_LONGEST_CALL_ID = 40


class OpenAIAdapter(Adapter):
    """OpenAI's wire through its SDK, for OpenAI itself and for compatible services."""

    _words = _WORDS
    _path, _embedding_path = "/chat/completions", "/embeddings"
    _stream_class: Any = None
    # Without it OpenAI streams carry no usage.
    _stream_options: Mapping[str, Any] | None = {"include_usage": True}

    def _build(self) -> Any:
        from openai import OpenAI, Stream

        sdk = self._connected(OpenAI, Stream)
        if self._key.provider != "openai":
            # The SDK took them from the environment, and another service must not get them.
            sdk.organization = sdk.project = None
            sdk._custom_headers = {}
        return sdk

    def _connected(self, client: Any, stream: Any) -> Any:
        """Return the client of an SDK, whose class of streams is `stream`."""
        self._stream_class = stream[object]
        return client(
            api_key=STAND_IN,
            base_url=self._base_url,
            max_retries=0,
            http_client=self._http.open(),
        )

    def _send(
        self, sdk: Any, request: Request, model: str, stream: bool, form: Format | None
    ) -> Iterable[Part | None]:
        # The SDK's way to send what it has no method for; chat.completions.create uses it too.
        # Reading plain JSON takes a third of the time of the SDK's typed objects, and keeps the
        # additional fields of other services.
        answer = sdk.post(
            # The full URL, because joining it in the SDK takes a twentieth of a call.
            self._base_url.rstrip("/") + self._path,
            body=self._parameters(request, model, stream, form),
            cast_to=object,
            stream=stream,
            stream_cls=self._stream_class if stream else None,
        )
        for item in answer if stream else (answer,):
            yield chat_part(item)

    def _embed(self, sdk: Any, request: Request, model: str) -> tuple[Sequence[Any], Usage | None]:
        body: dict[str, Any] = {"model": model, "input": list(request.inputs)}
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        if self._key.provider == "openai":
            # Base64 is a third of the size of decimal numbers. Some compatible services do not
            # support it.
            body["encoding_format"] = "base64"
        answer = sdk.post(
            self._base_url.rstrip("/") + self._embedding_path, body=body, cast_to=object
        )
        if not answer.get("data"):
            raise ErrorInReply(answer)
        return vectors_of(answer)

    def _parameters(
        self, request: Request, model: str, stream: bool, form: Format | None
    ) -> dict[str, Any]:
        refused = self._formats.refused_names
        usual, other = self._token_limit_names()
        token_limit = other if (model, usual) in refused else usual
        takes_options = (model, "stream_options") not in refused
        extra = dict(request.extra)
        # Google's own service for OpenAI's clients.
        is_google = "://generativelanguage.googleapis.com/" in self._base_url
        # The other values only matter for streams, and the engine needs the usage.
        options = {**(extra.pop("stream_options", None) or {}), **(self._stream_options or {})}
        others = {
            "model": model,
            "messages": chat_messages(request, _call_id, signed=is_google),
            token_limit: request.max_tokens,
            "seed": request.seed,
            "stream": stream or None,
            "stream_options": (options or None) if stream and takes_options else None,
        }
        return extra | chat_parameters(request, form, "schema", others)

    def _token_limit_names(self) -> tuple[str, str]:
        """The usual name of the parameter that limits a reply's tokens, and its other name."""
        # OpenAI's reference calls max_tokens deprecated, and its reasoning models refuse it; some
        # compatible services accept only max_tokens.
        is_new = self._key.provider in ("openai", "groq")
        usual = self._token_limit_name or ("max_completion_tokens" if is_new else "max_tokens")
        return usual, next(name for name in TOKEN_LIMIT_NAMES if name != usual)

    def _account(self, call: Call, fields: Mapping[str, Any]) -> str | None:
        names = (call.headers.get(f"openai-{part}") for part in ("organization", "project"))
        return "/".join(filter(None, names)) or None

    def _classify(self, refusal: Refusal) -> ProviderFailure:
        status, fields, model = refusal.status, refusal.fields, refusal.model
        sentence = read_sentence(refusal.words)
        if sentence is not None and status in (413, 429):
            return _limited(refusal, sentence)
        if any(field_text(detail, "@type") for detail in mappings(fields.get("details"))):
            # Google's own service on this wire.
            return google.classify(refusal)
        if status == 403 and mapping(fields.get("metadata")).get("flagged_input"):
            # OpenRouter's moderation.
            return refusal.failure("the provider filtered the prompt", Remedy.CHANGE_PROMPT)
        if status in (400, 422):
            if adapted := self._adapted(refusal):
                return adapted
            if "reasoning_effort" in refusal.words:
                return refusal.failure(
                    f"{model} does not take this reasoning_effort (--effort)",
                    Remedy.FIX_REQUEST,
                    names_option=True,
                )
            param = refusal.field_text("param")
            if _FIELD.fullmatch(param) and refusal.field_text("code").startswith("un"):
                # unsupported_parameter, unsupported_value, unknown_parameter
                return refusal.failure(
                    f"{model} does not take {param}",
                    Remedy.FIX_REQUEST,
                    names_option=not param.startswith("response_format"),
                )
        failure = by_rule(refusal)
        if status == 429 and failure.retry_after is None:
            failure = replace(failure, retry_after=_resets_in(refusal))
        return failure

    def _adapted(self, refusal: Refusal) -> ProviderFailure | None:
        """Learn, once per model, to omit a parameter of ours or to use its other name."""
        model, param, words = refusal.model, refusal.field_text("param"), refusal.words
        usual, other = self._token_limit_names()
        learned = {
            "stream_options": f"{model} does not take stream_options",
            usual: f"{model} takes {other} instead of {usual}",
        }
        for name, summary in learned.items():
            is_named = param == name or (not param and re.search(rf"\b{name}\b", words))
            is_refused = is_named and _UNKNOWN_NAME.search(words)
            if is_refused and (model, name) not in self._formats.refused_names:
                self._formats.refused_names.add((model, name))
                return refusal.failure(summary, Remedy.ASK_DIFFERENTLY, said="")
        return None


class GroqAdapter(OpenAIAdapter):
    """Groq through its own SDK."""

    _path, _embedding_path = "/openai/v1/chat/completions", "/openai/v1/embeddings"
    # Groq streams carry x_groq.usage without being asked.
    _stream_options = None
    # "Streaming and tool use are not currently supported with Structured Outputs"
    # (console.groq.com/docs/structured-outputs, 2026-07).
    _streams_json = False
    # Groq's headers name no period.
    _header_periods = {"requests": "day", "tokens": "minute"}  # noqa: RUF012

    def _build(self) -> Any:
        from groq import Groq, Stream

        return self._connected(Groq, Stream)

    def _account(self, call: Call, fields: Mapping[str, Any]) -> str | None:
        match = re.search(r"organization `?(org_\w+)", field_text(fields, "message"))
        return match[1] if match else None


def _call_id(call_id: str) -> str:
    # OpenAI refuses longer ones.
    return call_id if len(call_id) <= _LONGEST_CALL_ID else f"call_{short_id(call_id, 24)}"


def _resets_in(refusal: Refusal) -> float | None:
    """Seconds until OpenRouter's limit is full again: epoch milliseconds, in a header or the body.

    Seen in issues of 2026, with 429s of free models per minute and per day.
    """
    in_body = mapping(mapping(refusal.fields.get("metadata")).get("headers"))
    headers, name = refusal.call.headers, "x-ratelimit-reset"
    texts = (headers.get(name), *(v for n, v in in_body.items() if n.lower() == name))
    text = str(next(filter(None, texts), ""))
    return parse_duration(text, served_at(headers, time.time()))


def _limited(refusal: Refusal, sentence: LimitSentence) -> ProviderFailure:
    summary = f"{(sentence.name or 'a limit').replace('_', ' ')} used up ({sentence.figures})"
    remedy, delays = Remedy.WAIT_FOR_LIMIT, (sentence.wait, refusal.delay())
    if refusal.status == 413 or sentence.never_fits:
        summary = f"the request is larger than the limit ({sentence.figures})"
        # The retry-after of a 413 is computed from the excess and means nothing.
        remedy, delays = Remedy.SHORTEN_PROMPT, (None, None)
    return ProviderFailure(
        summary,
        remedy,
        # Groq rounds the header up and the sentence not; OpenAI's may speak of different limits.
        retry_after=max((delay for delay in delays if delay is not None), default=None),
        limit=sentence.name,
        observations=sentence.observations,
    )
