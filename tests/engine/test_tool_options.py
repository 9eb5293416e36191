"""Messages, tools and further fields are checked before anything is sent."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arche_magic.llm_providers.config import load_configuration
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.options import build_request
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.tools import Tool, ToolCall

CONFIGURATION = load_configuration({}, Path())
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
USER = {"role": "user", "content": "Hi"}
F = {"type": "function", "function": {"name": "f"}}


def request(prompt: Any = "Hi", **options: Any) -> Request:
    return build_request(prompt, CONFIGURATION, **options)


def called(*calls: Any, content: Any = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def call(call_id: Any = "c1", name: Any = "f", arguments: Any = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(call_id: Any = "c1", content: Any = "done") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": fields}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([USER, result()], "no earlier assistant message has a call with this id"),
        ([USER, result(), called(call())], "tool_call_id 'c1'"),
        ([USER, called(call()), result("c2")], "tool_call_id 'c2'"),
        ([USER, {"role": "tool", "content": "x"}], "needs tool_call_id"),
        ([USER, called(call())], "the call 'c1' to f has no result"),
        ([USER, called(call(), call("c2")), result(), USER], "the call 'c2' to f has no result"),
        ([USER, called(call(), call())], "have the same id"),
        ([USER, called(call(arguments={"x": 1}))], "arguments of the call to f are of type dict"),
        ([USER, called(call(arguments=None))], "they must be JSON as text"),
        ([USER, called(call(call_id=""))], "the id of a tool call is ''"),
        ([USER, called(call(name=3))], "the name of a tool call is 3"),
        ([USER, called("f()")], "a tool call is a dict such as"),
        ([USER, called({"id": "c1", "type": "custom", "custom": {}})], "a tool call is a dict"),
        ([{**USER, "tool_calls": [call()]}], "a message with the role user has tool_calls"),
        ([USER, {"role": "assistant", "content": "", "tool_calls": "f"}], "it must be a list"),
        (
            [USER, {"role": "assistant", "content": None}],
            "message with the role assistant is of type NoneType",
        ),
        ([{"role": "function", "name": "f", "content": "x"}], "role is 'function'"),
        ([{"role": ["user"], "content": "x"}], "role is ['user']"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "is 'input_audio'"),
        ([{"role": "user", "content": ["Hi"]}], "a part of a message's content is 'Hi'"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "must have a 'url'"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "ftp://a/b.png"}]}],
            "it must be a base64 data URI, http or https",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": "data:image/png;base64,?"}],
                }
            ],
            "is not valid base64",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {"url": "http://a/b.png", "detail": "fine"},
                        }
                    ],
                }
            ],
            "detail of an image_url is 'fine'",
        ),
        (
            [
                USER,
                called(call()),
                result(content=[{"type": "image_url", "image_url": "http://a"}]),
            ],
            "a message with the role tool has images",
        ),
        ([{**USER, "prefix": True}], "role user has the unknown field 'prefix'; known: role, cont"),
        ([{**USER, "mask": np.zeros(2)}], "role user has the unknown field 'mask'"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Hi", "size": 5}]}],
            "a part of the type text has the unknown field 'size'; known: type, text",
        ),
    ],
)
def test_an_invalid_message_is_refused_in_one_line(messages: list[Any], words: str) -> None:
    """The error says what is wrong and what is valid."""
    with pytest.raises(InvalidRequest) as caught:
        request(messages)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_only_one_service_knows_is_left_out() -> None:
    """A conversation that another service began can go on here."""
    signature = {"google": {"thought_signature": "c2ln"}}
    answer: dict[str, Any] = {"role": "assistant", "content": "Hello", "reasoning": "A greeting."}
    answer |= {"extra_content": signature, "provider_specific_fields": {"citations": ["x"]}}
    part = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    turns = request([{"role": "user", "content": [part]}, answer, USER]).messages
    assert [(turn.role, turn.content) for turn in turns] == [
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Hi"),
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tools": F}, "tools must be a list"),
        ({"tools": "f"}, "tools must be a list"),
        ({"tools": ["f"]}, "a tool is a dict such as"),
        ({"tools": [print]}, "not a value of type builtin_function_or_method"),
        ({"tools": [{"type": "web_search"}]}, "not a dict with the type 'web_search'"),
        ({"tools": [{"type": "function"}]}, "needs 'function'"),
        ({"tools": [function(description="no name")]}, "a tool has the name None"),
        ({"tools": [function(name="")]}, "a tool has the name ''"),
        ({"tools": [function(name="get weather")]}, "1 to 64 letters, digits, _ and -"),
        ({"tools": [function(name="x" * 65)]}, "1 to 64 letters"),
        ({"tools": [function(name="auto")]}, "is not auto, none, required"),
        ({"tools": [Tool("f g")]}, "a tool has the name 'f g'"),
        ({"tools": [F, F]}, "two tools have the name 'f'"),
        ({"tools": [F, Tool("f")]}, "two tools have the name 'f'"),
        ({"tools": [function(name="f", parameters="x")]}, "JSON Schema of the type object"),
        ({"tools": [function(name="f", parameters=["x"])]}, "JSON Schema of the type object"),
        (
            {"tools": [function(name="f", parameters={"type": "string"})]},
            "JSON Schema of the type object",
        ),
        ({"tools": [function(name="f", parameters={"x": math.nan})]}, "are not JSON"),
        ({"tools": [function(name="f", parameters={"x": {1}})]}, "are not JSON"),
        ({"tools": [Tool("f", parameters="{")]}, "the parameters of the tool f are not JSON"),
        ({"tools": [Tool("f", parameters="[1]")]}, "JSON Schema of the type object"),
        ({"tools": [function(name="f", descripton="typo")]}, "unknown field 'descripton'"),
        ({"tools": [function(name="f", description=5)]}, "description of the tool f"),
        ({"tools": [function(name="f", strict="yes")]}, "strict of the tool f is 'yes'"),
        (
            {"tools": [F], "tool_choice": "g"},
            "tool_choice names the tool 'g'; the tools are: f",
        ),
        ({"tools": [F], "tool_choice": function(name="g")}, "names the tool 'g'"),
        ({"tools": [F], "tool_choice": 1}, "tool_choice must be auto, none, required"),
        ({"tools": [F], "tool_choice": {"type": "function"}}, "tool_choice must be"),
        ({"tool_choice": "required"}, "tool_choice is 'required', but there are no tools"),
        ({"tool_choice": "f"}, "tool_choice is 'f', but there are no tools"),
        ({"tools": [F], "parallel_tool_calls": 1}, "parallel_tool_calls is 1"),
        ({"parallel_tool_calls": True}, "there are no tools"),
        ({"extra": "x"}, "extra must be a dict"),
        ({"extra": {1: 2}}, "extra must be a dict of fields by name"),
        ({"extra": {"temperature": 1}}, "temperature is a separate option; use temperature"),
        ({"extra": {"max_completion_tokens": 1}}, "use max_tokens"),
        ({"extra": {"logit_bias": {"1": math.inf}}}, "extra is not JSON"),
        ({"extra": {"user": object()}}, "extra is not JSON"),
        ({"extra": {"response_format": "json"}}, "response_format must be a dict with a type"),
        ({"extra": {"response_format": {"type": "json_schema"}}}, "needs a schema"),
        (
            {"extra": {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}},
            "needs a name",
        ),
        (
            {"schema": "a int", "extra": {"response_format": {"type": "json_object"}}},
            "use either schema or the response_format in extra",
        ),
    ],
)
def test_an_invalid_option_is_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    """The error names the tool or the field."""
    with pytest.raises(InvalidRequest) as caught:
        request(**options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_openai_messages_are_converted() -> None:
    """Roles, calls with their signatures, results in parts, and names."""
    signed = {**call(), "extra_content": {"google": {"thought_signature": "c2ln"}}}
    part = {"type": "text", "text": "do"}
    turns = [
        {"role": "developer", "content": "Be brief."},
        {**USER, "name": "Ada"},
        {**called(signed, call("c2", arguments="")), "refusal": None, "annotations": []},
        {**result(content=[part, {"type": "text", "text": "ne"}]), "name": "f"},
        result("c2"),
    ]
    assert request(turns).messages == (
        Message("system", "Be brief."),
        Message("user", "Hi", name="Ada"),
        Message(
            "assistant", "", tool_calls=(ToolCall("c1", "f", "{}", "c2ln"), ToolCall("c2", "f"))
        ),
        Message("tool", "do\nne", tool_call_id="c1"),
        Message("tool", "done", tool_call_id="c2"),
    )


@pytest.mark.parametrize(
    "begins", ["data:image/png;base64,", "DATA:;BASE64,", "data:image/png;name=a.png;base64,\n"]
)
def test_image_parts_are_converted(begins: str) -> None:
    """Data URIs are read like files, also in lines; URLs are kept and not fetched."""
    uri = f"{begins}{base64.encodebytes(PNG).decode()}"
    parts = [
        {"type": "text", "text": "Which is larger?"},
        {"type": "image_url", "image_url": {"url": uri, "detail": "auto"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
    ]
    (message,) = request([{"role": "user", "content": parts}]).messages
    read, linked = message.images
    assert message.content == "Which is larger?"
    assert (read.media_type, read.data, read.detail) == ("image/png", PNG, "")
    assert (linked.url, linked.data, linked.detail) == ("https://example.com/a.png", b"", "low")
    assert request([{"role": "user", "content": parts[1:2]}]).messages[0].content == ""


def test_tool_definitions_are_converted() -> None:
    """Their schemas do not change."""
    schema = {"type": "object", "properties": {"x": {"type": "integer", "minimum": 1}}}
    described = function(name="g", description="Counts.", parameters=schema, strict=True)
    asked = request(tools=[F, described, Tool("h")], tool_choice=function(name="g"))
    f, g, h = asked.tools
    assert (f.name, f.description, f.schema, f.strict) == ("f", "", Tool("f").schema, None)
    assert (g.description, g.schema, g.strict) == ("Counts.", schema, True)
    assert h == Tool("h")
    assert asked.tool_choice == "g"


def test_missing_options_are_not_set() -> None:
    """None omits a field, and `tool_choice` without tools is ignored."""
    asked = request(tools=None, tool_choice="auto", extra={"seedling": None, "n": 2})
    assert (asked.tools, asked.tool_choice, asked.extra) == ((), "", {"n": 2})
    assert request(extra={"response_format": {"type": "text"}}).extra == {}


def test_message_objects_are_checked_like_dicts() -> None:
    """They may come from a program, too."""
    read = [Message("user", "Hi", name="Ada"), Message("assistant", "Yes?"), Message("user", "No")]
    assert request(read).messages == tuple(read)
    with pytest.raises(
        InvalidRequest, match="content of a message with the role user is of type None"
    ):
        request([Message("user", None)])  # type: ignore[arg-type]


def test_extra_is_a_copy() -> None:
    """Later changes by the caller are not sent."""
    metadata = {"a": "b"}
    asked = request(extra={"metadata": metadata})
    metadata["a"] = "c"
    assert asked.extra == {"metadata": {"a": "b"}}
