"""Tools through each SDK: calls, results, streams, and what a failed call looks like."""

from __future__ import annotations

import json
import re

import groq
import pytest
from google.genai import types as genai_types
from sdk_clients import PROVIDERS

BOTH = "get_weather city=Oslo days=3, then get_time city=Paris"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_tools_that_the_prompt_names_are_called(shared, connect, provider, streamed):
    """One reply calls several named tools, with values from the prompt."""
    client = connect(shared, provider)
    usage = {"stream_options": {"include_usage": True}} if provider == "openai" else {}
    outcome = client.call_tools(BOTH, streamed=streamed, **(usage if streamed else {}))
    assert [(call.name, call.arguments) for call in outcome.calls] == [
        ("get_weather", {"city": "Oslo", "days": 3}),
        ("get_time", {"city": "Paris"}),
    ]
    assert not outcome.text
    assert outcome.finish == ("STOP" if provider == "google" else "tool_calls")
    assert outcome.output_tokens > 10


@pytest.mark.parametrize("provider", PROVIDERS)
def test_results_are_quoted_in_the_answer(shared, connect, provider):
    """After the results, the model answers with a text that holds each of them."""
    client = connect(shared, provider)
    called = client.call_tools(BOTH)
    outcome = client.answer_tools(BOTH, called, ["4 degrees_C", "noon"])
    assert not outcome.calls
    assert "get_weather answered: 4 degrees_C" in outcome.text
    assert "get_time answered: noon" in outcome.text


@pytest.mark.parametrize("provider", PROVIDERS)
def test_ids_have_the_providers_form(shared, connect, provider):
    """Ids differ between calls; Mistral's have nine characters."""
    calls = connect(shared, provider).call_tools(BOTH).calls
    pattern = {"mistral": "[a-zA-Z0-9]{9}", "google": "[a-z0-9]{8}"}.get(provider, "call_.{24}")
    assert all(re.fullmatch(pattern, call.id) for call in calls)
    assert calls[0].id != calls[1].id


@pytest.mark.parametrize(("prompt", "choice", "names"), [
    ("How are you?", "auto", ["get_weather"]),
    ("How are you? [no tools]", "auto", []),
    ("get_time please", "auto", ["get_time"]),
    ("get_time please", "none", []),
    ("How are you? [no tools]", "required", ["get_weather"]),
    ("get_weather please", "get_time", ["get_time"]),
])  # fmt: skip
@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_choice_of_tools_is_respected(shared, connect, provider, prompt, choice, names):
    """The first tool is called unless the prompt or `tool_choice` says otherwise."""
    outcome = connect(shared, provider).call_tools(prompt, choice=choice)
    assert [call.name for call in outcome.calls] == names
    assert bool(outcome.text) == (not names)


