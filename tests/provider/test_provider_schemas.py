"""Structured replies over real HTTP: sent to each provider, parsed, corrected or refused."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import jsonschema
import pytest
from provider_parts import MODELS, PROVIDERS, Clock, Start, asked
from pydantic import BaseModel, Field, field_validator

from arche_magic.llm_providers import (
    NotKept,
    SchemaMismatch,
    get_llm_provider,
)
from arche_magic.llm_providers.adapters.formats import formats_of
from arche_magic.llm_providers.config import get_configuration, use_configuration
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.schemas import schema_of

if TYPE_CHECKING:
    from arche_magic.sandbox import ReceivedRequest, Sandbox


class Review(BaseModel):
    mood: Literal["calm", "loud"]
    score: float = Field(ge=0, le=1)
    tags: list[str]
    note: str | None = None


@dataclass
class Point:
    x: int
    label: str = ""


LINE = "mood calm|loud, score float, note str?"
JSON_SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
FITS = '{"mood": "calm", "score": 0.5, "tags": ["a"], "note": null}'
MISFITS = '{"mood": "calm", "score": "high", "tags": ["a"], "note": null}'


def sent_schema(request: ReceivedRequest) -> Any:
    """The schema in a request, in its provider's form, or None."""
    if request.provider == "google":
        config = request.body["generationConfig"]
        if "responseJsonSchema" not in config:
            return None
        assert config["responseMimeType"] == "application/json"
        return config["responseJsonSchema"]
    form = request.body.get("response_format")
    if form is None or form["type"] != "json_schema":
        return None
    assert form["json_schema"]["strict"] is True
    assert form["json_schema"]["name"] == "Review"
    return form["json_schema"]["schema"]


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_schema_is_sent_in_each_providers_form(sandbox: Sandbox, name: str) -> None:
    """The schema is the same, and the reply is parsed."""
    reply = get_llm_provider(name).generate("Was it good?", schema=Review)
    assert isinstance(reply.parsed, Review)
    assert reply.parsed == Review.model_validate_json(reply)
    (request,) = sandbox.requests
    assert sent_schema(request) == schema_of(Review).definition
    assert [attempt.outcome for attempt in reply.attempts] == ["served"]


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(
    ("described", "kind"), [(Review, Review), (Point, Point), (LINE, dict), (JSON_SCHEMA, dict)]
)
def test_a_reply_is_parsed_for_every_kind_of_schema(
    sandbox: Sandbox, name: str, described: Any, kind: type
) -> None:
    """A model or dataclass gives an instance, a line or JSON Schema gives a dict."""
    reply = get_llm_provider(name).generate("Hello", schema=described)
    assert type(reply.parsed) is kind
    jsonschema.validate(json.loads(reply), schema_of(described).definition)


def test_without_a_schema_nothing_is_parsed(sandbox: Sandbox) -> None:
    """No schema is sent."""
    reply = get_llm_provider().generate("Hello")
    assert reply.parsed is None
    assert "response_format" not in sandbox.requests[0].body


@pytest.mark.parametrize("name", PROVIDERS)
def test_chats_streams_and_async_calls_take_a_schema(sandbox: Sandbox, name: str) -> None:
    """A stream has the value at its end."""
    provider = get_llm_provider(name)
    turns = [{"role": "user", "content": "Hello"}]
    assert isinstance(provider.generate_chat(turns, schema=Review).parsed, Review)
    assert isinstance(asyncio.run(provider.agenerate("Hello", schema=Review)).parsed, Review)
    stream = provider.stream("Hello", schema=Review)
    text = "".join(stream)
    assert stream.reply is not None
    assert stream.reply == text
    assert isinstance(stream.reply.parsed, Review)
    # Groq does not stream structured replies.
    assert sandbox.requests[-1].stream is (name != "groq")


