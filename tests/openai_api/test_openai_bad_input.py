"""Errors in requests are reported in OpenAI's format before any quota is used."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

import arche_magic
from arche_magic.openai_api.handler import handle

if TYPE_CHECKING:
    from provider_parts import Start

    from arche_magic.sandbox import Sandbox

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"
TYPED = "gsk_hunter2hunter2hunter2"


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "auto", "messages": HELLO, **fields}).encode()


@pytest.mark.parametrize(
    ("content", "status", "param", "says"),
    [
        (b"{", 400, None, "the body is not JSON"),
        (b"\xff\xfe", 400, None, "the body is not JSON"),
        (b"", 400, None, "the body is not JSON"),
        (b"[" * 100_000, 400, None, "the body is not JSON"),
        (b"[1]", 400, None, "the body is a list; it must be a JSON object"),
        (body(model=None), 400, "model", "model is missing"),
        (body(model=5), 400, "model", "model is a number; it must be text"),
        (body(model="gorq"), 404, "model", "unknown model 'gorq'"),
        (body(model="groq/"), 404, "model", "unknown model 'groq/'"),
        (body(messages=None), 400, "messages", "messages is missing"),
        (body(messages="Hello"), 400, "messages", "messages is text; it must be a list"),
        (body(messages=[]), 400, "messages", "messages is empty"),
        (body(messages=["Hello"]), 400, "messages", "it must be a list of objects"),
        (body(messages=[{"role": "robot", "content": "x"}]), 400, "messages", "role"),
        (
            body(messages=[{"role": "user", "content": "x", "images": ["/tmp/photo.png"]}]),
            400,
            "messages",
            "images is not a field of a message",
        ),
        (body(messages=[{"role": "user"}]), 400, "messages", "the content of a message"),
        (
            body(messages=[{"role": "tool", "tool_call_id": "x", "content": "1"}]),
            400,
            "messages",
            "a tool's result has the tool_call_id 'x'",
        ),
        (body(tools=[{"type": "function", "function": {}}]), 400, "tools", "a tool has the name"),
        (
            body(messages=[{"role": "assistant", "tool_calls": ["x"]}]),
            400,
            "messages",
            "a tool call is a dict",
        ),
        (
            body(tools=[{"type": "function", "function": {"name": "f", "description": 5}}]),
            400,
            "tools",
            "the description of the tool f must be text",
        ),
        (body(tools=[{"type": "web_search"}]), 400, "tools", "not a dict with the type 'web_se"),
        (body(temperature=9), 400, "temperature", "temperature is 9; it must be 0 to 2"),
        (body(temperature="hot"), 400, "temperature", "it must be a number"),
        (body(max_tokens=0), 400, "max_tokens", "it must be 1 or more"),
        (body(max_completion_tokens=0), 400, "max_tokens", "it must be 1 or more"),
        (body(messages=[{"role": "user", "content": ""}]), 400, "messages", "the prompt is empty"),
        (body(response_format="json"), 400, "response_format", "must be a dict with a type"),
        (body(max_tokens=5, max_completion_tokens=6), 400, "max_tokens", "are the same"),
        (body(stream="yes"), 400, "stream", "stream is text; it must be true or false"),
        (body(stream_options=True), 400, "stream_options", "it must be an object"),
        (b'{"model": "auto", "messages": "' + b"x" * 20_000_000, 413, None, "is longer than 20 MB"),
    ],
)
def test_an_invalid_body_is_refused_before_anything_is_sent(
    sandbox: Sandbox, content: bytes, status: int, param: str | None, says: str
) -> None:
    """In OpenAI's format, in one line, with the name of the field."""
    reply = handle("POST", CHAT, content)
    assert isinstance(reply.body, bytes)
    error = json.loads(reply.body)["error"]
    assert (reply.status, error["param"]) == (status, param), error
    assert says in error["message"]
    assert "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"
    assert sandbox.requests == ()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "groq", "my_field": 1}, "my_field"),
        ({"model": "openai", "my_field": 1}, "my_field"),
        ({"model": "groq", "stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"model": "openai", "n": "two"}, "n"),
        ({"model": "groq", "response_format": {"type": "json_object"}}, "messages"),
        ({"model": "openai/text-embedding-3-small"}, "model"),
        ({"model": "mistral", "temperature": 1.9}, "temperature"),
    ],
)
def test_an_error_of_the_provider_names_the_field(
    sandbox: Sandbox, fields: dict[str, Any], param: str
) -> None:
    """Only the provider knows these, so its words say which field it is."""
    reply = handle("POST", CHAT, body(**fields))
    assert isinstance(reply.body, bytes)
    assert (reply.status, json.loads(reply.body)["error"]["param"]) == (400, param)
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"model": "auto", "messages": HELLO, "\ud800": 1}),
        ("/v1/embeddings", {"model": "mistral", "input": "x", "\ud800": 1}),
        ("/v1/embeddings", {"model": "groq/\ud800", "input": "x"}),
    ],
)
def test_an_error_may_quote_a_lone_surrogate(
    sandbox: Sandbox, path: str, fields: dict[str, Any]
) -> None:
    """JSON can contain one, but UTF-8, in which the reply is sent, cannot."""
    reply = handle("POST", path, json.dumps(fields).encode())
    assert isinstance(reply.body, bytes)
    assert reply.status in (400, 404)
    assert json.loads(reply.body.decode())["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("POST", "/v1/completions", 404, "POST /v1/chat/completions, POST /v1/embeddings, GET"),
        ("POST", "/v1/responses", 404, "set your library to chat completions"),
        ("GET", "/", 404, "unknown path /; available"),
        ("GET", CHAT, 405, "/v1/chat/completions accepts POST, not GET"),
        ("DELETE", "/v1/models/auto", 405, "accepts GET, not DELETE"),
        ("GET", "/v1/models/nothing", 404, "unknown model 'nothing'"),
    ],
)
def test_other_paths_and_methods_are_refused(
    sandbox: Sandbox, method: str, path: str, status: int, says: str
) -> None:
    """The message lists the valid ones."""
    reply = handle(method, path, b"")
    assert isinstance(reply.body, bytes)
    assert reply.status == status
    assert says in json.loads(reply.body)["error"]["message"]


