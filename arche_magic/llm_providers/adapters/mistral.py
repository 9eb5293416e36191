"""Mistral through its SDK."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import httpx

from ..provider_failure import ProviderFailure, Remedy
from ..request import Request
from ..types import Usage
from ..wire_fields import MISTRAL_FIELDS
from .adapter import Adapter
from .bodies import field_text, mapping, mappings, validation_problems
from .chat import chat_messages, chat_parameters, chat_part, short_id
from .failures import Refusal, by_rule, words
from .formats import Format
from .http import STAND_IN
from .replies import Part, vectors_of

# Codes are strings in recordings, and numbers in some reports.
_WORDS = words(
    ("3505 service_tier_capacity_exceeded", "overloaded", Remedy.RETRY_LATER),
    ("1910 tier_not_allowed", "the model is not in the plan", Remedy.CHANGE_PLAN),
    ("1500 invalid_model", "model not found", Remedy.CHANGE_MODEL),
    # 3210: too many texts to embed, or too many tokens in all of them.
    ("3051 3210", "the prompt is too long", Remedy.SHORTEN_PROMPT),
)
# Marks a reply that `_keep` has packed.
_WHOLE = "whole reply"
_CALL_ID = re.compile("[A-Za-z0-9]{9}")


class MistralAdapter(Adapter):
    """Mistral's chat completions. Its streams always report usage, and have no limit headers."""

    _words = _WORDS

    @staticmethod
    def _keep(answer: Any) -> Any:
        # The SDK refuses an answer if any field has another type, even one that we do not read. So
        # it gets replies and vectors as the text of one field.
        choices = mappings(mapping(answer).get("choices"))
        entries = mappings(mapping(answer).get("data"))
        is_reply = any("message" in choice for choice in choices)
        if is_reply or any("embedding" in entry for entry in entries):
            return {
                "id": json.dumps(answer), "object": _WHOLE, "created": 0, "model": "",
                "choices": [], "data": [], "usage": {},
            }  # fmt: skip
        if entries and not choices:
            names = filter(None, (field_text(entry, "id") for entry in entries))
            # The SDK returns only models of this type.
            cards = [{"type": "base", "id": name, "capabilities": {}} for name in names]
            return {"object": "list", "data": cards}
        # Events are read without the SDK's classes.
        return answer

    def _build(self) -> Any:
        from mistralai.client import Mistral
        from mistralai.client.utils.logger import NoOpLogger

        # Its retries are off unless a retry_config is given. Its own debug log prints prompts,
        # replies, and error bodies that quote the key.
        sdk = Mistral(
            api_key=STAND_IN,
            server_url=self._base_url,
            client=self._http.open(),  # type: ignore[arg-type]  # httpx2 in its annotation
            # Unused; the default client would read the machine's certificates and proxies.
            async_client=httpx.AsyncClient(transport=httpx.AsyncBaseTransport()),  # type: ignore[arg-type]
            debug_logger=NoOpLogger(),
        )
        # The SDK imports this part only when it is first used.
        _ = sdk.chat
        return sdk

    def _send(
        self, sdk: Any, request: Request, model: str, stream: bool, form: Format | None
    ) -> Iterable[Part | None]:
        messages = _in_order(chat_messages(request, _call_id))
        beginning = _mark_beginning(messages)
        others = {
            "model": model,
            "messages": messages,
            "max_tokens": request.max_tokens,
            "random_seed": request.seed,
        }
        # `schema` is a method of the SDK's classes, so its field has another name.
        given = chat_parameters(request, form, "schema_definition", others)
        # Those that Mistral does not have make the route unsuitable, see `unsuitable`.
        given |= {n: v for n, v in request.extra.items() if n in MISTRAL_FIELDS}
        if stream:
            # The SDK's reader reads the events as plain JSON, because building a pydantic model for
            # each takes ten times as long.
            answer = sdk.chat.stream(**given)
            events = type(answer)(answer.response, json.loads, "[DONE]")
            items: Iterator[Any] = (event["data"] for event in events)
        else:
            items = iter([sdk.chat.complete(**given).model_dump()])
        parts = map(_part, items)
        yield from _without_beginning(parts, beginning) if beginning else parts

    def _embed(self, sdk: Any, request: Request, model: str) -> tuple[Sequence[Any], Usage | None]:
        given = {} if request.dimensions is None else {"output_dimension": request.dimensions}
        answer = sdk.embeddings.create(model=model, inputs=list(request.inputs), **given)
        return vectors_of(json.loads(answer.id))

    def _classify(self, refusal: Refusal) -> ProviderFailure:
        if refusal.status == 429 and any(o.amount == 0 for o in self._observe(refusal.call)):
            return refusal.failure("the model is not in the plan", Remedy.CHANGE_PLAN)
        if refusal.status == 422 and (problems := validation_problems(refusal.fields)):
            return refusal.failure(
                f"{refusal.model} does not take the request",
                Remedy.FIX_REQUEST,
                said=problems,
                names_option="response_format" not in problems,
            )
        return by_rule(refusal)


def _call_id(call_id: str) -> str:
    """An id that Mistral accepts: it must have exactly nine letters and digits.

    Seen: "Tool call id was … but must be a-z, A-Z, 0-9, with a length of 9"
    (github.com/jackmpcollins/magentic/issues/276).
    """
    return call_id if _CALL_ID.fullmatch(call_id) else short_id(call_id, 9)


def _in_order(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with a turn of the assistant between a tool's result and the user.

    Mistral refuses one directly after the other ("Unexpected role 'user' after role 'tool'",
    github.com/mistralai/client-ts/issues/106), and turns of the assistant without content or calls.
    """
    ordered: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "assistant" and not (message["content"] or "tool_calls" in message):
            continue
        if message["role"] == "user" and ordered and ordered[-1]["role"] == "tool":
            ordered.append({"role": "assistant", "content": "OK."})
        ordered.append(message)
    return ordered or messages


def _mark_beginning(messages: list[dict[str, Any]]) -> str:
    """Mark a last message of the assistant as the beginning of the reply, and return its text.

    Mistral refuses it without the mark ("Expected last role User or Tool (or Assistant with prefix
    True)", github.com/huggingface/smolagents/issues/757).
    """
    last = messages[-1]
    if last["role"] != "assistant" or not last["content"]:
        return ""
    last["prefix"] = True
    return str(last["content"])


def _without_beginning(parts: Iterator[Part | None], beginning: str) -> Iterator[Part | None]:
    """The parts of a reply without the text that the request gave as its beginning.

    Mistral repeats it (github.com/vercel/ai/pull/3256); the others send only what follows it.
    """
    text = ""
    for part in parts:
        if part is None:
            yield None
            continue
        text += part.text
        is_incomplete = text != beginning and beginning.startswith(text)
        if is_incomplete and part.finish_reason is None:
            yield replace(part, text="")
            continue
        yield replace(part, text=text.removeprefix(beginning))
        yield from parts


def _part(item: Any) -> Part | None:
    """A reply as `MistralAdapter._keep` passes it on, or an event of a stream."""
    is_whole = mapping(item).get("object") == _WHOLE
    return chat_part(json.loads(item["id"]) if is_whole else item)