# --- replies that do not fit


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_reply_that_does_not_fit_is_corrected_once(start: Start, name: str) -> None:
    """The same conversation continues with a description of the fault. Both calls are recorded."""
    texts = iter([MISFITS, FITS])
    sandbox = start(reply=lambda *_: next(texts))
    reply = get_llm_provider(name).generate("Hello", schema=Review)
    assert reply.parsed.score == 0.5
    first, second = sandbox.requests
    if name == "google":
        turns = [(turn["role"], turn["parts"][0]["text"]) for turn in second.body["contents"]]
        answered = "model"
    else:
        turns = [(turn["role"], turn["content"]) for turn in second.body["messages"]]
        answered = "assistant"
    assert turns[:2] == [("user", "Hello"), (answered, MISFITS)]
    role, correction = turns[2]
    assert role == "user"
    assert "score: Input should be a valid number" in correction
    assert sent_schema(second) == sent_schema(first)
    failed, served = reply.attempts
    assert (failed.outcome, served.outcome) == ("failed", "served")
    assert failed.error == "the reply does not fit Review"
    assert failed.output_tokens > 0


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(
    ("kind", "said"), [("not_json", "it is not JSON"), ("misfit_json", "mood: Field required")]
)
def test_a_second_reply_that_does_not_fit_is_an_error(
    start: Start, clock: Clock, name: str, kind: str, said: str
) -> None:
    """The error has the text and the fault, and both calls are counted."""
    sandbox = start(clock=clock)
    sandbox.fail(name, kind, times=None)
    provider = get_llm_provider(name)
    with pytest.raises(SchemaMismatch) as caught:
        provider.generate("Hello", schema=Review)
    error = caught.value
    assert error.text in ("Sorry, no JSON today.", '{"unexpected": "simulated"}')
    assert f"{name} ({MODELS[name]}) does not fit Review: {said}" in str(error)
    assert "asked twice" in str(error)
    assert "\n" not in str(error)
    assert [attempt.outcome for attempt in error.attempts] == ["failed", "failed"]
    assert all(attempt.input_tokens > 0 for attempt in error.attempts)
    stats = provider.get_stats()
    assert (stats["total_calls"], stats["errors"], stats["provider_calls"]) == (1, 1, {})
    used = stats["quota_summary"][name][f"{name}_key_1"]
    counted = sandbox.quota()[f"{name}_key_1"][MODELS[name]]
    shared = used.keys() & counted.keys()
    assert shared
    for limit in shared:
        assert used[limit]["used"] == pytest.approx(counted[limit]["used"], abs=0.01), limit


def test_no_text_of_the_reply_is_recorded(start: Start) -> None:
    """The file of attempts contains no reply, whether it fits or not."""
    sandbox = start(reply=lambda *_: '{"mood": "secret mood"}')
    with pytest.raises(SchemaMismatch, match="secret mood"):
        get_llm_provider().generate("Hello", schema=Review)
    (path,) = get_configuration().directory.glob("outputs/llm_calls.jsonl")
    assert len(path.read_text().splitlines()) == len(sandbox.requests) == 2
    assert "secret" not in path.read_text()


def test_a_cut_reply_is_not_corrected(start: Start) -> None:
    """It would be cut again; the error says by which limit."""
    sandbox = start(reply=lambda *_: FITS)
    with pytest.raises(SchemaMismatch, match="cut at max_tokens") as caught:
        get_llm_provider().generate("Hello", schema=Review, max_tokens=5)
    assert FITS.startswith(caught.value.text)
    assert len(sandbox.requests) == 1


def test_a_stream_that_does_not_fit_raises_at_its_end(start: Start) -> None:
    """The text cannot be taken back, so the model is not asked again."""
    sandbox = start(reply=lambda *_: MISFITS)
    stream = get_llm_provider("mistral").stream("Hello", schema=Review)
    pieces: list[str] = []
    with pytest.raises(SchemaMismatch) as caught:
        pieces.extend(stream)
    assert caught.value.text == MISFITS
    assert len(sandbox.requests) == 1