def test_no_key_is_in_an_error(start: Start) -> None:
    """This holds even if the provider repeats it."""
    sandbox = start(keys={"groq": 1})
    sandbox.fail("groq", "echo_key", times=None)
    with pytest.raises(openai.APIStatusError) as caught:
        arche_magic.openai_client(patience=0).chat.completions.create(model="auto", messages=HELLO)
    key = sandbox.environment()["GROQ_API_KEY"]
    assert key not in caught.value.response.text
    with pytest.raises(openai.BadRequestError, match="contains the key groq_key_1") as refused:
        arche_magic.openai_client().chat.completions.create(
            model="auto", messages=[{"role": "user", "content": f"My key is {key}"}]
        )
    assert key not in refused.value.response.text


EMBEDDING = {"model": "mistral", "input": "Hello"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/embeddings", {**EMBEDDING, "encoding_format": TYPED}),
        ("/v1/embeddings", {**EMBEDDING, "dimensions": TYPED}),
        ("/v1/embeddings", {**EMBEDDING, TYPED: 1}),
        ("/v1/embeddings", {**EMBEDDING, "model": TYPED}),
        (CHAT, {"model": TYPED, "messages": HELLO}),
        (CHAT, {"model": "mistral", "messages": HELLO, TYPED: 1}),
        (f"/v1/{TYPED}", {}),
        (f"/v1/models/{TYPED}", {}),
    ],
)
def test_a_key_in_place_of_a_value_is_not_repeated(
    sandbox: Sandbox, path: str, fields: dict[str, Any]
) -> None:
    """Programs log the errors that they get. The key may be one of Mistral's, or configured."""
    for typed in (TYPED, "hunterA2" * 4, sandbox.environment()["MISTRAL_API_KEY"]):
        body = json.dumps(fields).replace(TYPED, typed).encode()
        method = "GET" if path.startswith("/v1/models") else "POST"
        reply = handle(method, path.replace(TYPED, typed), body)
        assert isinstance(reply.body, bytes)
        assert reply.status in (400, 404)
        message = json.loads(reply.body)["error"]["message"]
        assert typed[:8] not in message
        assert "key" in message
