"""Tools and further fields of chat completions, through the public interface."""

from __future__ import annotations

import base64
import json
import pickle
from typing import Any

import pytest
from provider_parts import PROVIDERS, asked

from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.tools import Tool
from arche_magic.sandbox import Sandbox

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
TIME = Tool("get_time", parameters='{"type":"object","properties":{"zone":{"type":"string"}}}')
TOOLS = [WEATHER, TIME]
BOTH = "Call get_weather city=Oslo and get_time zone=CET, please."


def as_message(reply: Reply) -> dict[str, Any]:
    """The assistant's turn as clients of the OpenAI API keep it, without signatures."""
    calls = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
        for c in reply.tool_calls
    ]
    return {"role": "assistant", "content": str(reply) or None, "tool_calls": calls}


def results(reply: Reply) -> list[dict[str, Any]]:
    """A result for each call."""
    return [
        {"role": "tool", "tool_call_id": call.id, "content": f"the result of {call.name}"}
        for call in reply.tool_calls
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", PROVIDERS)
def test_a_model_calls_tools_and_reads_their_results(
    sandbox: Sandbox, name: str, stream: bool
) -> None:
    """Two calls in one reply, both results in the next request, and a text at the end."""
    provider = get_llm_provider(name)
    turns: list[Any] = [{"role": "user", "content": BOTH}]

    def ask() -> Reply:
        if not stream:
            return provider.generate_chat(turns, tools=TOOLS)
        pieces = provider.stream(turns, tools=TOOLS)
        text = "".join(pieces)
        assert pieces.reply == text
        assert pieces.reply is not None
        return pieces.reply

    reply = ask()
    assert reply == ""
    assert reply.finish_reason == "tool_calls"
    weather, time = reply.tool_calls
    assert (weather.name, json.loads(weather.arguments)) == ("get_weather", {"city": "Oslo"})
    assert (time.name, json.loads(time.arguments)) == ("get_time", {"zone": "CET"})
    assert pickle.loads(pickle.dumps(reply)).tool_calls == reply.tool_calls
    turns += [as_message(reply), *results(reply)]
    answer = ask()
    assert answer.finish_reason == "stop"
    assert "the result of get_weather" in answer
    assert "the result of get_time" in answer


@pytest.mark.parametrize("model", ["gemini-3.5-flash-lite", "gemini-3.8-flash"])
def test_gemini_gets_its_signatures_back(sandbox: Sandbox, model: str) -> None:
    """A signature is sent back unchanged if the messages contain it."""
    provider = get_llm_provider("google")
    first = provider.generate("Call get_time.", model=model, tools=TOOLS)
    (call,) = first.tool_calls
    assert call.signature
    turn = as_message(first)
    turn["tool_calls"][0]["extra_content"] = {"google": {"thought_signature": call.signature}}
    turns = [{"role": "user", "content": "Call get_time."}, turn, *results(first)]
    assert "the result of get_time" in provider.generate_chat(turns, model=model, tools=TOOLS)
    sent = sandbox.requests[-1].body["contents"][1]["parts"][0]["thoughtSignature"]
    assert base64.urlsafe_b64decode(sent) == base64.b64decode(call.signature)


def test_a_signature_that_gemini_refuses_is_replaced(sandbox: Sandbox) -> None:
    """It may be that of another service. The same model is asked again with a placeholder."""
    provider = get_llm_provider("google")
    first = provider.generate("Call get_time.", model="gemini-3.8-flash", tools=TOOLS)
    turn = as_message(first)
    signature = base64.b64encode(b"of another service").decode()
    turn["tool_calls"][0]["extra_content"] = {"google": {"thought_signature": signature}}
    turns = [{"role": "user", "content": "Call get_time."}, turn, *results(first)]
    reply = provider.generate_chat(turns, model="gemini-3.8-flash", tools=TOOLS)
    assert [attempt.outcome for attempt in reply.attempts] == ["failed", "served"]
    assert "does not take the signatures of earlier calls" in (reply.attempts[0].error or "")
    again = provider.generate_chat(turns, model="gemini-3.8-flash", tools=TOOLS)
    assert len(again.attempts) == 1


def test_a_conversation_goes_through_all_providers(sandbox: Sandbox) -> None:
    """The parallel calls of each turn come from one provider, and the next one reads them."""
    turns: list[Any] = []
    order = ["groq", "mistral", "google", "openai", "google", "mistral", "groq"]
    for name in order:
        turns.append({"role": "user", "content": BOTH})
        reply = get_llm_provider().generate_chat(turns, provider=name, tools=TOOLS)
        assert reply.provider == name
        assert [call.name for call in reply.tool_calls] == ["get_weather", "get_time"]
        turns += [as_message(reply), *results(reply)]
    for name in PROVIDERS:
        answer = get_llm_provider(name).generate_chat(turns, tools=TOOLS)
        assert "the result of get_weather" in answer
        assert len(answer.attempts) == 1
    assert asked(sandbox) == [*order, *PROVIDERS]


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("get_time", ["get_time"]),
        ({"type": "function", "function": {"name": "get_time"}}, ["get_time"]),
        ("required", ["get_weather"]),
        ("none", []),
    ],
)
def test_tool_choice_is_respected(
    sandbox: Sandbox, name: str, choice: Any, names: list[str]
) -> None:
    """A named tool is called, and with `none` the model answers with text."""
    reply = get_llm_provider(name).generate("How is Oslo?", tools=TOOLS, tool_choice=choice)
    assert [call.name for call in reply.tool_calls] == names
    assert bool(reply) == (choice == "none")