def test_the_text_is_kept_if_no_route_can_correct_it(start: Start) -> None:
    """The error says why the model was not asked again, and when that is possible."""
    start(
        keys={"groq": 1}, left={"groq": {"requests_per_day": 1}}, reply=lambda *_: MISFITS,
    )  # fmt: skip
    with pytest.raises(SchemaMismatch, match="not asked again: All Groq API keys") as caught:
        get_llm_provider().generate("Hello", schema=Review, patience=0)
    assert caught.value.text == MISFITS
    assert caught.value.next_available_at is not None


def test_another_route_may_correct_the_reply(start: Start) -> None:
    """The correction goes to the first open route."""
    texts = iter([MISFITS, FITS])
    sandbox = start(
        keys={"groq": 1, "mistral": 1},
        left={"groq": {"requests_per_day": 1}},
        reply=lambda *_: next(texts),
    )
    reply = get_llm_provider().generate("Hello", schema=Review, patience=0)
    assert asked(sandbox) == ["groq", "mistral"]
    assert reply.parsed.mood == "calm"


# --- models without support for schemas


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_model_without_schema_support_gets_the_schema_in_the_prompt(
    sandbox: Sandbox, name: str
) -> None:
    """One refusal is enough. Later calls put the schema into the prompt immediately."""
    sandbox.fail(name, "no_json_schema", times=None)
    provider = get_llm_provider(name)
    reply = provider.generate("Hello", system="Be brief.", schema=Review)
    assert isinstance(reply.parsed, Review)
    assert [attempt.outcome for attempt in reply.attempts] == ["failed", "served"]
    assert "does not support" in str(reply.attempts[0])
    refused, answered = sandbox.requests
    assert sent_schema(refused) is not None
    assert sent_schema(answered) is None
    if name == "google":
        sent = answered.body["systemInstruction"]["parts"][0]["text"]
        assert "responseMimeType" not in answered.body["generationConfig"]
    else:
        sent = answered.body["messages"][0]["content"]
        assert answered.body["response_format"] == {"type": "json_object"}
    assert sent.startswith("Be brief.\n\n")
    assert schema_of(Review).text in sent
    again = provider.generate("Hello again", schema=Review)
    assert [attempt.outcome for attempt in again.attempts] == ["served"]
    assert len(sandbox.requests) == 3


def test_support_for_schemas_is_remembered_for_all_keys(start: Start) -> None:
    """A model is the same for all keys of a provider."""
    sandbox = start(keys={"groq": 3})
    sandbox.fail("groq", "no_json_schema", times=None)
    provider = get_llm_provider()
    for number in range(6):
        provider.generate(f"Hello {number}", schema=Review)
    assert [request.status for request in sandbox.requests] == [400, *[200] * 6]
    assert len({request.key for request in sandbox.requests}) > 1


def test_a_request_without_a_schema_is_not_changed(sandbox: Sandbox) -> None:
    """After a refusal, only requests with a schema are sent differently."""
    sandbox.fail("groq", "no_json_schema", times=None)
    provider = get_llm_provider("groq")
    provider.generate("Hello", schema=Review)
    provider.generate("Hello")
    assert [turn["role"] for turn in sandbox.requests[-1].body["messages"]] == ["user"]


@pytest.mark.parametrize(
    ("status", "message", "then"),
    [
        (400, "This model does not support response format `json_schema`. See …", "JSON"),
        (400, "Invalid parameter: 'response_format' of type 'json_schema' is not …", "JSON"),
        (400, "invalid schema for response format: response_format/json_schema/x: …", "JSON"),
        (400, "The parameter `response_format.type` … invalid value: `json_schema` …", "JSON"),
        (400, "JSON mode is not enabled for models/gemma-3-27b-it", "PROMPT"),
        (400, "'response_format' of type 'json_object' is not supported", "PROMPT"),
        (422, "This response_format type is unavailable now", "PROMPT"),
        (400, "Please reduce the length of the messages.", None),
        (429, "Rate limit reached on json_schema requests", None),
    ],
)
def test_refusals_are_understood_in_the_words_of_each_service(
    status: int, message: str, then: str | None
) -> None:
    """One about the schema leads to any JSON, one about JSON leads to the prompt alone."""
    formats = formats_of("made up", f"http://127.0.0.1/{status}/{message}")
    request = Request((Message("user", "Hello"),), schema=schema_of(LINE))
    _, asked = formats.asking(request, "model")
    failure = formats.refused(asked, status, message, "(400)")
    assert (failure is None) == (then is None)
    sent, asked = formats.asking(request, "model")
    assert asked.form is not None
    assert asked.form.name == (then or "SCHEMA")
    assert (sent == request) == (then is None)


