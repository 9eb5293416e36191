"""Arguments of a request are checked in one line before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from arche_magic.llm_providers.config import load_configuration
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError
from arche_magic.llm_providers.options import build_request
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.tools import Tool

# Mistral's keys have no mark at which they are known.
KEY = "hunter2" * 20
DOCUMENT = "x" * 100_000
CONFIGURATION = load_configuration({"MISTRAL_API_KEY": KEY})


def request(prompt: Any = "Hello", **options: Any) -> Request:
    return build_request(prompt, CONFIGURATION, **options)


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ("", {}, "the prompt is empty"),
        (" \n\t", {}, "the prompt is empty"),
        ([], {}, "the prompt is empty"),
        ([{"role": "user", "content": " "}], {}, "the prompt is empty"),
        ([{"role": "system", "content": "Be brief."}], {}, "the prompt is empty"),
        ("", {"system": "Be brief."}, "the prompt is empty"),
        (None, {}, "the prompt is of type NoneType"),
        (5, {}, "the prompt is of type int"),
        (b"Hello", {}, "the prompt is of type bytes; it must be text"),
        ({"role": "user", "content": "Hi"}, {}, "a message is"),
        (["Hi"], {}, "a message is"),
        ([{"role": "user"}], {}, "the content of a message with the role user is of type NoneType"),
        ([{"role": "user", "content": None}], {}, "it must be text, or a list of parts"),
        ([{"role": "user", "content": [{"type": "text"}]}], {}, "a part of a message's content"),
        ([{"content": "Hi"}], {}, "role is None"),
        ([{"role": "robot", "content": "Hi"}], {}, "role is 'robot'"),
        ("Hi", {"max_tokens": 0}, "max_tokens is 0; it must be 1 or more"),
        ("Hi", {"max_tokens": -5}, "max_tokens is -5"),
        ("Hi", {"max_tokens": 10.0}, "whole number"),
        ("Hi", {"max_tokens": True}, "max_tokens is True"),
        ("Hi", {"max_tokens": "10"}, "max_tokens is '10'"),
        ("Hi", {"max_tokens": pd.NA}, "max_tokens is <NA>; it must be a whole number"),
        ("Hi", {"max_output_tokens": 0}, "max_output_tokens is 0; it must be 1 or more"),
        ("Hi", {"max_output_tokens": pd.NA}, "max_output_tokens is <NA>"),
        ("Hi", {"max_tokens": 5, "max_output_tokens": 6}, "are the same option; use one"),
        ("Hi", {"temperature": 3}, "temperature is 3; it must be 0 to 2"),
        ("Hi", {"temperature": -0.1}, "temperature is -0.1"),
        ("Hi", {"temperature": math.nan}, "temperature is nan"),
        ("Hi", {"temperature": math.inf}, "temperature is inf"),
        ("Hi", {"temperature": True}, "temperature is True; it must be a number"),
        ("Hi", {"temperature": "hot"}, "temperature is 'hot'; it must be a number"),
        ("Hi", {"temperature": pd.DataFrame({"a": [1]})}, "temperature is a 0 1; it must be"),
        ("Hi", {"seed": np.zeros((30, 30))}, "…; it must be a whole number"),
        ("Hi", {"top_p": 1.1}, "top_p is 1.1; it must be 0 to 1"),
        ("Hi", {"top_p": False}, "top_p is False"),
        ("Hi", {"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ("Hi", {"seed": True}, "seed is True"),
        ("Hi", {"stop": ""}, "stop must be a text or a list of texts"),
        ("Hi", {"stop": ["a", ""]}, "stop must be"),
        ("Hi", {"stop": 5}, "stop must be"),
        ("Hi", {"stop": [5]}, "stop must be"),
        ("Hi", {"stop": {"a": 1}}, "stop must be"),
        ("Hi", {"patience": -1}, "patience is -1"),
        ("Hi", {"patience": math.nan}, "patience is nan"),
        ("Hi", {"patience": True}, "patience is True"),
        ("Hi", {"timeout": 0}, "timeout is 0; it must be a number of seconds greater than 0"),
        ("Hi", {"timeout": -1}, "timeout is -1; it must be a number of seconds greater than 0"),
        ("Hi", {"timeout": "5"}, "timeout is '5'; it must be a number of seconds greater than 0"),
        ("Hi", {"timeout": math.inf}, "timeout is inf"),
        ("Hi", {"timeout": math.nan}, "timeout is nan"),
        ("Hi", {"max_tokens": 10**5000}, "max_tokens must be less than 2**63"),
        ("Hi", {"seed": -(10**5000)}, "seed must be less than 2**63"),
        ("Hi", {"timeout": 10**5000}, "it must be a number of seconds greater than 0"),
        ("Hi", {"model": 5}, "model is of type int; it must be text"),
        ("Hi", {"model": "groq/a\nb"}, "model is 'groq/a\\nb'; it must be one line"),
        ("Hi", {"images": ["a\0.png"]}, "'a\\x00.png' is not a path"),
        ("Hi", {"images": ["\ud800.png"]}, "'\\ud800.png' is not a path"),
        ("Hi", {"images": ["x" * 5000]}, "x… cannot be read: File name too long"),
        ("Hi", {"provider": ["groq"]}, "provider is of type list; it must be text"),
        ("Hi", {"system": 5}, "system is of type int; it must be text"),
        ("Hi", {"reserve": -0.1}, "reserve is -0.1"),
        ("Hi", {"reserve": 1.5}, "reserve is 1.5"),
        ("Hi", {"reserve": "half"}, "reserve is 'half'"),
        ("Hi", {"keep": "yes"}, "keep is 'yes'; it must be True or False"),
        ("Hi", {"fresh": 1}, "fresh is 1; it must be True or False"),
        ("Hi", {"private": "yes"}, "private is 'yes'; it must be True or False"),
        ("Hi", {"tag": "a\nb"}, "it must be one line"),
        ("Hi", {"tag": "x" * 101}, "100 characters or less"),
        (
            "Hi",
            {"temperature": "gsk_hunter2hunter2hunter2"},
            "temperature is '[key]'; it must",
        ),
        (
            "Hi",
            {"max_tokens": "sk-proj-hunter2hunter2hunter2"},
            "max_tokens is '[key]'; it must",
        ),
        ("Hi", {"gsk_hunter2hunter2hunter2": 1}, "unknown option '[key]'"),
        ("Hi", {"extra": {"gsk_hunter2hunter2hunter2": 1}}, "name of a field looks like a key"),
        ("Hi", {"seed": "hunter2Ahunter2Ahunter2Ahunter2A"}, "seed is '[key]'; it must be"),
        ([{"role": "AIzahunter2hunter2hunter2", "content": "Hi"}], {}, "role is '[key]'"),
        ("Hi", {"temperature": KEY}, "contains the key mistral_key_1"),
        ("Hi", {"temprature": 1}, "unknown option 'temprature'; did you mean 'temperature'?"),
        ("Hi", {"max_token": 5}, "did you mean 'max_tokens'?"),
        (
            "Hi",
            {"frobnicate": None},
            "unknown option 'frobnicate'; known options: model, max_tokens",
        ),
    ],
)
def test_an_invalid_argument_is_refused_in_one_line(
    prompt: Any, options: dict[str, Any], words: str
) -> None:
    """The message names the option, its value, and the valid values."""
    with pytest.raises(InvalidRequest) as caught:
        request(prompt, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in f"{caught.value} {caught.value.__context__}"
    assert isinstance(caught.value, LLMProviderError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (partial(CONFIGURATION.provider, DOCUMENT), "'; known are groq, mistral, google, openai"),
        (partial(CONFIGURATION.resolve_model, f"groq/{DOCUMENT}", "mistral"), "' is a model of "),
        (partial(request, tool_choice=DOCUMENT), "', but there are no tools"),
        (partial(request, tool_choice=DOCUMENT, tools=[Tool("f")]), "'; the tools are: f"),
        (partial(request, **{DOCUMENT: 1}), "'; known options: model"),
        (partial(request, extra={DOCUMENT: 1}), "; a name has at most 100 characters"),
        (partial(request, schema=f"score {DOCUMENT}"), "' of 'score'; known types: "),
        (partial(request, tag=DOCUMENT), "'; it must be one line"),
        (partial(request, patience=[DOCUMENT]), "; it must be a number"),
        (partial(request, images=[DOCUMENT]), "x… cannot be read: File name too long"),
    ],
)
def test_an_error_quotes_only_the_beginning_of_a_long_value(
    refused: Callable[[], object], words: str
) -> None:
    """It still says what is wrong."""
    with pytest.raises(LLMProviderError) as caught:
        refused()
    assert 20 <= str(caught.value).count("x") <= 210
    assert words in str(caught.value)


def test_only_the_key_is_left_out_of_an_error() -> None:
    """The punctuation after it stays."""
    key = "wordlikekeywithoutpattern99"
    configuration = load_configuration({"MISTRAL_API_KEY": key})
    assert str(InvalidRequest(f"--file {key}: there is no such file")) == (
        "--file [key]: there is no such file"
    )
    assert configuration.keys[0].secret() == key


def test_the_end_of_a_long_path_is_quoted() -> None:
    """It has the name of the file."""
    path = f"/home/{'folder/' * 40}reviews.csv"
    assert str(InvalidRequest(f"{path!r}: there is no such file")) == (
        f"{path[:60]!r}".removesuffix("'") + f"…{path[-40:]}': there is no such file"
    )


def test_an_error_that_quotes_nothing_long_is_not_shortened() -> None:
    """Apostrophes are not quotes."""
    plain = f"the user's {'word ' * 60}the model's, '{'x' * 150}' and \"{'y' * 150}\""
    assert str(InvalidRequest(plain)) == plain


@pytest.mark.parametrize("option", ["temperature", "top_p", "seed"])
def test_zero_is_a_value(option: str) -> None:
    """It is not treated as "not given"."""
    assert getattr(request(**{option: 0}), option) == 0
    assert getattr(request(), option) is None


def test_numbers_of_numpy_are_numbers() -> None:
    """Those of a column or of `np.arange` have types that JSON does not know."""
    asked = request(
        max_tokens=np.int64(5), seed=np.array(3), temperature=np.float32(0.7), top_p=np.float16(1),
        patience=np.float64(2), extra={"top_logprobs": np.int64(4)},
    )  # fmt: skip
    given = (asked.max_tokens, asked.seed, asked.temperature, asked.top_p, asked.patience)
    assert given == (5, 3, 0.7, 1.0, 2.0)
    assert {type(number) for number in given} == {int, float}
    assert asked.extra == {"top_logprobs": 4}
    with pytest.raises(InvalidRequest, match="whole number"):
        request(max_tokens=np.float64(5))
    assert request(fresh=np.True_).fresh is True


def test_lone_surrogates_are_replaced_everywhere() -> None:
    """They cannot be sent."""
    call = {"id": "\ud800", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": [{"type": "image_url", "image_url": "https://a.org/\ud800"}]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "\ud800", "content": "\ud800"},
        Message("user", "\ud800", name="\ud800"),
    ]
    asked = request(
        turns,
        extra={"user": "\ud800", "metadata": {"b\ud800": "c"}},
        tools=[Tool("f", "\ud800", '{"title": "\ud800"}')],
        schema="a '\ud800'|b",
    )
    assert "\ufffd" in repr(asked)
    assert "\\ud800" not in repr(asked)


def test_max_output_tokens_is_max_tokens() -> None:
    """They mean the same, and can be given together if they agree."""
    assert request(max_output_tokens=7).max_tokens == 7
    assert request(max_tokens=7, max_output_tokens=7).max_tokens == 7
    assert request(max_tokens=7, max_output_tokens=None).max_tokens == 7


def test_the_system_prompt_comes_first() -> None:
    """It precedes the prompt and the turns of a chat. A blank one is omitted."""
    assert request(system="Be brief.").messages == (
        Message("system", "Be brief."),
        Message("user", "Hello"),
    )
    assert request(system="").messages == (Message("user", "Hello"),)


def test_a_chat_keeps_its_turns() -> None:
    """Dicts and our own messages work, also from a generator."""
    turns = [{"role": "user", "content": "Hi"}, Message("assistant", "Hello"), Message("user", "?")]
    assert request(turn for turn in turns).messages == (
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "?"),
    )


def test_stop_takes_one_text_or_several() -> None:
    """A single string is one stop text, not a list of letters."""
    assert request(stop="END").stop == ("END",)
    assert request(stop=["a", "b"]).stop == ("a", "b")


def test_patience_and_timeout_default_to_the_configuration() -> None:
    """A call can override them. 0 never waits, and infinity waits without a limit."""
    assert request().patience == CONFIGURATION.patience == 30
    assert request().timeout == CONFIGURATION.timeouts.total
    assert request(patience=0).patience == 0
    assert request(patience=math.inf).patience == request(patience=10**5000).patience == math.inf
    assert request(timeout=5).timeout == 5.0


def test_none_means_not_given() -> None:
    """Callers can pass their own defaults through."""
    names = ("provider", "model", "max_tokens", "temperature", "top_p", "stop", "seed", "timeout")
    assert request(**dict.fromkeys(names)) == request()
