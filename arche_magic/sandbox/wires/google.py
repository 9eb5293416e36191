"""Gemini's wire: generateContent with its errors (recorded up to 2026-08), and no headers."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ..exchange import Answer, Breach, Call, Caller, Message, Refusal, Reply
from . import base

if TYPE_CHECKING:
    from collections.abc import Mapping

# Fields of GenerateContentRequest and of its GenerationConfig in google-genai 3.4.
_KNOWN = base.names(
    """model contents systemInstruction tools toolConfig safetySettings generationConfig
    cachedContent serviceTier store labels"""
)
_KNOWN_CONFIG = base.names(
    """temperature topP topK candidateCount maxOutputTokens stopSequences responseLogprobs logprobs
    presencePenalty frequencyPenalty seed responseMimeType responseSchema responseJsonSchema
    responseModalities mediaResolution speechConfig thinkingConfig imageConfig
    enableEnhancedCivicAnswers"""
)
_HEADERS = [
    ("server", "scaffolding on HTTPServer2"),
    ("server-timing", "gfet4t7; dur=1"),
    ("x-gemini-service-tier", "standard"),
]
_TYPE = "type.googleapis.com/google.rpc."
_METRIC = "generativelanguage.googleapis.com/generate_content_free_tier_"


class Google(base.Wire):
    """Gemini's generateContent and streamGenerateContent."""

    provider = "google"

    def key_text(self, headers: Mapping[str, str]) -> str | None:
        """The key that a request carries."""
        return headers.get("x-goog-api-key") or None

    def read(self, body: Mapping[str, Any], path: str) -> Call:
        """Read and check a request. Raises Refusal."""
        model, _, method = path.partition(":")
        if method not in ("generateContent", "streamGenerateContent"):
            raise Refusal("model_not_found")
        _check_fields(body, _KNOWN, "")
        config = body.get("generationConfig") or {}
        _check_fields(config, _KNOWN_CONFIG, "generation_config")
        messages = _contents(body)
        for name, least, most in (("temperature", 0.0, 2.0), ("topP", 0.0, 1.0)):
            base.check_number(config, name, least, most)
        if (config.get("candidateCount") or 1) != 1:
            raise Refusal("invalid_request", param="candidateCount", problem="above", bound=1)
        mime = config.get("responseMimeType")
        schema = config.get("responseJsonSchema") or config.get("responseSchema")
        if mime not in (None, "text/plain", "application/json"):
            raise Refusal("invalid_request", param="responseMimeType", problem="value", value=mime)
        if schema is not None and mime != "application/json":
            raise Refusal("invalid_request", param="responseSchema", problem="mime")
        return Call(
            provider=self.provider,
            model=model,
            messages=messages,
            stream=method == "streamGenerateContent",
            max_tokens=base.check_integer(config, "maxOutputTokens", 1),
            stop=base.read_stop(config, "stopSequences", 5),
            seed=base.check_integer(config, "seed", -(2**31)),
            json_wanted=mime == "application/json",
            json_schema=schema,
        )

    def answer(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The whole reply as one JSON object."""
        value = _response(call, reply, caller, reply.text, _finish(reply), reply.output_tokens)
        return Answer(200, [base.JSON_TYPE, *_HEADERS], base.json_bytes(value))

    def stream(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The reply as server-sent events."""
        sent = []
        # Usage is cumulative. Before the last chunk, it is estimated from the share of the text.
        whole = max(1, sum(len(piece) for piece in reply.pieces))
        shown = reply.output_tokens - reply.thought_tokens
        mark = "\x00"
        so_far = 0
        frame = json.dumps(_response(call, reply, caller, mark, None, -1))
        before, rest = frame.split(json.dumps(mark))
        tokens = f'"candidatesTokenCount": {-1 - reply.thought_tokens}'
        total = f'"totalTokenCount": {reply.input_tokens - 1}'
        for piece in reply.pieces:
            so_far += len(piece)
            count = shown * so_far // whole
            after = rest.replace(tokens, f'"candidatesTokenCount": {count}').replace(
                total, f'"totalTokenCount": {reply.input_tokens + reply.thought_tokens + count}'
            )
            sent.append(f"data: {before}{json.dumps(piece)}{after}\r\n\r\n".encode())
        last = _response(call, reply, caller, "", _finish(reply), reply.output_tokens)
        sent.append(base.event(last))
        return Answer(200, [("content-type", "text/event-stream"), *_HEADERS], events=sent)

    def broken_off(self) -> list[bytes]:
        """An error in the middle of a stream."""
        return [base.event(_error(500, "INTERNAL", "An internal error has occurred."))]

    def refuse(self, refusal: Refusal, model: str, caller: Caller) -> Answer:
        """The error response for a refusal."""
        if refusal.kind in ("limit", "too_large", "not_in_plan"):
            value = _quota(refusal, model, caller)
        else:
            value = _refused(refusal, model, caller)
        status = int(value["error"]["code"])
        return Answer(status, [base.JSON_TYPE, *_HEADERS], base.json_bytes(value))

    def models(self, names: Mapping[str, int], caller: Caller) -> Answer:
        """The list of models."""
        data = [
            {
                "name": f"models/{name}",
                "displayName": name,
                "inputTokenLimit": window + 1,
                "outputTokenLimit": 65_536,
                "supportedGenerationMethods": ["generateContent"],
            }
            for name, window in names.items()
        ]
        return Answer(200, [base.JSON_TYPE, *_HEADERS], base.json_bytes({"models": data}))


def _check_fields(value: Mapping[str, Any], known: frozenset[str], place: str) -> None:
    for name in value:
        # JSON for protocol buffers accepts both spellings of a field.
        parts = name.split("_")
        if parts[0] + "".join(p.capitalize() for p in parts[1:]) not in known:
            raise Refusal("invalid_request", param=name, problem="unknown", place=place)


def _contents(body: Mapping[str, Any]) -> tuple[Message, ...]:
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        raise Refusal("invalid_request", param="contents", problem="empty")
    messages = []
    system = body.get("systemInstruction")
    if system:
        messages.append(Message("system", _text(system)))
    for content in contents:
        role = content.get("role", "user") if isinstance(content, dict) else None
        if role not in ("user", "model", "function"):
            raise Refusal("invalid_request", param="role", problem="value", value=role)
        if not content.get("parts"):
            raise Refusal("invalid_request", param="parts", problem="empty")
        messages.append(
            Message("assistant" if role == "model" else role, _text(content), _images(content))
        )
    return tuple(messages)


def _text(content: Mapping[str, Any]) -> str:
    return "".join(str(p.get("text", "")) for p in content.get("parts", ()) if isinstance(p, dict))


def _images(content: Mapping[str, Any]) -> int:
    """The number of images among the parts. Raises Refusal if one cannot be read."""
    count = 0
    for part in content.get("parts", ()):
        blob = (
            (part.get("inlineData") or part.get("inline_data")) if isinstance(part, dict) else None
        )
        if blob:
            kind = blob.get("mimeType") or blob.get("mime_type")
            if not str(kind).startswith("image/"):
                raise Refusal("invalid_request", param="mimeType", problem="value", value=kind)
            base.check_base64(blob.get("data"), "inlineData.data")
            count += 1
    return count


def _finish(reply: Reply) -> str:
    return {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}[reply.finish]


def _response(
    call: Call, reply: Reply, caller: Caller, text: str, finish: str | None, output: int
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model"}, "index": 0}
    if text or finish is None or finish == "STOP":
        candidate["content"]["parts"] = [{"text": text}]
    if finish is not None:
        candidate["finishReason"] = finish
    usage: dict[str, Any] = {
        "promptTokenCount": reply.input_tokens,
        "candidatesTokenCount": output - reply.thought_tokens,
        "totalTokenCount": reply.input_tokens + output,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": reply.input_tokens}],
    }
    if reply.thought_tokens:
        usage["thoughtsTokenCount"] = reply.thought_tokens
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": call.model,
        "responseId": caller.request_id,
    }


def _error(
    code: int, status: str, message: str, details: list[Any] | None = None
) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    return {"error": {**error, "details": details} if details else error}


def _quota_id(breach: Breach) -> tuple[str, str]:
    """The metric and quotaId of a limit, as in reported 429 responses of the free tier."""
    period = breach.period.capitalize()
    if breach.unit == "requests":
        return "requests", f"GenerateRequestsPer{period}PerProjectPerModel-FreeTier"
    kind = {"input_tokens": "InputTokens", "tokens": "Tokens", "output_tokens": "OutputTokens"}
    metric = {"input_tokens": "input", "tokens": "total", "output_tokens": "output"}
    name = f"GenerateContent{kind[breach.unit]}PerModelPer{period}-FreeTier"
    return f"{metric[breach.unit]}_token_count", name


def _quota(refusal: Refusal, model: str, caller: Caller) -> dict[str, Any]:
    """A 429 with QuotaFailure and RetryInfo."""
    lines, violations = [], []
    breaches = refusal.breaches or (Breach("requests_per_day", 0, 0, 1, 0.0),)
    for breach in breaches:
        metric, quota_id = _quota_id(breach)
        lines.append(
            f"* Quota exceeded for metric: {_METRIC}{metric}, limit: {breach.limit}, model: {model}"
        )
        violation = {
            "quotaMetric": _METRIC + metric,
            "quotaId": quota_id,
            "quotaDimensions": {"model": model, "location": "global"},
        }
        if breach.limit:
            violation["quotaValue"] = str(breach.limit)
        violations.append(violation)
    # Gemini reports a delay of less than a minute even if the day is spent.
    short = [b.wait_seconds for b in breaches if b.wait_seconds <= 60]
    delay = max(short) if short else 60 - caller.now % 60
    text = (
        "You exceeded your current quota, please check your plan and billing details. For more "
        "information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. \n"
        + "\n".join(lines)
        + f"\nPlease retry in {delay:.9f}s."
    )
    details = [
        {
            "@type": f"{_TYPE}Help",
            "links": [
                {
                    "description": "Learn more about Gemini API quotas",
                    "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
                }
            ],
        },
        {"@type": f"{_TYPE}QuotaFailure", "violations": violations},
        {"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{int(delay)}s"},
    ]
    return _error(429, "RESOURCE_EXHAUSTED", text, details)


def project_number(account: str) -> str:
    """The project number of an account: twelve digits, the same in every sandbox."""
    digits = int.from_bytes(hashlib.sha256(account.encode()).digest()[:8], "big")
    return str(100_000_000_000 + digits % 900_000_000_000)


def _info(reason: str, **metadata: str) -> dict[str, Any]:
    return {
        "@type": f"{_TYPE}ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com", **metadata},
    }


