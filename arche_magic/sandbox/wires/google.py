"""Gemini's wire: generateContent with its errors (recorded up to 2026-08), and no headers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..exchange import Answer, Call, Caller, Message, Refusal, Reply
from ..models import MODELS
from . import base, embedding_requests, google_tools
from .google_errors import error_body, quota_body, refused_body

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


class Google(base.Wire):
    """Gemini's generateContent and streamGenerateContent."""

    provider = "google"

    def key_text(self, headers: Mapping[str, str]) -> str | None:
        """The key that a request carries."""
        return headers.get("x-goog-api-key") or None

    def read(self, body: Mapping[str, Any], path: str) -> Call:
        """Read and check a request. Raises Refusal."""
        model, _, method = path.partition(":")
        if method in ("embedContent", "batchEmbedContents"):
            return embedding_requests.read_google(body, model, method)
        if method not in ("generateContent", "streamGenerateContent"):
            raise Refusal("model_not_found")
        base.check_known(body, _KNOWN, "")
        config = body.get("generationConfig") or {}
        base.check_known(config, _KNOWN_CONFIG, "generation_config")
        messages = _contents(body)
        google_tools.check_turns(body["contents"], model)
        tools = google_tools.read_tools(body)
        choice, tools = google_tools.read_choice(body, tools)
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
        if mime == "application/json" and tools and not google_tools.is_signing(model):
            google_tools.invalid(
                "Function calling with a response mime type: 'application/json' is unsupported"
            )
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
            tools=tools,
            tool_choice=choice,
        )

    def answer(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The whole reply as one JSON object."""
        value = _response(call, reply, caller, reply.text, _finish(reply), reply.output_tokens)
        if reply.calls and reply.finish == "tool_calls":
            parts = google_tools.call_parts(reply.calls, call.model)
            value["candidates"][0]["content"]["parts"] = parts
        return Answer(200, [base.JSON_TYPE, *_HEADERS], base.json_bytes(value))

    def embeddings(self, call: Call, vectors: Sequence[list[float]], caller: Caller) -> Answer:
        """The response to a request for embeddings."""
        body = base.json_bytes(embedding_requests.google_body(call, vectors))
        return Answer(200, [base.JSON_TYPE, *_HEADERS], body)

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
        if reply.calls and reply.finish == "tool_calls":
            value = _response(call, reply, caller, "", None, reply.output_tokens)
            parts = google_tools.call_parts(reply.calls, call.model)
            value["candidates"][0]["content"]["parts"] = parts
            sent.append(base.event(value))
        last = _response(call, reply, caller, "", _finish(reply), reply.output_tokens)
        sent.append(base.event(last))
        return Answer(200, [("content-type", "text/event-stream"), *_HEADERS], events=sent)

    def broken_off(self) -> list[bytes]:
        """An error in the middle of a stream."""
        return [base.event(error_body(500, "INTERNAL", "An internal error has occurred."))]

    def refuse(self, refusal: Refusal, model: str, caller: Caller) -> Answer:
        """The error response for a refusal."""
        if refusal.kind in ("limit", "too_large", "not_in_plan"):
            value = quota_body(refusal, model, caller)
        else:
            value = refused_body(refusal, model, caller)
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
                "supportedGenerationMethods": [_method(name)],
            }
            for name, window in names.items()
        ]
        return Answer(200, [base.JSON_TYPE, *_HEADERS], base.json_bytes({"models": data}))


def _method(name: str) -> str:
    known = MODELS["google"].get(name)
    return "embedContent" if known and known.dimensions else "generateContent"


def _contents(body: Mapping[str, Any]) -> tuple[Message, ...]:
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        raise Refusal("invalid_request", param="contents", problem="empty")
    messages = []
    system = body.get("systemInstruction")
    if system:
        messages.append(Message("system", _text(system)))
    for number, content in enumerate(contents):
        role = content.get("role", "user") if isinstance(content, dict) else None
        if role not in ("user", "model", "function"):
            raise Refusal("invalid_request", param="role", problem="value", value=role)
        if not content.get("parts"):
            raise Refusal("invalid_request", param="parts", problem="empty")
        results = google_tools.results_in(content, f"contents[{number}]")
        messages += results
        text, images = _text(content), _images(content)
        if role == "model":
            calls = google_tools.calls_in(content)
            messages.append(Message("assistant", text, images, calls))
        elif text or images or not results:
            messages.append(Message("user", text, images))
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
    return {
        "stop": "STOP",
        "tool_calls": "STOP",
        "length": "MAX_TOKENS",
        "content_filter": "SAFETY",
        "malformed_call": "MALFORMED_FUNCTION_CALL",
    }[reply.finish]


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
