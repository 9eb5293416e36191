"""Answers that broke other clients, from bug reports of SDKs and libraries."""

from __future__ import annotations

import json
from typing import Any

import pytest
from adapter_calls import WIRES, Build, Script, chunk_of, complete, failure_of, reply_of, text_of
from tool_answers import ASKED

from arche_magic.llm_providers.adapters.limits import retry_delay
from arche_magic.llm_providers.provider_failure import Remedy
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.types import Usage

CHATS = ("groq", "openai", "mistral")
GEMINI = "gemini-3.8-flash"


def message(content: Any, ending: str | None = "stop", **fields: Any) -> dict[str, Any]:
    """A whole chat completion."""
    reply = {"role": "assistant", "content": content, **fields}
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": reply, "finish_reason": ending}],
    }  # fmt: skip


def delta(ending: str | None = None, **fields: Any) -> dict[str, Any]:
    """One chunk of a chat completion."""
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [{"index": 0, "delta": fields, "finish_reason": ending}]}


def answer(script: Script, body: Any, *, stream: bool) -> None:
    """Answer with this body, or with these events of a stream without an end mark."""
    if stream:
        script.events(body, done=False)
    else:
        script.answer(200, body)


def candidate(ending: str | None, *parts: Any) -> dict[str, Any]:
    """One response of Gemini."""
    return {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": ending}]}


THINKING = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]
EMPTY = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}
HI = chunk_of("groq", "Hi")
END = delta("stop")


@pytest.mark.parametrize("wire", CHATS)
@pytest.mark.parametrize(
    "body",
    [
        # github.com/simonw/llm-mistral/issues/38
        message([*THINKING, {"type": "text", "text": "Hi"}]),
        # github.com/mistralai/client-python/issues/252
        message([{"type": "text", "text": "H"}, *THINKING, {"type": "text", "text": "i"}]),
        message("Hi", None),
        message("Hi", ""),
        message("Hi", tool_calls=None),
        message("Hi") | {"error": None},
        message("Hi") | {"usage": None},
        "\n\n" + json.dumps(message("Hi")),
        "\ufeff" + json.dumps(message("Hi")),
    ],
)
def test_odd_replies_are_read(script: Script, build: Build, wire: str, body: Any) -> None:
    script.answer(200, body)
    assert text_of(complete(build(wire), "m")) == "Hi"


@pytest.mark.parametrize("wire", CHATS)
@pytest.mark.parametrize(
    "events",
    [
        # github.com/awslabs/llmeter/pull/34, github.com/AndraxDev/speak-gpt/pull/162
        [EMPTY, HI, END, EMPTY],
        [EMPTY | {"choices": None}, HI, END],
        # github.com/langchain-ai/langchain/pull/28624
        [HI, END, {"id": "1", "usage": None}],
        [delta(role="assistant", content=None), HI, END],
        [HI, EMPTY | {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}],
        [HI, EMPTY | {"choices": [{"index": 0, "finish_reason": "stop"}]}],
        [delta(content=THINKING), delta(content=[{"type": "text", "text": "Hi"}]), END],
        [": PROCESSING\n\n", 'event: ping\ndata: {"type": "ping"}\n\n', "data:\n\n", HI, END],
        ["retry: 3000\nid: 7\ndata:" + json.dumps(HI) + "\r\n\r\n", END],
        [HI, END, END],
    ],
)
def test_odd_streams_are_read(script: Script, build: Build, wire: str, events: list[Any]) -> None:
    script.events(*events)
    assert text_of(complete(build(wire), "m", stream=True)) == "Hi"


OTHER_ANSWERS: dict[str, Any] = {
    "data": [{"embedding": [1.0], "index": 0}],
    "embeddings": [{"values": [1.0]}],
    "models": [{"name": "models/other"}],
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_reply_with_fields_of_another_answer_is_read(
    script: Script, build: Build, wire: str, stream: bool
) -> None:
    """A gateway may add the models it has tried, or an empty `delta`."""
    reply = reply_of(wire, "Hi") | OTHER_ANSWERS
    if wire != "google":
        reply["choices"][0]["delta"] = None
    answer(script, reply, stream=stream)
    assert text_of(complete(build(wire), GEMINI, stream=stream)) == "Hi"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_reply_with_status_201_is_read(
    script: Script, build: Build, wire: str, stream: bool
) -> None:
    """Gateways made with NestJS send it: github.com/ChatGPTNextWeb/NextChat/issues/4797."""
    if stream:
        script.events(chunk_of(wire, "Hi", "stop"), done=wire != "google")
    else:
        script.answer(201, reply_of(wire, "Hi"))
    script.status = 201
    assert text_of(complete(build(wire), GEMINI, stream=stream)) == "Hi"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [202, 204])
