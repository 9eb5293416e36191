"""Tools and their calls on all four wires, through the real SDKs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from adapter_calls import MODELS, WIRES, Build, Script, complete, failure_of, text_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_answers import (
    ANSWERED,
    ASKED,
    OSLO,
    SIGNATURE,
    TIME,
    WEATHER,
    arguments_of,
    chat_answer,
    chat_call,
    chat_chunk,
    google_answer,
)

from arche_magic.llm_providers.adapters.replies import whole_calls
from arche_magic.llm_providers.provider_failure import Remedy
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.tools import ToolCall

CHAT_WIRES = ("groq", "openai", "mistral")


def sent(script: Script) -> dict[str, Any]:
    """The body of the last request."""
    body: dict[str, Any] = script.received[-1]["body"]
    return body


def answer_calls(script: Script, wire: str, *, stream: bool) -> None:
    """Answer with two calls in the provider's format."""
    if wire == "google":
        calls = (
            {"id": "g1", "name": "get_weather", "args": {"city": "Oslo"}},
            {"name": "get_time"},
        )
        answer = google_answer(*calls)
        script.events(answer, done=False) if stream else script.answer(200, answer)
        return
    one, two = chat_call("abcdefghi", "get_weather", OSLO), chat_call("jklmnopqr", "get_time", "{}")
    if not stream:
        script.answer(200, chat_answer(one, two))
        return
    script.events(
        chat_chunk({"index": 0, **chat_call("abcdefghi", "get_weather", OSLO[:6])}),
        chat_chunk({"index": 0, "function": {"arguments": OSLO[6:]}}),
        chat_chunk({"index": 1, **two}),
        chat_chunk(ending="tool_calls"),
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_calls_of_tools_arrive_whole(script: Script, build: Build, wire: str, stream: bool) -> None:
    """A reply without text is valid. Its calls are in the last completion."""
    answer_calls(script, wire, stream=stream)
    completions = complete(build(wire), MODELS[wire], ASKED, stream=stream)
    last = completions[-1]
    assert text_of(completions) == ""
    assert last.finish_reason == "tool_calls"
    one, two = last.tool_calls
    assert (one.name, arguments_of(one)) == ("get_weather", {"city": "Oslo"})
    assert (two.name, arguments_of(two)) == ("get_time", {})
    assert len({one.id, two.id, ""}) == 3
    assert one.signature == (SIGNATURE if wire == "google" else "")
    assert two.signature == ""


@pytest.mark.parametrize("wire", CHAT_WIRES)
def test_tools_are_sent_in_openais_format(script: Script, build: Build, wire: str) -> None:
    """The request has the definitions, the choice, and whether calls may be parallel."""
    script.answer(200, chat_answer(chat_call("abcdefghi", "get_time", "{}")))
    request = replace(ASKED, tool_choice="get_time", parallel_tool_calls=False)
    complete(build(wire), MODELS[wire], request)
    weather, time = (tool["function"] for tool in sent(script)["tools"])
    assert weather["name"] == "get_weather"
    assert weather["description"] == "The weather of a city now."
    assert weather["parameters"] == WEATHER.schema
    assert time["parameters"] == TIME.schema
    assert sent(script)["tool_choice"] == {"type": "function", "function": {"name": "get_time"}}
    assert sent(script)["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("choice", "calling"),
    [
        ("", None),
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ("get_time", {"mode": "ANY", "allowedFunctionNames": ["get_time"]}),
    ],
)
def test_tools_are_sent_in_googles_format(
    script: Script, build: Build, choice: str, calling: dict[str, Any] | None
) -> None:
    """The request has function declarations with JSON Schemas, and the choice as a mode."""
    script.answer(200, google_answer({"name": "get_time", "args": {}}))
    complete(build("google"), MODELS["google"], replace(ASKED, tool_choice=choice))
    (tools,) = sent(script)["tools"]
    weather, time = tools["functionDeclarations"]
    # As today's SDK spells it; Google's JSON takes both spellings.
    assert weather["parameters_json_schema"] == WEATHER.schema
    # Gemini refuses an object without properties.
    assert time == {"name": "get_time"}
    assert sent(script).get("toolConfig", {}).get("functionCallingConfig") == calling


@pytest.mark.parametrize("wire", ["groq", "openai"])
def test_results_keep_the_ids_of_their_calls(script: Script, build: Build, wire: str) -> None:
    """The assistant's turn has no content, only its calls."""
    script.answer(200, chat_answer(text="Fine.", ending="stop"))
    complete(build(wire), MODELS[wire], ANSWERED)
    _, called, weather, time = sent(script)["messages"]
    assert called["content"] is None
    assert [call["id"] for call in called["tool_calls"]] == [
        "call_0123456789abcdef",
        "call_fedcba9876543210",
    ]
    assert called["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": OSLO}
    assert (weather["role"], weather["content"]) == ("tool", "3 degrees")
    assert weather["tool_call_id"] == "call_0123456789abcdef"
    assert time["tool_call_id"] == "call_fedcba9876543210"


def test_mistral_gets_ids_of_nine_characters(script: Script, build: Build) -> None:
    """Ids of other providers become nine letters and digits, the same for call and result."""
    script.answer(200, chat_answer(text="Fine.", ending="stop"))
    complete(build("mistral"), MODELS["mistral"], ANSWERED)
    _, called, *results = sent(script)["messages"]
    ids = [call["id"] for call in called["tool_calls"]]
    assert all(len(one) == 9 and one.isalnum() and one.isascii() for one in ids)
    assert len(set(ids)) == 2
    assert [result["tool_call_id"] for result in results] == ids
    own = Message("assistant", "", tool_calls=(ToolCall("aB3dE6gH9", "get_time"),))
    result = Message("tool", "noon", tool_call_id="aB3dE6gH9")
    complete(build("mistral"), MODELS["mistral"], Request((Message("user", "Hi"), own, result)))
    assert sent(script)["messages"][1]["tool_calls"][0]["id"] == "aB3dE6gH9"


def test_gemini_accepts_calls_of_other_providers(script: Script, build: Build) -> None:
    """The first call of a turn gets Google's documented stand-in for a signature."""
    script.answer(200, google_answer(text="Fine."))
    complete(build("google"), MODELS["google"], ANSWERED)
    _, called, results = sent(script)["contents"]
    assert called["role"] == "model"
    one, two = called["parts"]
    assert one["functionCall"]["args"] == {"city": "Oslo"}
    assert one["thoughtSignature"] == "skip_thought_signature_validator"
    assert "thoughtSignature" not in two
    # All results of a turn belong into one content.
    weather, time = (part["functionResponse"] for part in results["parts"])
    assert (weather["name"], weather["response"]) == ("get_weather", {"output": "3 degrees"})
    assert time["id"] == two["functionCall"]["id"] == "call_fedcba9876543210"


@pytest.mark.parametrize("model", ["gemini-3.8-flash", "gemini-2.5-flash"])
def test_gemini_gets_its_own_signatures_back(script: Script, build: Build, model: str) -> None:
    """They are sent back unchanged, also to models before Gemini 3."""
    script.answer(200, google_answer(text="Fine."))
    call = ToolCall("g1", "get_time", "{}", SIGNATURE)
    turns = (
        Message("user", "Hi"),
        Message("assistant", "A moment.", tool_calls=(call, ToolCall("g2", "get_time"))),
        Message("tool", "noon", tool_call_id="g1"),
        Message("tool", "noon", tool_call_id="g2"),
    )
    complete(build("google"), model, Request(turns, tools=(TIME,)))
    text, one, two = sent(script)["contents"][1]["parts"]
    assert text == {"text": "A moment."}
    assert one["thoughtSignature"] == SIGNATURE
    assert "thoughtSignature" not in two


def test_models_before_gemini_3_get_no_stand_in(script: Script, build: Build) -> None:
    """These models need no signature."""
    script.answer(200, google_answer(text="Fine."))
    complete(build("google"), "gemini-2.5-flash", ANSWERED)
    assert "thoughtSignature" not in json.dumps(sent(script))


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"])
def test_a_broken_call_of_gemini_is_tried_elsewhere(
    script: Script, build: Build, reason: str
) -> None:
    """The reply has nothing that can be run."""
    script.answer(200, google_answer(ending=reason))
    assert failure_of(build("google"), request=ASKED).remedy is Remedy.RETRY_LATER


@pytest.mark.parametrize("wire", CHAT_WIRES)
@pytest.mark.parametrize(
    ("name", "arguments"), [("get_wether", "{}"), ("get_weather", '{"city": Oslo'), ("f", "")]
)
def test_a_call_is_passed_on_as_the_model_wrote_it(
    script: Script, build: Build, wire: str, name: str, arguments: str
) -> None:
    """The caller judges unknown tools and broken arguments. Missing arguments become `{}`."""
    script.answer(200, chat_answer(chat_call("abcdefghi", name, arguments), ending="stop"))
    (completion,) = complete(build(wire), MODELS[wire], ASKED)
    assert completion.tool_calls == (ToolCall("abcdefghi", name, arguments or "{}"),)
    assert completion.finish_reason == "tool_calls"


@pytest.mark.parametrize("wire", CHAT_WIRES)
@pytest.mark.parametrize("call_id", ["", "abcdefghi"])
def test_calls_of_a_complete_reply_are_kept_separate(
    script: Script, build: Build, wire: str, call_id: str
) -> None:
    """Each entry is a call, even without ids, with equal ids, or with broken arguments."""
    texts = ['{"city": Oslo', "{}", '{"city": "Rome"}']
    calls = [chat_call(call_id, "get_weather", text) for text in texts]
    script.answer(200, chat_answer(*calls))
    (completion,) = complete(build(wire), MODELS[wire], ASKED)
    assert [call.arguments for call in completion.tool_calls] == texts
    assert len({call.id for call in completion.tool_calls} - {""}) == 3


@pytest.mark.parametrize("wire", CHAT_WIRES)
def test_the_finish_reason_tool_calls_needs_a_call(script: Script, build: Build, wire: str) -> None:
    """Without a call and without text, the next route is tried."""
    script.answer(200, chat_answer())
    assert failure_of(build(wire), request=ASKED).remedy is Remedy.RETRY_LATER


CALLS = st.lists(
    st.tuples(
        st.text("abcdef", min_size=1, max_size=6),
        st.dictionaries(st.text(max_size=5), st.text(max_size=9) | st.integers(), max_size=3),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)  # a busy machine takes longer
@given(CALLS, st.data())
def test_the_pieces_of_a_stream_do_not_change_its_calls(
    calls: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    """Servers cut streams anywhere, and may repeat ids or omit indexes."""
    repeats = data.draw(st.booleans())
    has_index = data.draw(st.booleans())
    pieces: list[dict[str, Any]] = []
    expected = []
    for number, (name, arguments) in enumerate(calls):
        text = json.dumps(arguments)
        expected.append(ToolCall(f"call_{number}", name, text))
        cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=5).map(sorted))
        bounds = list(zip([0, *cuts], [*cuts, len(text)], strict=True))
        for place, (start, end) in enumerate(bounds):
            piece: dict[str, Any] = {"function": {"arguments": text[start:end]}}
            if has_index:
                piece["index"] = number
            if not place or repeats:
                piece |= {"id": f"call_{number}", "type": "function"}
                piece["function"]["name"] = name
            pieces.append(piece)
    assert whole_calls(pieces) == tuple(expected)


@pytest.mark.parametrize(
    "places",
    [
        pytest.param([{"index": 0}, {"index": 0}], id="all with index 0"),
        pytest.param([{}, {}], id="no index"),
        pytest.param([{"index": 0, "id": "a"}, {"index": 0, "id": "b"}], id="index 0, other ids"),
        pytest.param([{"id": "a"}, {"id": "b"}], id="ids alone"),
        pytest.param([{"id": "null"}, {"id": "null"}], id="Mistral's missing id"),
    ],
)
def test_badly_numbered_calls_are_kept_separate(places: list[dict[str, Any]]) -> None:
    """Servers that send one call per chunk may number them badly, or not at all."""
    arguments = ('{"city": "Oslo"}', '{"city": "Rome"}')
    pieces = [
        {**place, "function": {"name": "get_weather", "arguments": text}}
        for place, text in zip(places, arguments, strict=True)
    ]
    calls = whole_calls(pieces)
    assert tuple(call.arguments for call in calls) == arguments
    assert len({call.id for call in calls}) == 2
