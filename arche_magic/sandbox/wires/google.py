"""Gemini's wire: generateContent with its errors (recorded up to 2026-08), and no limit headers."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

from ..models import MODELS
from ..types import Answer, Breach, Call, Caller, Refusal, Reply
from . import embeddings
from .common import PLAIN, Error, event, event_answer, json_answer
from .google_requests import SIGNATURE, is_signing, read_google

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..types import ToolCall

_HEADERS = [
    ("server", "scaffolding on HTTPServer2"),
    ("server-timing", "gfet4t7; dur=1"),
    ("x-gemini-service-tier", "standard"),
]
_FINISH = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "malformed_call": "MALFORMED_FUNCTION_CALL",
}
_TYPE = "type.googleapis.com/google.rpc."
_METRIC = "generativelanguage.googleapis.com/"
_STATUS = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
_INTERNAL = (
    "An internal error has occurred. Please retry or report in "
    "https://developers.generativeai.google/guide/troubleshooting"
)
_NO_MODEL = Error(
    "models/{model} is not found for API version v1beta, or is not supported for generateContent. "
    "Call ListModels to see the list of available models and their supported methods.",
    status=404,
)
_ERRORS = {
    "no_key": Error(
        "Method doesn't allow unregistered callers (callers without established identity). Please "
        "use API Key or other form of API consumer identity to call this API.",
        status=403,
    ),
    "unauthorized": Error("API key not valid. Please pass a valid API key."),
    "forbidden": Error(
        "Generative Language API has not been used in project {project} before or it is disabled. "
        "Enable it by visiting https://console.developers.google.com/apis/api/"
        "generativelanguage.googleapis.com/overview?project={project} then retry.",
        status=403,
    ),
    "no_credit": Error(
        "Your prepayment credits are depleted. Please go to AI Studio at "
        "https://ai.studio/projects to manage your project and billing.",
        status=429,
    ),
    "model_not_found": _NO_MODEL,
    "not_for_chat": _NO_MODEL,
    "not_for_embeddings": _NO_MODEL,
    "model_retired": Error(
        "This model models/{model} is no longer available to new users. Please update your code to "
        "use a newer model for the latest features and improvements.",
        status=404,
    ),
    "context_too_long": Error(
        "The input token count ({tokens}) exceeds the maximum number of tokens allowed ({window})."
    ),
    "no_json_schema": Error("JSON mode is not enabled for models/{model}"),
    "server_error": Error(_INTERNAL, status=500),
    "echo_key": Error(f"{_INTERNAL} (key {{key}})", status=500),
    "overloaded": Error("The model is overloaded. Please try again later.", status=503),
    "stated": Error("{text}"),
}
# Problems of a request, whose errors name the field.
_PROBLEMS = {
    **{
        problem: Error(f"* GenerateContentRequest.generation_config.{{param}}: {text}")
        for problem, text in PLAIN.items()
    },
    "json": Error("Invalid JSON payload received."),
    "unknown": Error(
        'Invalid JSON payload received. Unknown name "{param}"{at}: Cannot find field.'
    ),
    "empty": Error("* GenerateContentRequest.{param}: {param} is not specified"),
    "mime": Error("response_schema is only supported with response_mime_type application/json"),
}


class Google:
    """Gemini's generateContent, streamGenerateContent and methods for embeddings."""

    def key_text(self, headers: Mapping[str, str]) -> str | None:
        """The key in a request's headers, or None."""
        return headers.get("x-goog-api-key") or None

    def read(self, body: Mapping[str, Any], path: str) -> Call:
        """Read and check a request; `path` is its last part. Raises Refusal."""
        model, _, method = path.partition(":")
        if method in ("embedContent", "batchEmbedContents"):
            return embeddings.read_google(body, model, method)
        if method not in ("generateContent", "streamGenerateContent"):
            raise Refusal("model_not_found")
        return read_google(body, model, stream=method == "streamGenerateContent")

    def answer(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The response to a call that does not stream."""
        parts = [{"text": reply.text}] if reply.text or reply.finish == "stop" else []
        if reply.finish == "tool_calls":
            parts = _call_parts(reply.calls, call.model)
        finish = _FINISH[reply.finish]
        value = _response(call, reply, caller, parts, finish, reply.output_tokens)
        return json_answer(value, _HEADERS)

    def stream(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The response to a call that streams, with all its events."""
        sent = []
        # Usage is cumulative. Before the last chunk, it is estimated from the share of the text.
        whole = max(1, sum(len(piece) for piece in reply.pieces))
        shown = reply.output_tokens - reply.thought_tokens
        so_far = 0
        for piece in reply.pieces:
            so_far += len(piece)
            output = reply.thought_tokens + shown * so_far // whole
            value = _response(call, reply, caller, [{"text": piece}], None, output)
            sent.append(event(value, end=b"\r\n\r\n"))
        if reply.finish == "tool_calls":
            parts = _call_parts(reply.calls, call.model)
            sent.append(event(_response(call, reply, caller, parts, None, reply.output_tokens)))
        finish = _FINISH[reply.finish]
        parts = [{"text": ""}] if finish == "STOP" else []
        last = _response(call, reply, caller, parts, finish, reply.output_tokens)
        return event_answer(_HEADERS, [*sent, event(last)], "text/event-stream")

    def embeddings(self, call: Call, vectors: Sequence[list[float]], caller: Caller) -> Answer:
        """The response to a request for embeddings."""
        values = [{"values": vector} for vector in vectors]
        single = {"embedding": values[0]} if values else {}
        return json_answer(single if call.embedding.single else {"embeddings": values}, _HEADERS)

    def models(self, name: str | None, caller: Caller) -> Answer:
        """The list of models, or one of them."""
        data = [
            {
                "name": f"models/{model}",
                "displayName": model,
                "inputTokenLimit": entry.context_window + 1,
                "outputTokenLimit": 65_536,
                "supportedGenerationMethods": [
                    "embedContent" if entry.dimensions else "generateContent"
                ],
            }
            for model, entry in MODELS["google"].items()
            if name in (None, model)
        ]
        return json_answer(data[0] if name else {"models": data}, _HEADERS)

    def refuse(self, refusal: Refusal, model: str, caller: Caller) -> Answer:
        """The provider's own response for a refusal of any kind."""
        if refusal.kind in ("limit", "too_large", "limit_zero", "not_in_plan"):
            text, more = _quota(refusal.breaches, model, caller)
            return json_answer(_error_body(429, text, more), _HEADERS, 429)
        project = project_number(caller.account)
        error = _ERRORS.get(refusal.kind) or _PROBLEMS.get(refusal.kind, _PROBLEMS["other"])
        details = {"model": model, "key": caller.key, "project": project, **refusal.details}
        text = error.words(details)
        more = []
        if refusal.kind == "unauthorized":
            local = {"@type": f"{_TYPE}LocalizedMessage", "locale": "en-US", "message": text}
            more = [_info("API_KEY_INVALID"), local]
        elif refusal.kind == "forbidden":
            # Google names the project ("consumer") of a key in the ErrorInfo of a 403.
            more = [_info("SERVICE_DISABLED", consumer=f"projects/{project}")]
        elif refusal.kind not in _ERRORS:
            field = details.get("place") or str(details.get("param"))
            violation = {"field": field, "description": text}
            more = [{"@type": f"{_TYPE}BadRequest", "fieldViolations": [violation]}]
        return json_answer(_error_body(error.status, text, more), _HEADERS, error.status)

    def error_events(self, kind: str) -> list[bytes]:
        """The events of an error in the middle of a stream, if there is one of this kind."""
        if kind == "tool_use_failed":
            return []  # it has its own finish reason
        return [event(_error_body(500, "An internal error has occurred.", []))]


def _response(
    call: Call, reply: Reply, caller: Caller, parts: list[Any], finish: str | None, output: int
) -> dict[str, Any]:
    content = {"role": "model", "parts": parts} if parts else {"role": "model"}
    candidate: dict[str, Any] = {"content": content, "index": 0}
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


def _call_parts(calls: Sequence[ToolCall], model: str) -> list[dict[str, Any]]:
    """The parts of a reply that calls tools; Gemini 3 signs the first call and numbers all."""
    parts: list[dict[str, Any]] = []
    for number, made in enumerate(calls):
        function: dict[str, Any] = {"name": made.name, "args": json.loads(made.arguments)}
        part: dict[str, Any] = {"functionCall": function}
        if is_signing(model):
            function["id"] = made.id
            if number == 0:
                signature = base64.b64encode(f"{SIGNATURE}{made.name}".encode())
                part["thoughtSignature"] = signature.decode()
        parts.append(part)
    return parts


def _error_body(code: int, message: str, details: list[Any]) -> dict[str, Any]:
    error = {"code": code, "message": message, "status": _STATUS[code]}
    return {"error": {**error, "details": details} if details else error}


def _info(reason: str, **metadata: str) -> dict[str, Any]:
    return {
        "@type": f"{_TYPE}ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com", **metadata},
    }