@pytest.mark.parametrize("wire", WIRES)
def test_a_success_without_a_reply_is_a_failure(
    script: Script, build: Build, wire: str, status: int, stream: bool
) -> None:
    """A 202, whose answer comes later, or an empty 204."""
    script.answer(status, "" if status == 204 else {"status": "pending"})
    assert failure_of(build(wire), GEMINI, stream=stream).remedy is Remedy.RETRY_LATER


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_web_page_with_status_200_is_not_an_outage(
    script: Script, build: Build, wire: str, stream: bool
) -> None:
    """The sign-in page of a Wi-Fi network, or a web site at a wrong address."""
    script.answer(200, "\n<html>Sign in</html>", {"content-type": "text/html"})
    failure = failure_of(build(wire), GEMINI, stream=stream)
    assert failure.remedy is Remedy.CHECK_ADDRESS
    assert str(failure) == "a web page came instead of a reply"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", CHATS)
@pytest.mark.parametrize(
    ("prompt", "completion", "total", "counted"),
    [
        (20, 30, 50, Usage(20, 30)),
        # github.com/UKGovernmentBEIS/inspect_ai/issues/5528
        (32, 9, 135, Usage(32, 103)),
        # github.com/router-for-me/CLIProxyAPI/issues/5733
        (21, 0, 81, Usage(21, 60)),
        (20, 30, None, Usage(20, 30)),
        (20, 30, 0, Usage(20, 30)),
        (None, None, None, None),
    ],
)
def test_reasoning_that_is_only_in_the_total_is_counted(
    script: Script,
    build: Build,
    wire: str,
    prompt: int | None,
    completion: int | None,
    total: int | None,
    counted: Usage | None,
    stream: bool,
) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    if stream:
        script.events(HI, END, EMPTY | {"usage": usage})
    else:
        script.answer(200, message("Hi") | {"usage": usage})
    assert complete(build(wire), "m", stream=stream)[-1].usage == counted


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_half_a_character_is_replaced(
    script: Script, build: Build, wire: str, stream: bool
) -> None:
    """JSON can write the first half of an emoji without its second."""
    if stream:
        script.events(chunk_of(wire, "Hi \ud83d", "stop"), done=wire != "google")
    else:
        script.answer(200, reply_of(wire, "Hi \ud83d"))
    assert text_of(complete(build(wire), GEMINI, stream=stream)) == "Hi \ufffd"


OVERLOADED = {"code": 503, "message": "Too many guests.", "status": "UNAVAILABLE"}
ERRORS_UNDER_200 = (
    *((wire, {"error": OVERLOADED}) for wire in WIRES),
    ("google", [{"error": OVERLOADED}]),
    # Cloudflare
    *((wire, {"success": False, "errors": [OVERLOADED]}) for wire in CHATS),
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("wire", "body"), ERRORS_UNDER_200)
def test_an_error_with_status_200_is_reported_in_the_servers_words(
    script: Script, build: Build, wire: str, stream: bool, body: Any
) -> None:
    answer(script, body, stream=stream)
    failure = failure_of(build(wire), GEMINI, stream=stream)
    assert failure.remedy is Remedy.RETRY_LATER
    assert str(failure).endswith(": Too many guests.")


@pytest.mark.parametrize("wire", WIRES)
def test_an_error_instead_of_vectors_is_reported_in_the_servers_words(
    script: Script, build: Build, wire: str
) -> None:
    script.answer(200, {"error": OVERLOADED})
    request = Request((Message("user", "One"),), inputs=("One",))
    failure = failure_of(build(wire), GEMINI, request)
    assert failure.remedy is Remedy.RETRY_LATER
    assert str(failure).endswith(": Too many guests.")