@pytest.mark.parametrize("name", PROVIDERS)
def test_parallel_calls_can_be_switched_off(sandbox: Sandbox, name: str) -> None:
    """Gemini has no such option, so calls after the first are dropped."""
    provider = get_llm_provider(name)
    assert len(provider.generate(BOTH, tools=TOOLS).tool_calls) == 2
    reply = provider.generate(BOTH, tools=TOOLS, parallel_tool_calls=False)
    stream = provider.stream(BOTH, tools=TOOLS, parallel_tool_calls=False)
    assert "".join(stream) == ""
    assert [len(answer.tool_calls) for answer in (reply, stream.reply)] == [1, 1]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("groq", "meta-llama/llama-prompt-guard-2-22m"),
        ("mistral", "open-codestral-mamba"),
        ("openai", "gpt-4o-search-preview"),
    ],
)
def test_a_model_that_refuses_tools_is_skipped_afterwards(
    sandbox: Sandbox, name: str, model: str
) -> None:
    """The refusal is remembered, so the next request is not sent to it."""
    provider = get_llm_provider(name)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="takes no tools"):
            provider.generate("Hi", model=model, tools=TOOLS)
    assert asked(sandbox) == [name]
    # It still answers requests without tools.
    assert provider.generate("Hi", model=model)


def test_a_route_without_support_for_a_field_is_skipped(sandbox: Sandbox) -> None:
    """The attempts name the field; Groq, Mistral and Google are not called."""
    reply = get_llm_provider().generate(
        "Hello", extra={"logprobs": True, "top_logprobs": 2, "n": 2}
    )
    assert asked(sandbox) == ["openai"]
    *skipped, served = reply.attempts
    assert {a.provider for a in skipped} == {"groq", "mistral", "google"}
    assert all("takes no logprobs" in (a.error or "") for a in skipped)
    assert served.provider == "openai"
    one, two = reply.choices
    assert one["message"]["content"] == reply
    assert two["message"]["content"]
    assert one["logprobs"]["content"]
    considered = reply.decisions[-1].considered
    assert considered[0].state.reason == "takes no logprobs, top_logprobs or n"


def test_a_request_with_several_choices_is_not_streamed(sandbox: Sandbox) -> None:
    """The reply comes in one piece, with all its choices."""
    pieces = get_llm_provider("openai").stream("Hello", extra={"n": 2})
    assert len(list(pieces)) == 1
    assert pieces.reply is not None
    assert len(pieces.reply.choices) == 2
    assert not sandbox.requests[-1].stream


@pytest.mark.parametrize(
    ("name", "extra", "words"),
    [
        ("mistral", {"logit_bias": {"1": 5}}, "mistral takes no logit_bias; openai does"),
        ("google", {"n": 2}, "google takes no n; openai does"),
        ("google", {"prediction": {}}, "google takes no prediction; groq does"),
        ("mistral", {"frobnicate": 1}, "mistral takes no frobnicate; groq does"),
        (
            "google",
            {"reasoning_effort": "max"},
            "google takes no reasoning_effort other than none, minimal, .* and xhigh$",
        ),
        (
            "google",
            {"response_format": {"type": "grammar"}},
            "google takes no response_format other than json_object and json_schema$",
        ),
    ],
)
def test_a_field_that_no_route_supports_is_named(
    sandbox: Sandbox, name: str, extra: dict[str, Any], words: str
) -> None:
    """With a provider that supports it, or the values that are supported; nothing is sent."""
    with pytest.raises(InvalidRequest, match=words):
        get_llm_provider().generate("Hello", provider=name, extra=extra)
    assert sandbox.requests == ()


@pytest.mark.parametrize("name", PROVIDERS)
def test_extra_fields_reach_every_provider(sandbox: Sandbox, name: str) -> None:
    """They have the provider's names.

    A field with its default value does not exclude a provider.
    """
    extra = {"presence_penalty": 0.5, "frequency_penalty": 0.25, "stream_options": None}
    provider = get_llm_provider(name)
    assert provider.generate("Hello", extra=extra)
    assert provider.generate("Hello", extra={"stream_options": {"include_usage": True}})
    body = sandbox.requests[-2].body
    sent = body.get("generationConfig", body)
    assert {sent.get("presence_penalty"), sent.get("presencePenalty")} == {0.5, None}
    assert {sent.get("frequency_penalty"), sent.get("frequencyPenalty")} == {0.25, None}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", PROVIDERS)
