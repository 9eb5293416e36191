"""Conversations that end with the assistant: the model continues the text of that turn."""

from __future__ import annotations

from dataclasses import replace

import pytest
from adapter_calls import (
    MODELS,
    WIRES,
    Build,
    Script,
    chunk_of,
    complete,
    failure_of,
    reply_of,
    text_of,
)
from tool_answers import ASKED

from arche_magic.llm_providers.adapters.adapter import Adapter
from arche_magic.llm_providers.provider_failure import Remedy
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.schemas import schema_of
from arche_magic.llm_providers.tools import ToolCall
from arche_magic.sandbox import Sandbox

BEGUN = Request((Message("user", "Count to four."), Message("assistant", "One, two, ")))
GEMINIS_WORDS = (
    "Requests ending with a model turn are not supported unless the last part is a function "
    "response."
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_every_provider_takes_a_beginning_of_the_reply(
    sandbox: Sandbox, adapters: dict[str, Adapter], wire: str, stream: bool
) -> None:
    """Only Mistral needs a mark on it, and only at the end of the conversation."""
    assert text_of(complete(adapters[wire], MODELS[wire], BEGUN, stream=stream))
    turns = sandbox.requests[-1].body["contents" if wire == "google" else "messages"]
    assert [turn.get("prefix", False) for turn in turns] == [False, wire == "mistral"]
    longer = replace(BEGUN, messages=(*BEGUN.messages, Message("user", "Go on.")))
    complete(adapters[wire], MODELS[wire], longer, stream=stream)
    turns = sandbox.requests[-1].body["contents" if wire == "google" else "messages"]
    assert not any(turn.get("prefix") for turn in turns)


@pytest.mark.parametrize("wire", WIRES)
def test_a_tool_can_be_called_after_a_beginning_of_the_reply(
    sandbox: Sandbox, adapters: dict[str, Adapter], wire: str
) -> None:
    """Gemini requires both in one turn."""
    call = ToolCall("call00001", "add", "{}")
    rounds = (
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "3", tool_call_id=call.id),
    )
    request = replace(BEGUN, messages=(*BEGUN.messages, *rounds))
    assert text_of(complete(adapters[wire], MODELS[wire], request))
    if wire == "google":
        sent = sandbox.requests[-1].body["contents"]
        assert [turn["role"] for turn in sent] == ["user", "model", "user"]


@pytest.mark.parametrize("wire", WIRES)
def test_an_empty_turn_of_the_assistant_does_not_fail(
    adapters: dict[str, Adapter], sandbox: Sandbox, wire: str
) -> None:
    """Some chat programs send it at the end, and it may precede the user's next message."""
    empty = Message("assistant", "")
    for messages in ((BEGUN.messages[0], empty), (BEGUN.messages[0], empty, BEGUN.messages[0])):
        assert text_of(complete(adapters[wire], MODELS[wire], Request(messages)))
        if wire in ("google", "mistral"):
            sent = sandbox.requests[-1].body["contents" if wire == "google" else "messages"]
            assert {turn["role"] for turn in sent} == {"user"}


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["One, two,", " three, four."], "three, four."),
        (["", "One", ", two, thr", "ee, four."], "three, four."),
        (["One, two, ", "three, four."], "three, four."),
        (["One, two, three, four."], "three, four."),
        (["three,", " four."], "three, four."),
        (["One, ", "three, four."], "One, three, four."),
        (["One", ""], "One"),
    ],
)
def test_mistrals_repetition_of_the_beginning_is_left_out(
    script: Script, build: Build, pieces: list[str], text: str
) -> None:
    """As with the other providers, a reply is only what follows. Other texts are unchanged."""
    *first, last = pieces
    chunks = [chunk_of("mistral", piece) for piece in first]
    script.events(*chunks, chunk_of("mistral", last, "stop"))
    assert text_of(complete(build("mistral"), "m", BEGUN, stream=True)) == text
    script.answer(200, reply_of("mistral", "".join(pieces)))
    assert text_of(complete(build("mistral"), "m", BEGUN)) == text


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        ("google", GEMINIS_WORDS),
        ("openai", "This model does not support assistant message prefill."),
    ],
)
def test_a_model_may_refuse_a_beginning_of_the_reply(
    script: Script, build: Build, wire: str, words: str
) -> None:
    """The refusal says nothing about tools, nor about the schema."""
    script.answer(400, {"error": {"message": words, "type": "invalid_request_error"}})
    request = replace(ASKED, messages=BEGUN.messages, schema=schema_of("n int"))
    failure = failure_of(build(wire), request=request)
    assert (failure.lacks, failure.remedy, failure.said) == ("", Remedy.FIX_REQUEST, words)
