"""Fields of chat completions reach the provider, or the request goes elsewhere or fails."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from provider_parts import PROVIDERS, Start, asked
from pydantic import BaseModel

import arche_magic

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
PIXEL = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00"
).decode()


def tool(name: str) -> Any:
    """A tool with one argument, in OpenAI's format."""
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "parameters": city}}


TOOLS = [tool("weather"), tool("local_time")]
QUESTION: list[Any] = [{"role": "user", "content": "Ask weather and local_time, city=Oslo"}]


class Person(BaseModel):
    """The class for a structured reply."""

    name: str
    age: int


# --- tools


@pytest.mark.parametrize("first", PROVIDERS)
def test_tool_calls_work_even_if_another_provider_answers(sandbox: Sandbox, first: str) -> None:
    """Two parallel calls keep their ids; every provider accepts their results."""
    client = arche_magic.openai_client()
    choice = client.chat.completions.create(model=first, messages=QUESTION, tools=TOOLS).choices[0]
    calls: list[Any] = choice.message.tool_calls or []
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert [call.function.name for call in calls] == ["weather", "local_time"]
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Oslo"}] * 2
    assert len({call.id for call in calls}) == 2
    results: list[Any] = [
        {"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name}: fine"}
        for call in calls
    ]
    asked_with: list[Any] = [*QUESTION, choice.message.model_dump(exclude_none=True), *results]
    for second in PROVIDERS:
        end = client.chat.completions.create(model=second, messages=asked_with, tools=TOOLS)
        text = end.choices[0].message.content or ""
        assert "weather: fine" in text, second
        assert "local_time: fine" in text, second


@pytest.mark.parametrize("provider", PROVIDERS)
def test_tool_calls_of_a_stream_are_sent_in_one_chunk(sandbox: Sandbox, provider: str) -> None:
    """Each call is complete and has its index. The official helper for streams reads them too."""
    client = arche_magic.openai_client()
    stream = client.chat.completions.create(
        model=provider, messages=QUESTION, tools=TOOLS, stream=True
    )
    chunks = list(stream)
    (calls,) = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
    assert [(call.index, call.function.name) for call in calls if call.function] == [
        (0, "weather"),
        (1, "local_time"),
    ]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert stream.response.headers["x-arche-route"].startswith(f"{provider} ")
    with client.chat.completions.stream(
        model=provider, messages=QUESTION, tools=TOOLS
    ) as collected:
        message = collected.get_final_completion().choices[0].message
    assert [call.function.name for call in message.tool_calls or []] == ["weather", "local_time"]


def test_tool_choice_is_passed_on(sandbox: Sandbox) -> None:
    """One tool by name, none, and at most one at a time."""
    client = arche_magic.openai_client(provider="openai")

    def called(**fields: Any) -> list[str]:
        completion = client.chat.completions.create(
            model="auto", messages=QUESTION, tools=TOOLS, **fields
        )
        return [call.function.name for call in completion.choices[0].message.tool_calls or []]  # type: ignore[union-attr]

    one = {"type": "function", "function": {"name": "local_time"}}
    assert called(tool_choice=one) == ["local_time"]
    assert called(tool_choice="none") == []
    assert called(parallel_tool_calls=False) == ["weather"]


def test_results_without_a_call_are_refused(sandbox: Sandbox) -> None:
    """Nothing is sent."""
    alone: list[Any] = [{"role": "tool", "tool_call_id": "call_1", "content": "fine"}]
    with pytest.raises(openai.BadRequestError, match="call_1"):
        arche_magic.openai_client().chat.completions.create(model="auto", messages=QUESTION + alone)
    assert sandbox.requests == ()


# --- schemas