def project_number(account: str) -> str:
    """The project number of an account: twelve digits, the same in every sandbox."""
    digits = int.from_bytes(hashlib.sha256(account.encode()).digest()[:8], "big")
    return str(100_000_000_000 + digits % 900_000_000_000)


def _quota(breaches: Sequence[Breach], model: str, caller: Caller) -> tuple[str, list[Any]]:
    """The text of a 429 for limits, and its details: QuotaFailure and RetryInfo."""
    lines, violations = [], []
    breaches = breaches or [Breach("requests_per_day", 0, 0, 1, 0.0)]
    for breach in breaches:
        metric, quota_id = _quota_id(breach, model)
        lines.append(
            f"* Quota exceeded for metric: {metric}, limit: {breach.limit}, model: {model}"
        )
        violation = {
            "quotaMetric": metric,
            "quotaId": quota_id,
            "quotaDimensions": {"model": model, "location": "global"},
        }
        if breach.limit:
            violation["quotaValue"] = str(breach.limit)
        violations.append(violation)
    # Gemini reports a delay of less than a minute even if the daily limit is used up.
    short = [b.wait_seconds for b in breaches if b.wait_seconds <= 60]
    delay = max(short) if short else 60 - caller.now % 60
    page = "https://ai.google.dev/gemini-api/docs/rate-limits"
    text = (
        "You exceeded your current quota, please check your plan and billing details. For more "
        f"information on this error, head to: {page}. \n"
        + "\n".join(lines)
        + f"\nPlease retry in {delay:.9f}s."
    )
    links = [{"description": "Learn more about Gemini API quotas", "url": page}]
    return text, [
        {"@type": f"{_TYPE}Help", "links": links},
        {"@type": f"{_TYPE}QuotaFailure", "violations": violations},
        {"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{int(delay)}s"},
    ]


def _quota_id(breach: Breach, model: str) -> tuple[str, str]:
    """The metric and quotaId of a limit, as in reported 429 responses of the free tier."""
    known, period = MODELS["google"].get(model), breach.period.capitalize()
    embeds = known is not None and known.dimensions > 0
    prefix = f"{_METRIC}{'embed' if embeds else 'generate'}_content_free_tier_"
    if breach.unit == "requests":
        verb = "EmbedContent" if embeds else "Generate"
        return f"{prefix}requests", f"{verb}RequestsPer{period}PerProjectPerModel-FreeTier"
    verb = "EmbedContent" if embeds else "GenerateContent"
    tokens = breach.unit.title().replace("_", "")  # such as InputTokens
    metric = breach.unit.removesuffix("s") + "_count"
    return f"{prefix}{metric}", f"{verb}{tokens}PerModelPer{period}-FreeTier"
