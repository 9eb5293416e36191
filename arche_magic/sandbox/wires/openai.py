"""OpenAI's wire: chat completions with its headers and errors (recorded up to 2026)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..exchange import Answer, Call, Caller, Refusal, Reply
from ..models import MODELS
from . import base, embedding_requests
from .openai_errors import error_body, limit_answer, refused_body
from .openai_like import (
    ChatWire,
    call_object,
    chunk,
    completion,
    events,
    limit_headers,
    logprobs,
    usage_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..exchange import ToolCall

# The parameters of chat.completions.create in openai 3.54.
_KNOWN = base.names(
    """audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens
    max_tokens messages metadata modalities model moderation n parallel_tool_calls prediction
    presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort
    response_format safety_identifier seed service_tier stop store stream stream_options temperature
    tool_choice tools top_logprobs top_p user verbosity web_search_options"""
)
_PIECE = 6  # the number of characters of arguments in a chunk


class OpenAI(ChatWire):
    """OpenAI's chat completions."""

    provider = "openai"
    known = _KNOWN
    roles = ("system", "assistant", "user", "function", "tool", "developer")

    most_choices = 128

    def check_model(self, body: Mapping[str, Any]) -> None:
        """Raise Refusal for parameters that only some models accept."""
        known = MODELS[self.provider].get(body["model"])
        if known is not None and known.fixed_sampling:
            _check_fixed(body)
        elif known is not None and body.get("reasoning_effort") is not None:
            raise Refusal("invalid_request", param="reasoning_effort", problem="no_reasoning")

    def read(self, body: Mapping[str, Any], path: str) -> Call:
        """Read and check a request; only streams have stream_options. Raises Refusal."""
        call = super().read(body, path)
        if call.embedding is not None:
            return call
        if body.get("stream_options") and not call.stream:
            raise Refusal("invalid_request", param="stream_options", problem="no_stream")
        top = base.check_integer(body, "top_logprobs", 0)
        if top is not None and not body.get("logprobs"):
            raise Refusal(
                "invalid_request", param="top_logprobs", problem="without", needs="logprobs"
            )
        if top is not None and top > 20:
            raise Refusal(
                "invalid_request", param="top_logprobs", problem="above", bound=20, value=top
            )
        return replace(call, top_logprobs=top or 0) if body.get("logprobs") else call

    def read_embeddings(self, body: Mapping[str, Any]) -> Call:
        """Read and check a request for embeddings. Raises Refusal."""
        return embedding_requests.read_openai(body)

    def embeddings(self, call: Call, vectors: Sequence[list[float]], caller: Caller) -> Answer:
        """The response to a request for embeddings."""
        body = base.json_bytes(embedding_requests.chat_body(call, vectors))
        return Answer(200, self._headers(caller, base.JSON_TYPE), body)

    def _headers(self, caller: Caller, content_type: tuple[str, str]) -> base.Headers:
        requests = "requests_per_minute"
        if requests not in caller.limits:
            requests = "requests_per_day"
        return [
            content_type,
            ("x-request-id", caller.request_id),
            ("openai-organization", f"org-sandbox-{caller.account}"),
            ("openai-project", f"proj_sandbox_{caller.account}"),
            ("openai-processing-ms", "1"),
            ("openai-version", "2020-10-01"),
            *limit_headers(caller, {"requests": requests, "tokens": "tokens_per_minute"}),
        ]

    def answer(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The whole reply as one JSON object."""
        value = completion(call, reply, caller)
        for entry, one in zip(value["choices"], (reply, *reply.others), strict=True):
            entry["message"]["refusal"] = None
            entry["logprobs"] = None
            if call.top_logprobs is not None and one.pieces:
                entry["logprobs"] = logprobs(one.pieces, call.top_logprobs)
        message = value["choices"][0]["message"]
        if reply.finish == "content_filter":
            # A refusal as recorded: no content, and finish_reason "stop".
            message["content"] = None
            message["refusal"] = "I'm sorry, but I can't assist with that request."
            value["choices"][0]["finish_reason"] = "stop"
        value["usage"] = usage_of(reply)
        value["service_tier"] = "default"
        return Answer(200, self._headers(caller, base.JSON_TYPE), base.json_bytes(value))

    def stream(self, call: Call, reply: Reply, caller: Caller) -> Answer:
        """The reply as server-sent events."""
        closing = []
        every: dict[str, Any] = {}
        if call.usage_wanted:
            every = {"usage": None}
            closing = [base.event(chunk(call, caller, [], usage=usage_of(reply)))]
        return Answer(
            200,
            self._headers(caller, base.EVENT_TYPE),
            events=events(
                call,
                reply,
                caller,
                first=every,
                last=every,
                every=every,
                closing=closing,
                call_deltas=_call_pieces,
            ),
        )

    def broken_off(self) -> list[bytes]:
        """An error in the middle of a stream."""
        text = "The server had an error while processing your request. Sorry about that!"
        return [base.event(error_body(text, "server_error")), base.DONE]

    def refuse(self, refusal: Refusal, model: str, caller: Caller) -> Answer:
        """The error response for a refusal."""
        headers = self._headers(caller, base.JSON_TYPE)
        breach = refusal.breaches[0] if refusal.breaches else None
        if breach is not None and refusal.kind in ("limit", "too_large"):
            return limit_answer(breach, model, caller, headers)
        status, value = refused_body(refusal, model, caller)
        if status == 401 or refusal.kind == "no_credit":
            headers = [base.JSON_TYPE, ("x-request-id", caller.request_id)]
        if refusal.kind == "overloaded":
            headers.append(("retry-after", "5"))
        return Answer(status, headers, base.json_bytes(value))

    def model_fields(self, name: str, window: int) -> dict[str, Any]:
        """What the list of models says about a model."""
        return {"owned_by": "sandbox"}


def _call_pieces(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Deltas of calls: the name of each, then its arguments in pieces."""
    deltas: list[dict[str, Any]] = []
    for number, made in enumerate(calls):
        start = call_object(made)
        start["function"]["arguments"] = ""
        deltas.append({"tool_calls": [{"index": number, **start}]})
        for first in range(0, len(made.arguments), _PIECE):
            piece = {"arguments": made.arguments[first : first + _PIECE]}
            deltas.append({"tool_calls": [{"index": number, "function": piece}]})
    return deltas


def _check_fixed(body: Mapping[str, Any]) -> None:
    """Raise Refusal for parameters that reasoning models refuse (recorded 400s)."""
    if body.get("max_tokens") is not None:
        raise Refusal(
            "invalid_request",
            param="max_tokens",
            problem="unsupported",
            instead="max_completion_tokens",
        )
    if body.get("stop") is not None:
        raise Refusal("invalid_request", param="stop", problem="unsupported")
    if body.get("logprobs"):
        raise Refusal("no_logprobs")
    for name in ("temperature", "top_p"):
        if body.get(name) not in (None, 1):
            raise Refusal(
                "invalid_request", param=name, problem="only_default", value=body[name], default=1
            )