def test_a_response_format_works_with_every_provider(
    sandbox: Sandbox, name: str, stream: bool
) -> None:
    """JSON, with and without a schema, which is sent unchanged."""
    provider = get_llm_provider(name)

    def ask(form: dict[str, Any]) -> Reply:
        extra = {"response_format": form}
        if not stream:
            return provider.generate("A city in JSON.", extra=extra)
        pieces = provider.stream("A city in JSON.", extra=extra)
        assert "".join(pieces) == pieces.reply
        assert pieces.reply is not None
        return pieces.reply

    assert isinstance(json.loads(ask({"type": "json_object"})), dict)
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    described = {"name": "place", "schema": schema, "strict": True}
    reply = ask({"type": "json_schema", "json_schema": described})
    assert set(reply.parsed) == {"city"}
    body = sandbox.requests[-1].body
    if name == "google":
        assert body["generationConfig"]["responseJsonSchema"] == schema
    else:
        assert body["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_schema_and_tools_can_be_combined(sandbox: Sandbox, name: str) -> None:
    """Calls are not validated; the reply after their results fits the schema."""
    provider = get_llm_provider(name)
    turns: list[Any] = [{"role": "user", "content": "Call get_time."}]
    first = provider.generate_chat(turns, tools=TOOLS, schema="hour int")
    assert first.parsed is None
    assert first.tool_calls
    turns += [as_message(first), *results(first)]
    answer = provider.generate_chat(turns, tools=TOOLS, schema="hour int")
    assert set(answer.parsed) == {"hour"}


def test_a_kept_reply_keeps_its_calls(sandbox: Sandbox) -> None:
    """The same question is answered from memory; another tool is another question."""
    provider = get_llm_provider("groq")
    first = provider.generate("Call get_time.", tools=TOOLS, keep=True)
    again = provider.generate("Call get_time.", tools=TOOLS, keep=True)
    assert again.from_memory
    assert again.tool_calls == first.tool_calls
    assert not provider.generate("Call get_time.", tools=[TIME], keep=True).from_memory
    assert not provider.generate(
        "Call get_time.", tools=TOOLS, tool_choice="auto", keep=True
    ).from_memory


def test_tools_count_in_the_estimate(sandbox: Sandbox) -> None:
    """Definitions, calls and results are part of the prompt."""
    provider = get_llm_provider("groq")
    long = Tool("long", "x" * 4000)
    before = provider.preview("Hello").usage.input_tokens
    assert provider.preview("Hello", tools=[long]).usage.input_tokens - before > 1000
    call = {"id": "c", "function": {"name": "f", "arguments": json.dumps({"x": "y" * 4000})}}
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "z" * 4000},
    ]
    assert provider.preview(turns).usage.input_tokens - before > 2000


def test_several_choices_count_in_the_estimate(sandbox: Sandbox) -> None:
    """The tokens of all choices are reserved, and then replaced by the provider's count."""
    provider = get_llm_provider("openai")
    one = provider.preview("Hello", max_tokens=50)
    three = provider.preview("Hello", max_tokens=50, extra={"n": 3})
    assert three.usage.output_tokens == 3 * one.usage.output_tokens
    reply = provider.generate("[tokens=400]", max_tokens=300, extra={"n": 4})
    (counted,) = sandbox.usage()["openai_key_1"].values()
    assert reply.usage.output_tokens == counted["output_tokens"] > 2 * 300 + 100


def test_a_key_is_found_in_every_part_of_a_request(sandbox: Sandbox) -> None:
    """It is found in definitions, arguments, results and extra fields. Nothing is sent."""
    key = sandbox.environment()["GROQ_API_KEY"]
    called = {"role": "assistant", "content": None}
    cases: list[dict[str, Any]] = [
        {"tools": [Tool("f", key)]},
        {"tools": [Tool("f", parameters=json.dumps({"type": "object", "title": key}))]},
        {"extra": {"metadata": {"a": [key]}}},
    ]
    for options in cases:
        with pytest.raises(InvalidRequest, match="contains the key groq_key_1"):
            get_llm_provider().generate("Hello", **options)
    for arguments, result in ((json.dumps({"x": key}), ""), ("{}", key)):
        call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
        turns = [
            {"role": "user", "content": "Hello"},
            {**called, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": result},
        ]
        with pytest.raises(InvalidRequest, match="contains the key groq_key_1"):
            get_llm_provider().generate_chat(turns)
    assert sandbox.requests == ()