@pytest.mark.parametrize("wire", CHATS)
@pytest.mark.parametrize(
    "event",
    [
        # github.com/UKGovernmentBEIS/inspect_ai/pull/5218
        {"error": "Too many guests."},
        {"error": {"error": OVERLOADED}},
        'event: error\ndata: "Too many guests."\n\n',
        # OpenRouter
        delta("error", content="") | {"error": OVERLOADED},
        EMPTY | {"choices": [{"delta": {}, "error": OVERLOADED, "finish_reason": "error"}]},
        {"detail": "Too many guests."},
    ],
)
def test_an_error_in_a_stream_is_reported_in_the_servers_words(
    script: Script, build: Build, wire: str, event: Any
) -> None:
    script.events(HI, event)
    failure = failure_of(build(wire), stream=True)
    assert failure.remedy is Remedy.RETRY_LATER
    assert str(failure).endswith(": Too many guests.")
    assert failure.text == "Hi"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "remedy"),
    [
        ({"promptFeedback": {"blockReason": "SAFETY"}}, Remedy.CHANGE_PROMPT),
        (candidate("RECITATION"), Remedy.CHANGE_PROMPT),
        ({"candidates": [{"finishReason": "SAFETY"}]}, Remedy.CHANGE_PROMPT),
        # github.com/pydantic/pydantic-ai/issues/631
        ({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}, Remedy.RETRY_LATER),
        # Its call must not be executed: github.com/NousResearch/hermes-agent/pull/83886
        (
            candidate("MALFORMED_FUNCTION_CALL", {"functionCall": {"name": "get_time"}}),
            Remedy.RETRY_LATER,
        ),
        # github.com/googleapis/python-genai/issues/2937
        (candidate("MALFORMED_RESPONSE"), Remedy.RETRY_LATER),
        # github.com/google/generative-ai-docs/issues/235
        ({"candidates": [{"finishReason": "OTHER"}]}, Remedy.RETRY_LATER),
        (candidate("MAX_TOKENS", {"text": "Hm.", "thought": True}), Remedy.RAISE_MAX_TOKENS),
        # github.com/pydantic/pydantic-ai/issues/2480
        (candidate("STOP", {"text": "Hm.", "thought": True}), Remedy.RETRY_LATER),
        ({"candidates": [], "usageMetadata": {"promptTokenCount": 9}}, Remedy.RETRY_LATER),
    ],
)
def test_answers_of_gemini_without_text_are_failures(
    script: Script, build: Build, body: Any, remedy: Remedy, stream: bool
) -> None:
    answer(script, body, stream=stream)
    assert failure_of(build("google"), GEMINI, ASKED, stream=stream).remedy is remedy


@pytest.mark.parametrize("reason", ["BLOCK_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED"])
def test_an_unspecified_reason_for_blocking_blocks_nothing(
    script: Script, build: Build, reason: str
) -> None:
    feedback = {"promptFeedback": {"blockReason": reason}}
    script.answer(200, candidate("STOP", {"text": "Hi"}) | feedback)
    assert text_of(complete(build("google"), GEMINI)) == "Hi"


def test_google_filters_no_reply_when_a_function_call_was_malformed(
    script: Script, build: Build
) -> None:
    """Google's service for OpenAI's clients reports it like a filter."""
    script.answer(200, message(None, "function_call_filter: MALFORMED_FUNCTION_CALL"))
    assert failure_of(build("openai"), "m").remedy is Remedy.RETRY_LATER


@pytest.mark.parametrize("wire", WIRES)
def test_a_conversation_with_only_a_system_prompt_is_sent(
    script: Script, build: Build, wire: str
) -> None:
    """Google's SDK refuses a request without a user's turn."""
    script.answer(200, reply_of(wire, "Hi"))
    assert text_of(complete(build(wire), GEMINI, Request((Message("system", "Greet."),)))) == "Hi"
    assert "Greet." in json.dumps(script.received[0]["body"])


@pytest.mark.parametrize("status", [498, 499, 502, 520, 524, 529])
@pytest.mark.parametrize(
    "body", ["", "<html><title>Bad Gateway</title></html>", [], "error code: 1"]
)
def test_outages_of_servers_and_proxies_are_recognized(
    script: Script, build: Build, status: int, body: Any
) -> None:
    script.answer(status, body)
    failure = failure_of(build("groq"))
    assert failure.remedy is Remedy.RETRY_LATER
    assert not failure.unknown


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        # A proxy had added a second header: github.com/dolfies/discord.py-self/issues/853
        ("28, 2", 28.0),
        ("1.5", 1.5),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
        ("Sun Nov  6 08:49:47 1994", 10.0),
        ("-5", None),
        ("soon", None),
        ("inf", None),
        ("Sun, 06 Nov 99999 08:49:47 GMT", None),
    ],
)
def test_every_form_of_retry_after_is_read(value: str, seconds: float | None) -> None:
    """Dates are compared with the server's clock, not with this machine's."""
    headers = {"retry-after": value, "date": "Sun, 06 Nov 1994 08:49:37 GMT"}
    assert retry_delay(headers, now=0.0) == seconds


@pytest.mark.parametrize("wire", WIRES)
def test_the_longest_of_several_retry_after_headers_counts(
    build: Build, script: Script, wire: str
) -> None:
    """A proxy may add a header of its own."""
    script.answer(503, {"error": {"message": "busy"}}, {"retry-after": "7", "Retry-After": "2"})
    assert failure_of(build(wire)).retry_after == 7
