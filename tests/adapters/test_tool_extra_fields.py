"""Further fields of chat completions, names and image parts on each wire."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from adapter_calls import HELLO, MODELS, SECRET, Build, Script, complete
from tool_answers import ANSWERED, SIGNATURE, chat_answer, google_answer

from arche_magic.llm_providers.adapters import build_adapter
from arche_magic.llm_providers.adapters.openai_compatible import OpenAIAdapter
from arche_magic.llm_providers.request import Image, Message, Request
from arche_magic.llm_providers.types import Key
from arche_magic.llm_providers.wire_fields import unsuitable, unsupported_fields

WIRES = ("groq", "openai", "mistral", "google")
PNG = Image("image/png", b"\x89PNG\r\n\x1a\n")


def with_extra(**fields: Any) -> Request:
    return replace(HELLO, extra=fields)


def sent(script: Script, build: Build, wire: str, request: Request, model: str = "") -> Any:
    """The body of the request that goes out."""
    script.answer(
        200,
        google_answer(text="Hi") if wire == "google" else chat_answer(text="Hi", ending="stop"),
    )
    complete(build(wire), model or MODELS[wire], request)
    return script.received[-1]["body"]


def test_an_unknown_field_goes_to_services_on_openais_wire(script: Script, build: Build) -> None:
    """The field is sent unchanged, together with the engine's own fields."""
    fields = {"frobnicate": {"a": [1]}, "reasoning_effort": "low", "metadata": {"a": "b"}}
    for wire in ("groq", "openai"):
        body = sent(script, build, wire, replace(with_extra(**fields), temperature=0.5))
        assert body.items() >= {**fields, "temperature": 0.5, "model": MODELS[wire]}.items()


