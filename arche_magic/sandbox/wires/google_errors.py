"""Gemini's errors, as recorded up to 2026-08."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ..exchange import Breach, Caller, Refusal
from ..models import MODELS
from . import base

if TYPE_CHECKING:
    from collections.abc import Mapping

_TYPE = "type.googleapis.com/google.rpc."
_METRIC = "generativelanguage.googleapis.com/"


def error_body(
    code: int, status: str, message: str, details: list[Any] | None = None
) -> dict[str, Any]:
    """The body of an error."""
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    return {"error": {**error, "details": details} if details else error}


def _quota_id(breach: Breach, model: str) -> tuple[str, str]:
    """The metric and quotaId of a limit, as in reported 429 responses of the free tier."""
    period = breach.period.capitalize()
    known = MODELS["google"].get(model)
    embedding = known is not None and known.dimensions > 0
    verb = "EmbedContent" if embedding else "Generate"
    prefix = f"{_METRIC}{'embed' if embedding else 'generate'}_content_free_tier_"
    if breach.unit == "requests":
        return (
            f"{prefix}requests",
            f"{verb}RequestsPer{period}PerProjectPerModel-FreeTier",
        )
    kind = {"input_tokens": "InputTokens", "tokens": "Tokens", "output_tokens": "OutputTokens"}
    metric = {"input_tokens": "input", "tokens": "total", "output_tokens": "output"}
    name = (
        f"{verb if embedding else 'GenerateContent'}{kind[breach.unit]}PerModelPer{period}-FreeTier"
    )
    return f"{prefix}{metric[breach.unit]}_token_count", name


def quota_body(refusal: Refusal, model: str, caller: Caller) -> dict[str, Any]:
    """A 429 with QuotaFailure and RetryInfo."""
    lines, violations = [], []
    breaches = refusal.breaches or (Breach("requests_per_day", 0, 0, 1, 0.0),)
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
    return error_body(429, "RESOURCE_EXHAUSTED", text, details)


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


def refused_body(refusal: Refusal, model: str, caller: Caller) -> dict[str, Any]:
    """The body for every refusal that is not about a limit."""
    kind = refusal.kind
    if kind == "unauthorized":
        text = "API key not valid. Please pass a valid API key."
        local = {"@type": f"{_TYPE}LocalizedMessage", "locale": "en-US", "message": text}
        return error_body(400, "INVALID_ARGUMENT", text, [_info("API_KEY_INVALID"), local])
    if kind == "forbidden":
        # Google names the project ("consumer") of a key in the ErrorInfo of a 403.
        project = project_number(caller.account)
        text = (
            f"Generative Language API has not been used in project {project} before or it is "
            "disabled. Enable it by visiting https://console.developers.google.com/apis/api/"
            f"generativelanguage.googleapis.com/overview?project={project} then retry."
        )
        details = [_info("SERVICE_DISABLED", consumer=f"projects/{project}")]
        return error_body(403, "PERMISSION_DENIED", text, details)
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
    return error_body(*table[kind])


def _invalid(details: Mapping[str, Any]) -> dict[str, Any]:
    param, place = details.get("param"), details.get("place")
    if details.get("problem") == "stated":
        return error_body(400, "INVALID_ARGUMENT", details["text"])
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
    return error_body(400, "INVALID_ARGUMENT", text, extra)