# The client's own, when it sends its message back.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_parse_returns_a_pydantic_model(sandbox: Sandbox, provider: str) -> None:
    """The official `parse`: its schema is sent, the reply fits it, and can be sent back."""
    client = arche_magic.openai_client()
    completion = client.chat.completions.parse(
        model=provider, messages=HELLO, response_format=Person
    )
    message: Any = completion.choices[0].message
    assert isinstance(message.parsed, Person)
    assert "age" in json.dumps(sandbox.requests[-1].body)
    client.chat.completions.create(model=provider, messages=[*HELLO, message, *HELLO])


# --- images


def test_an_image_reaches_a_model_with_vision(sandbox: Sandbox) -> None:
    """It is a part of a message. Routes without vision are skipped."""
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]
    completion: Any = arche_magic.openai_client().chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": content}],  # type: ignore[list-item,misc]
    )
    assert completion.arche["route"]["provider"] != "groq"
    assert completion.arche["attempts"][0]["error"] == "takes no images"
    assert PIXEL in json.dumps(sandbox.requests[-1].body)


def test_an_image_that_no_route_accepts_is_refused(start: Start) -> None:
    """The message names the models, and the field is `messages`."""
    sandbox = start(keys={"groq": 1})
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    with pytest.raises(openai.BadRequestError, match="takes no images") as caught:
        arche_magic.openai_client().chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": [part]}],  # type: ignore[list-item,misc]
        )
    assert caught.value.param == "messages"
    assert sandbox.requests == ()


# --- other fields


def test_fields_are_passed_on_unchanged(sandbox: Sandbox) -> None:
    """OpenAI's wire gets them even if the engine has no such option."""
    fields: dict[str, Any] = {
        "temperature": 0.3, "top_p": 0.9, "stop": ["END"], "seed": 7, "frequency_penalty": 0.1,
        "presence_penalty": 0.2, "user": "somebody", "logit_bias": {"50256": -100},
        "response_format": {"type": "json_object"},
    }  # fmt: skip
    arche_magic.openai_client().chat.completions.create(
        model="openai", messages=[{"role": "user", "content": "JSON, please"}], **fields
    )
    sent = sandbox.requests[-1].body
    assert {name: sent.get(name) for name in fields} == fields


def test_max_tokens_has_two_names(sandbox: Sandbox) -> None:
    """`max_completion_tokens` means the same for every provider."""
    client = arche_magic.openai_client()
    for name in ("max_tokens", "max_completion_tokens"):
        client.chat.completions.create(model="mistral", messages=HELLO, **{name: 40})  # type: ignore[call-overload]
    assert [request.body["max_tokens"] for request in sandbox.requests] == [40, 40]


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices_and_their_log_probabilities_are_returned(
    sandbox: Sandbox, stream: bool
) -> None:
    """A route with support answers, and the attempts name the routes without support."""
    client = arche_magic.openai_client()
    asked_for: dict[str, Any] = {"n": 2, "logprobs": True, "stream": stream}
    answer: Any = client.chat.completions.create(model="auto", messages=HELLO, **asked_for)
    if stream:
        chunks = list(answer)
        texts = ["", ""]
        for chunk in chunks:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        probabilities, arche = chunks[0].choices[0].logprobs, chunks[-1].arche
    else:
        texts = [choice.message.content for choice in answer.choices]
        probabilities, arche = answer.choices[0].logprobs, answer.arche
    assert [bool(text) for text in texts] == [True, True]
    assert probabilities.content
    assert arche["route"]["provider"] == "openai"
    assert arche["attempts"][0]["error"] == "takes no logprobs or n"


@pytest.mark.parametrize(
    ("provider", "field", "value"),
    [("groq", "n", 2), ("mistral", "logprobs", True), ("google", "my_field", 1)],
)
def test_a_field_that_no_route_supports_is_named(
    sandbox: Sandbox, provider: str, field: str, value: Any
) -> None:
    """It is never dropped silently."""
    with pytest.raises(openai.BadRequestError, match=f"takes no {field}; \\w+ does") as caught:
        arche_magic.openai_client().chat.completions.create(
            model=provider, messages=HELLO, extra_body={field: value}
        )
    assert caught.value.param == field
    assert asked(sandbox) == []