def _refused(refusal: Refusal, model: str, caller: Caller) -> dict[str, Any]:
    kind = refusal.kind
    if kind == "unauthorized":
        text = "API key not valid. Please pass a valid API key."
        local = {"@type": f"{_TYPE}LocalizedMessage", "locale": "en-US", "message": text}
        return _error(400, "INVALID_ARGUMENT", text, [_info("API_KEY_INVALID"), local])
    if kind == "forbidden":
        # Google names the project ("consumer") of a key in the ErrorInfo of a 403.
        project = project_number(caller.account)
        text = (
            f"Generative Language API has not been used in project {project} before or it is "
            "disabled. Enable it by visiting https://console.developers.google.com/apis/api/"
            f"generativelanguage.googleapis.com/overview?project={project} then retry."
        )
        details = [_info("SERVICE_DISABLED", consumer=f"projects/{project}")]
        return _error(403, "PERMISSION_DENIED", text, details)
    if kind == "invalid_request":
        return _invalid(refusal.details)
    internal = "An internal error has occurred. Please retry or report in "
    internal += "https://developers.generativeai.google/guide/troubleshooting"
    window = refusal.details.get("window", 0)
    table = {
        "no_key": (
            403,
            "PERMISSION_DENIED",
            (
                "Method doesn't allow unregistered callers (callers without established identity). "
                "Please use API Key or other form of API consumer identity to call this API."
            ),
        ),
        "no_credit": (
            429,
            "RESOURCE_EXHAUSTED",
            (
                "Your prepayment credits are depleted. Please go to AI Studio at "
                "https://ai.studio/projects to manage your project and billing."
            ),
        ),
        "model_not_found": (
            404,
            "NOT_FOUND",
            (
                f"models/{model} is not found for API version v1beta, or is not supported for "
                "generateContent. Call ListModels to see the list of available models and their "
                "supported methods."
            ),
        ),
        "model_retired": (
            404,
            "NOT_FOUND",
            (
                f"This model models/{model} is no longer available to new users. Please update "
                "your code to use a newer model for the latest features and improvements."
            ),
        ),
        "context_too_long": (
            400,
            "INVALID_ARGUMENT",
            (
                f"The input token count ({refusal.details.get('tokens', window + 1)}) exceeds the "
                f"maximum number of tokens allowed ({window})."
            ),
        ),
        "no_json_schema": (
            400,
            "INVALID_ARGUMENT",
            f"JSON mode is not enabled for models/{model}",
        ),
        "server_error": (500, "INTERNAL", internal),
        "overloaded": (
            503,
            "UNAVAILABLE",
            "The model is overloaded. Please try again later.",
        ),
        "echo_key": (500, "INTERNAL", f"{internal} (key {caller.key})"),
    }
    return _error(*table[kind])


def _invalid(details: Mapping[str, Any]) -> dict[str, Any]:
    param, place = details.get("param"), details.get("place")
    text = {
        "unknown": (
            f'Invalid JSON payload received. Unknown name "{param}"'
            + (f" at '{place}'" if place else "")
            + ": Cannot find field."
        ),
        "empty": f"* GenerateContentRequest.{param}: {param} is not specified",
        "mime": "response_schema is only supported with response_mime_type application/json",
        "json": "Invalid JSON payload received.",
    }.get(
        str(details.get("problem")),
        f"* GenerateContentRequest.generation_config.{param}: {base.explain(details)}",
    )
    extra = [
        {
            "@type": f"{_TYPE}BadRequest",
            "fieldViolations": [{"field": place or str(param), "description": text}],
        }
    ]
    return _error(400, "INVALID_ARGUMENT", text, extra)
