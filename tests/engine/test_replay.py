"""The address of a kept reply depends on everything that was asked, and on nothing else."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arche_magic.llm_providers.reply_cache.replay import address, addresses_like
from arche_magic.llm_providers.request import Image, Message, Request
from arche_magic.llm_providers.schemas import schema_of
from arche_magic.llm_providers.tools import Tool, ToolCall

HELLO = Request((Message("user", "Hello"),))
ASKED: dict[str, list[Any]] = {
    "messages": [
        (Message("user", "Hello "),),
        (Message("system", "Hello"),),
        (Message("system", "Be brief."), Message("user", "Hello")),
        (Message("user", "Hello"), Message("assistant", "Hi"), Message("user", "Hello")),
        (Message("user", "Hel"), Message("user", "lo")),
        (Message("user", "Hello"), Message("assistant", "", tool_calls=(ToolCall("1", "look"),))),
        (Message("user", "Hello"), Message("tool", "12", tool_call_id="1")),
    ],
    "model": ["gpt-oss-120b", "groq/gpt-oss-120b"],
    "max_tokens": [1, 100],
    "temperature": [0.0, 1.0],
    "top_p": [0.0, 0.5],
    "stop": [("a",), ("a", "b"), ("b", "a"), ("ab",)],
    "seed": [0, 1],
    "schema": [schema_of("a int"), schema_of("a int, b str"), schema_of("a float")],
    "same_model": [True],
    "tools": [(Tool("look"),), (Tool("look", "Looks."),), (Tool("look"), Tool("hear"))],
    "tool_choice": ["none", "look"],
    "parallel_tool_calls": [False, True],
    "extra": [{"n": 2}, {"n": 3}, {"logit_bias": {"50256": -100}}],
    "inputs": [("a text",), ("another text",)],
    "dimensions": [256],
}
HOW = {
    "patience": [0.0],
    "timeout": [1.0],
    "fallback_on_filter": [True],
    "replay": ["keep", "only"],
    "fresh": [True],
    "reserve": [0.1],
    "private": [True],
    "expected_tokens": [100],
    "tag": ["labelling v2"],
    "counts_as": [3],
}


def variants(table: dict[str, list[Any]]) -> list[Request]:
    return [replace(HELLO, **{name: value}) for name in table for value in table[name]]


def test_every_difference_in_a_request_changes_its_address() -> None:
    """One reply is never used for a different request."""
    requests = [HELLO, *variants(ASKED)]
    places = [address(request) for request in requests]
    places += [address(HELLO, ["groq"]), address(HELLO, ["mistral"])]
    places += [address(HELLO, ["groq", "mistral"])]
    assert len(set(places)) == len(places)


def test_options_that_do_not_change_the_question_do_not_change_its_address() -> None:
    """Patience, timeouts, and whether replies are kept."""
    assert {address(request) for request in variants(HOW)} == {address(HELLO)}
    assert address(HELLO, ["groq", "mistral"]) == address(HELLO, ["mistral", "groq", "groq"])
    assert address(replace(HELLO, provider="groq"), ["groq"]) == address(HELLO, ["groq"])


def test_every_field_of_a_request_is_listed_here() -> None:
    """A new field must be added to one of the tables above."""
    assert {field.name for field in fields(Request)} == {*ASKED, *HOW, "provider"}


def test_addresses_do_not_change_between_versions() -> None:
    """Files that users keep and share stay valid."""
    assert address(HELLO) == "c88e151191733016aa8b8637119227325d14f787b881fd6ea379fee2b64db461"


@dataclass(frozen=True)
class Picture:
    content: bytes
    caption: str = ""


@dataclass(frozen=True)
class LaterMessage(Message):
    pictures: tuple[Picture, ...] = ()


def test_a_new_field_changes_addresses_only_if_it_is_used() -> None:
    """Earlier replies are still found; attachments count by their content."""
    plain, one, two, captioned = (
        address(Request((LaterMessage("user", "Hello", pictures),)))
        for pictures in (
            (),
            (Picture(b"\x89PNG one"),),
            (Picture(b"\x89PNG two"),),
            (Picture(b"\x89PNG one", "a cat"),),
        )
    )
    assert plain == address(HELLO)
    assert len({plain, one, two, captioned}) == 4


texts = st.text(max_size=20)
messages = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts), min_size=1
).map(tuple)


@given(messages, messages)
def test_different_conversations_have_different_addresses(one: Any, other: Any) -> None:
    """Whatever characters they contain, including lone surrogates."""
    same = address(Request(one)) == address(Request(other))
    assert same == (one == other)


@given(texts, st.sampled_from([HELLO, *variants(ASKED)]))
def test_many_addresses_at_once_equal_single_ones(text: str, sample: Request) -> None:
    """Requests that differ only in their last message are hashed faster, with the same result."""
    *before, _ = sample.messages
    for images in ((), (Image("image/png", b"\x89PNG"),)):
        asked = replace(sample, messages=(*before, Message("user", text, images)))
        like = replace(sample, messages=(*before, Message("user", "…")))
        for providers in ([], ["mistral", "groq"]):
            assert addresses_like(like, providers)(asked) == address(asked, providers)


@pytest.mark.parametrize("text", ["\ud83d", "\x00", "é", "e\u0301"])
def test_similar_texts_have_different_addresses(text: str) -> None:
    """Composed and decomposed accents are different prompts."""
    odd = Request((Message("user", text),))
    others = [Request((Message("user", other),)) for other in ("", "e", "é" * 2)]
    assert address(odd) not in {address(other) for other in others}