def test_stream_options_are_sent_only_with_streams(script: Script, build: Build) -> None:
    """Usage is always requested."""
    request = with_extra(stream_options={"include_usage": False, "include_obfuscation": False})
    assert "stream_options" not in sent(script, build, "openai", request)
    script.events({"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]})
    complete(build("openai"), MODELS["openai"], request, stream=True)
    assert script.received[-1]["body"]["stream_options"] == {
        "include_usage": True,
        "include_obfuscation": False,
    }


def test_mistral_gets_the_fields_that_its_sdk_has(script: Script, build: Build) -> None:
    """The fields keep their names."""
    fields = {
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "reasoning_effort": "high",
        "metadata": {"a": "b"},
        "prediction": {"type": "content", "content": "Hi"},
        "response_format": {"type": "json_object"},
    }
    assert unsupported_fields("mistral", with_extra(**fields)) == []
    assert sent(script, build, "mistral", with_extra(**fields)).items() >= fields.items()


@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        ("gemini-3.8-flash", "low", {"thinkingLevel": "LOW"}),
        ("gemini-3.8-flash", "none", {"thinkingBudget": 0}),
        ("gemini-flash-latest", "high", {"thinkingLevel": "HIGH"}),
        ("gemini-2.5-flash", "low", {"thinkingBudget": 1024}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
    ],
)
def test_reasoning_effort_sets_geminis_thinking(
    script: Script, build: Build, model: str, effort: str, thinking: dict[str, Any]
) -> None:
    """Effort becomes a level, or a budget of tokens before Gemini 3."""
    body = sent(script, build, "google", with_extra(reasoning_effort=effort), model)
    names = {"thinking_level": "thinkingLevel", "thinking_budget": "thinkingBudget"}
    config = body["generationConfig"]["thinkingConfig"]
    assert {names.get(name, name): value for name, value in config.items()} == thinking


@pytest.mark.parametrize(
    ("fields", "takers"),
    [
        ({"n": 2}, {"openai"}),
        ({"n": 1, "logprobs": False, "top_logprobs": 0}, set(WIRES)),
        ({"logprobs": True}, {"openai"}),
        ({"logit_bias": {"1": 2}}, {"openai"}),
        ({"user": "ada"}, {"openai", "groq"}),
        ({"metadata": {}}, {"openai", "groq", "mistral"}),
        ({"reasoning_effort": "low"}, set(WIRES)),
        ({"reasoning_effort": "huge"}, {"openai", "groq", "mistral"}),
        ({"response_format": {"type": "json_object"}}, set(WIRES)),
        ({"response_format": {"type": "grammar"}}, {"openai", "groq"}),
        ({"stream_options": {"include_usage": True}}, set(WIRES)),
        ({"stream_options": {"include_obfuscation": True}}, {"openai", "groq"}),
    ],
)
def test_each_wire_names_the_fields_that_it_does_not_support(
    fields: dict[str, Any], takers: set[str]
) -> None:
    """This depends only on the wire and the request."""
    request = with_extra(**fields)
    assert {wire for wire in WIRES if not unsupported_fields(wire, request)} == takers
    for wire in set(WIRES) - takers:
        assert re.match(f"takes no {next(iter(fields))}( other than |$)", unsuitable(wire, request))


def test_groq_takes_no_response_format_with_tools() -> None:
    """The other wires take both together."""
    request = replace(ANSWERED, extra={"response_format": {"type": "json_object"}})
    assert unsuitable("groq", request) == "takes no response_format together with tools"
    assert [wire for wire in WIRES if not unsupported_fields(wire, request)] == [
        "openai",
        "mistral",
        "google",
    ]


def test_names_of_participants_are_sent_only_to_openai(script: Script, build: Build) -> None:
    """Groq refuses them, and Mistral and Gemini have no place for them."""
    request = Request((Message("user", "Hi", name="Ada"),))
    assert [wire for wire in WIRES if not unsupported_fields(wire, request)] == ["openai"]
    assert sent(script, build, "openai", request)["messages"][0]["name"] == "Ada"


def test_image_addresses_are_sent_to_providers_that_fetch_them(
    script: Script, build: Build
) -> None:
    """A message without text has no text part. The requested detail is sent."""
    image = Image("", b"", "https://example.com/a.png", "low")
    request = Request((Message("user", "", (image, PNG)),))
    for wire in ("groq", "openai", "mistral"):
        linked, read = sent(script, build, wire, request)["messages"][0]["content"]
        assert linked["image_url"] == {"url": "https://example.com/a.png", "detail": "low"}
        assert read["image_url"] == {"url": PNG.data_uri}
    assert unsuitable("google", request) == "takes no addresses of images or detail of images"


def test_a_user_may_speak_right_after_a_result(script: Script, build: Build) -> None:
    """Mistral gets the assistant's turn between them that it requires."""
    request = replace(ANSWERED, messages=(*ANSWERED.messages, Message("user", "And Rome?")))
    roles = [turn["role"] for turn in sent(script, build, "openai", request)["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user"]
    roles = [turn["role"] for turn in sent(script, build, "mistral", request)["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "assistant", "user"]


def test_long_ids_are_shortened_for_openai(script: Script, build: Build) -> None:
    """OpenAI refuses more than 40 characters. Call and result get the same id."""
    call = replace(ANSWERED.messages[1].tool_calls[0], id="x" * 64)
    turns = (
        ANSWERED.messages[0],
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "3 degrees", tool_call_id="x" * 64),
    )
    _, called, result = sent(script, build, "openai", Request(turns))["messages"]
    assert called["tool_calls"][0]["id"] == result["tool_call_id"]
    assert len(result["tool_call_id"]) <= 40


def test_googles_service_on_openais_wire_gets_signatures() -> None:
    """They are sent in Google's own field. Calls of other models get the stand-in."""
    key = Key.of("gemini", "gemini_key_1", SECRET)
    url = "https://generativelanguage.googleapis.com/v1beta/openai/"
    adapter = build_adapter("openai", key, url)
    assert isinstance(adapter, OpenAIAdapter)
    turns = list(ANSWERED.messages)
    calls = (turns[1].tool_calls[0], replace(turns[1].tool_calls[1], signature=SIGNATURE))
    turns[1] = replace(turns[1], tool_calls=calls)
    body = adapter._parameters(replace(ANSWERED, messages=tuple(turns)), "m", False, None)
    one, two = body["messages"][1]["tool_calls"]
    stand_in = "skip_thought_signature_validator"
    assert one["extra_content"] == {"google": {"thought_signature": stand_in}}
    assert two["extra_content"] == {"google": {"thought_signature": SIGNATURE}}
    adapter.close()