def test_a_refused_schema_does_not_affect_other_schemas() -> None:
    """The service's refusal names the schema."""
    formats = formats_of("made up", "http://127.0.0.1/named")
    message = "Invalid schema for response_format 'reply': In context=(), 'x' is not permitted."
    request = Request((Message("user", "Hello"),), schema=schema_of(LINE))
    _, asked = formats.asking(request, "model")
    assert formats.refused(asked, 400, message, "(400)") is not None
    assert formats.asking(request, "model")[1].form.name == "JSON"
    other = replace(request, schema=schema_of("other int"))
    assert formats.asking(other, "model")[1].form.name == "SCHEMA"


# --- kept replies


def test_a_kept_reply_is_parsed_again(sandbox: Sandbox) -> None:
    """The value is an instance of the current class."""
    first = get_llm_provider().generate("Hello", schema=Review, keep=True)
    again = get_llm_provider().generate("Hello", schema=Review, keep=True)
    assert again.from_memory
    assert again.parsed == first.parsed
    assert again.parsed is not first.parsed
    assert get_llm_provider().generate("Hello", schema=LINE, keep=True).from_memory is None
    assert get_llm_provider().generate("Hello", keep=True).from_memory is None
    assert len(sandbox.requests) == 3


def test_a_corrected_reply_is_kept_for_the_first_question(start: Start) -> None:
    """The next run gets the reply that fits with its first request."""
    texts = iter([MISFITS, FITS])
    sandbox = start(reply=lambda *_: next(texts))
    get_llm_provider().generate("Hello", schema=Review, keep=True)
    assert get_llm_provider().generate("Hello", schema=Review, keep=True) == FITS
    assert len(sandbox.requests) == 2


def stricter() -> type[BaseModel]:
    """The same fields, and a validator that no schema contains."""

    class Review(BaseModel):
        mood: Literal["calm", "loud"]
        score: float = Field(ge=0, le=1)
        tags: list[str]
        note: str | None = None

        @field_validator("tags")
        @classmethod
        def one(cls, tags: list[str]) -> list[str]:
            if len(tags) != 1:
                raise ValueError("one tag, please")
            return tags

    return Review


def test_a_kept_reply_that_no_longer_fits_is_asked_for_again(start: Start) -> None:
    """The class's validators have changed. If nothing may be sent, it is an error."""
    texts = iter([FITS.replace('["a"]', '["a", "b"]'), FITS])
    sandbox = start(reply=lambda *_: next(texts))
    get_llm_provider().generate("Hello", schema=Review, keep=True)
    usual = get_configuration()
    use_configuration(replace(usual, replay="only"))
    with pytest.raises(NotKept):
        get_llm_provider().generate("Hello", schema=stricter())
    use_configuration(usual)
    reply = get_llm_provider().generate("Hello", schema=stricter(), keep=True)
    assert reply.parsed.tags == ["a"]
    assert len(sandbox.requests) == 2


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_schema_counts_in_the_estimate(sandbox: Sandbox, name: str) -> None:
    """In the reserved amount, and therefore in the estimate that is displayed."""
    provider = get_llm_provider(name)
    plain = provider.preview("Hello").usage.input_tokens
    likely = provider.preview("Hello", schema=Review).usage.input_tokens
    spent = provider.generate("Hello", schema=Review).usage.input_tokens
    assert likely > plain + 50
    assert likely == pytest.approx(spent, rel=0.15)