@pytest.mark.parametrize("provider", ["groq", "mistral", "openai"])
def test_parallel_calls_can_be_forbidden(shared, connect, provider):
    """With parallel_tool_calls=False, only the first named tool is called."""
    outcome = connect(shared, provider).call_tools(BOTH, parallel_tool_calls=False)
    assert [call.name for call in outcome.calls] == ["get_weather"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_one_tool_is_called_for_each_pair_of_values(shared, connect, provider):
    """A tool that is named twice with different values is called twice."""
    outcome = connect(shared, provider).call_tools(
        "get_time city=Rome, get_time city='Los Angeles'"
    )
    assert [call.arguments["city"] for call in outcome.calls] == ["Rome", "Los Angeles"]


def test_arguments_with_a_default_are_left_out(shared, connect):
    """A function keeps its default unless the prompt gives another value."""
    fields = {"city": {"type": "string"}, "unit": {"type": "string", "default": "C"}}
    function = {"name": "warmth", "parameters": {"type": "object", "properties": fields}}
    client = connect(shared, "groq")

    def arguments(prompt: str) -> str:
        chunks = client.stream(prompt, tools=[{"type": "function", "function": function}])
        calls = [
            c for chunk in chunks if chunk.choices for c in chunk.choices[0].delta.tool_calls or ()
        ]
        return "".join(call.function.arguments for call in calls)

    assert json.loads(arguments("warmth city=Oslo")) == {"city": "Oslo"}
    assert json.loads(arguments("warmth city=Oslo unit=F")) == {"city": "Oslo", "unit": "F"}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_forced_choice_after_results_takes_the_next_tool(shared, connect, provider):
    """A loop that requires a tool reaches every tool."""
    client = connect(shared, provider)
    called = client.call_tools("get_weather city=Oslo", choice="required")
    outcome = client.answer_tools("get_weather city=Oslo", called, ["rain"], choice="required")
    assert [call.name for call in outcome.calls] == ["get_time"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_tools_and_calls_count_as_tokens(shared, connect, provider):
    """Definitions are input tokens, calls are output tokens and then input tokens."""
    client = connect(shared, provider)
    bare = client.ask("get_weather")
    called = client.call_tools("get_weather")
    assert called.input_tokens > bare.input_tokens + 30
    again = client.answer_tools("get_weather", called, ["x"])
    assert again.input_tokens > called.input_tokens + 8


def test_openai_streams_the_name_before_the_arguments(shared, connect):
    """Each call begins with id and name; the pieces of its arguments follow by index."""
    client = connect(shared, "openai")
    parts = [
        part
        for chunk in client.stream(BOTH, tools=client.tools())
        for part in chunk.choices[0].delta.tool_calls or ()
    ]
    heads = [part for part in parts if part.id]
    assert [(part.index, part.function.name, part.function.arguments) for part in heads] == [
        (0, "get_weather", ""),
        (1, "get_time", ""),
    ]
    assert len(parts) > 6
    assert all(part.function.name is None for part in parts if part not in heads)


def test_groq_streams_each_call_whole(shared, connect):
    """One chunk for each call."""
    client = connect(shared, "groq")
    chunks = list(client.stream(BOTH, tools=client.tools()))
    calls = [chunk.choices[0].delta.tool_calls for chunk in chunks if chunk.choices]
    assert [len(call) for call in calls if call] == [1, 1]


def test_mistral_streams_all_calls_with_the_finish_reason(shared, connect):
    """One chunk has all calls and the finish reason."""
    client = connect(shared, "mistral")
    chunks = [event.data for event in client.stream(BOTH, tools=client.tools())]
    (last,) = [chunk for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert last is chunks[-1]
    assert [call.index for call in last.choices[0].delta.tool_calls] == [0, 1]
    assert last.choices[0].finish_reason == "tool_calls"


def test_max_tokens_cut_the_arguments(shared, connect):
    """A reply that is too long for its calls ends within them, with finish reason length."""
    client = connect(shared, "openai")
    reply = client._create("hi", "gpt-4.1-mini", stream=False, tools=client.tools(), max_tokens=5)
    assert reply.choices[0].finish_reason == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(reply.choices[0].message.tool_calls[0].function.arguments)


@pytest.mark.parametrize(("most", "names"), [(1, []), (15, ["get_weather", "get_time"])])
def test_max_tokens_cut_the_last_call(shared, connect, most, names):
    """Earlier calls are complete, and a call whose name does not fit is left out."""
    client = connect(shared, "openai")
    reply = client.reply(BOTH, "gpt-4.1-mini", tools=client.tools(), max_tokens=most)
    choice = reply.choices[0]
    assert choice.finish_reason == "length"
    calls = choice.message.tool_calls or []
    assert [call.function.name for call in calls] == names
    for call in calls[:-1]:
        assert json.loads(call.function.arguments)
    for call in calls[-1:]:
        with pytest.raises(json.JSONDecodeError):
            json.loads(call.function.arguments)


def test_gemini_2_calls_have_no_id_and_no_signature(shared, connect):
    """Only Gemini 3 and later sign their calls and number them."""
    client = connect(shared, "google")
    for model, signed in (("gemini-2.5-flash", False), ("gemini-3.5-flash", True)):
        first, second = client.call_tools(BOTH, model=model).content.parts
        assert (first.thought_signature is not None) == signed
        assert (first.function_call.id is not None) == signed
        assert second.thought_signature is None


def test_gemini_3_needs_its_signatures_back(shared, connect):
    """Without the signature, or with that of another call, the next request is refused."""
    client = connect(shared, "google")
    called = client.call_tools(BOTH)
    first, second = called.content.parts
    signature, first.thought_signature = first.thought_signature, None
    refused = client.refused_answer(BOTH, called, ["a", "b"])
    assert refused.status == 400
    assert "missing a thought_signature" in refused.message
    assert "`default_api:get_weather` , position 2" in refused.message
    first.thought_signature, second.thought_signature = signature, signature
    refused = client.refused_answer(BOTH, called, ["a", "b"])
    assert refused.message == "Thought signature is not valid."
    second.thought_signature = None
    assert client.answer_tools(BOTH, called, ["a", "b"]).text


def test_gemini_accepts_calls_of_other_models_with_the_documented_placeholder(shared, connect):
    """A call without a signature passes with the value that skips the check."""
    client = connect(shared, "google")
    called = client.call_tools("get_time")
    called.content.parts[0].thought_signature = b"skip_thought_signature_validator"
    assert client.answer_tools("get_time", called, ["noon"]).text


def test_gemini_checks_signatures_of_the_current_turn_only(shared, connect):
    """Calls before the last words of the user need none."""
    client = connect(shared, "google")
    called = client.call_tools("get_time")
    called.content.parts[0].thought_signature = None
    history = client.history("get_time", called, ["noon"])
    history.append(genai_types.Content(role="user", parts=[genai_types.Part(text="And now?")]))
    assert client.sdk.models.generate_content(model="gemini-3.8-flash", contents=history).text


@pytest.mark.parametrize("provider", PROVIDERS)
def test_limits_count_requests_with_tools(start, connect, clock, provider):
    """A call and the answer after it are two requests, and the third gets the 429."""
    name = "requests_per_day" if provider == "groq" else "requests_per_minute"
    sandbox = start(limits={provider: {name: 2}}, clock=clock)
    client = connect(sandbox, provider)
    called = client.call_tools("get_time")
    client.answer_tools("get_time", called, ["noon"])
    assert client.refused_answer("get_time", called, ["noon"]).status == 429


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_groq_fails_with_tool_use_failed(start, connect, streamed):
    """A broken call is a 400 with the text of the model, or an error in the stream."""
    sandbox = start()
    sandbox.fail("groq", "tool_use_failed")
    client = connect(sandbox, "groq")
    with pytest.raises(groq.APIError) as caught:
        client.call_tools("get_time", streamed=streamed)
    error = caught.value.body["error"] if not streamed else caught.value.body
    assert error["code"] == "tool_use_failed"
    assert error["failed_generation"] == ("" if streamed else "<function=get_weather>{")
    assert isinstance(caught.value, groq.BadRequestError) != streamed
    assert client.call_tools("get_time").calls


def test_gemini_ends_a_broken_call_with_its_finish_reason(start, connect):
    """The reply has neither text nor call."""
    sandbox = start()
    sandbox.fail("google", "tool_use_failed")
    outcome = connect(sandbox, "google").call_tools("get_time")
    assert (outcome.finish, outcome.calls, outcome.text) == ("MALFORMED_FUNCTION_CALL", [], None)


@pytest.mark.parametrize("provider", ["openai", "mistral"])
def test_openai_and_mistral_send_broken_arguments(start, connect, provider):
    """The arguments of a broken call are not JSON."""
    sandbox = start()
    sandbox.fail(provider, "tool_use_failed")
    client = connect(sandbox, provider)
    with pytest.raises(json.JSONDecodeError):
        client.call_tools("get_time")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_failure_of_tools_does_not_affect_other_requests(start, connect, provider):
    """The failure of calls changes no other reply."""
    sandbox = start()
    sandbox.fail(provider, "tool_use_failed")
    assert connect(sandbox, provider).ask().text
