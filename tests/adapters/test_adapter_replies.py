"""Replies of all four providers, through their real SDKs."""

from __future__ import annotations

import gc
import gzip
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from adapter_calls import (
    HELLO,
    MODELS,
    SECRET,
    TEN_SECONDS,
    WIRES,
    Build,
    Script,
    chunk_of,
    complete,
    reply_of,
    text_of,
)

from arche_magic.llm_providers.adapters import build_adapter
from arche_magic.llm_providers.adapters.adapter import Adapter
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.types import Key, Timeouts, Usage

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox


@pytest.mark.parametrize("wire", WIRES)
def test_a_stream_ends_with_usage_and_finish_reason(
    sandbox: Sandbox, adapters: dict[str, Adapter], wire: str
) -> None:
    """The last piece has the usage and the finish reason."""
    (plain,) = complete(adapters[wire], MODELS[wire])
    *pieces, last = complete(adapters[wire], MODELS[wire], stream=True)
    assert len(pieces) > 5
    assert all(piece.text for piece in pieces)
    assert text_of(pieces) == plain.text
    assert last.text == ""
    assert last.finish_reason == "stop"
    assert last.usage == plain.usage
    assert sandbox.requests[-1].stream


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_cut_reply_says_length(
    sandbox: Sandbox, adapters: dict[str, Adapter], wire: str, stream: bool
) -> None:
    """A reply cut at max_tokens has the finish reason `length` at every provider."""
    request = Request((Message("user", "[tokens=400]"),), max_tokens=30)
    completions = complete(adapters[wire], MODELS[wire], request, stream=stream)
    assert completions[-1].finish_reason == "length"
    assert completions[-1].usage is not None
    assert completions[-1].usage.output_tokens <= 30


@pytest.mark.parametrize("wire", WIRES)
def test_an_option_not_given_is_not_sent(
    sandbox: Sandbox, adapters: dict[str, Adapter], wire: str
) -> None:
    """Without options, only model and messages are sent, so defaults apply."""
    complete(adapters[wire], MODELS[wire])
    body = dict(sandbox.requests[-1].body)
    assert not body.pop("stream", False)
    assert not body.pop("generationConfig", {})
    assert set(body) == ({"contents"} if wire == "google" else {"model", "messages"})


def test_a_compatible_service_gets_max_tokens_and_no_organization(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other services get the older name and no headers of the OpenAI account."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: mine\nAuthorization: Bearer mine")
    script.answer(200, {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]})
    adapter = build_adapter("openai", Key.of("cerebras", "cerebras_key_1", "csk-1234"), script.url)
    (completion,) = complete(adapter, "m", Request(HELLO.messages, max_tokens=5))
    adapter.close()
    assert completion.text == "Hi"
    assert completion.usage is None
    assert script.received[-1]["body"]["max_tokens"] == 5
    headers = {name.lower(): text for name, text in script.received[-1]["headers"].items()}
    assert headers["authorization"] == "Bearer csk-1234"
    assert not [text for text in headers.values() if "mine" in text]


def test_thinking_is_not_part_of_a_reply(script: Script, build: Build) -> None:
    """Gemini's thoughts and Mistral's thinking are not text, but count as output."""
    parts = [{"text": "Hmm.", "thought": True}, {"text": "Four."}]
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 2, "thoughtsTokenCount": 9}
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
    script.answer(200, {"candidates": [candidate], "usageMetadata": usage})
    (completion,) = complete(build("google"), "g")
    assert completion.text == "Four."
    assert completion.usage == Usage(5, 11)
    chunks = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hmm."}]},
        {"type": "text", "text": "Four."},
    ]
    message = {"role": "assistant", "content": chunks}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 11, "total_tokens": 16}
    reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
    script.answer(200, {**reply, "choices": [choice]})
    (completion,) = complete(build("mistral"), "m")
    assert completion.text == "Four."
    assert completion.usage == Usage(5, 11)


@pytest.mark.parametrize("wire", WIRES)
def test_every_piece_of_a_stream_is_whole_text(script: Script, build: Build, wire: str) -> None:
    """An emoji split between two events is joined. A lone surrogate is replaced."""
    pieces = ["Hi \ud83d", "\ude00 there", " \ude00 ", "\ud83d"]
    script.events(*(chunk_of(wire, text) for text in pieces), chunk_of(wire, "", "stop"))
    completions = complete(build(wire), "m", stream=True)
    for completion in completions:
        completion.text.encode()
    assert text_of(completions) == "Hi \U0001f600 there \ufffd \ufffd"


@pytest.mark.parametrize("wire", ["groq", "openai", "google"])
def test_a_reply_in_one_piece_is_whole_text(script: Script, build: Build, wire: str) -> None:
    """Lone surrogates are replaced without streaming too. Mistral's SDK refuses them."""
    script.answer(200, reply_of(wire, "Hi \ud83d there"))
    assert text_of(complete(build(wire), "m")) == "Hi \ufffd there"


@pytest.mark.parametrize("wire", WIRES)
def test_a_slow_reader_does_not_cause_a_timeout(script: Script, build: Build, wire: str) -> None:
    """A reader that is slower than the silence timeout still gets the next piece."""
    script.events(
        chunk_of(wire, "one "),
        chunk_of(wire, "two"),
        chunk_of(wire, "", "stop"),
    )
    # More than the connection and its buffers hold, so that the rest has yet to be read.
    script.body = script.body.replace(b"two", b"two" * 3_000_000)
    timeouts = Timeouts(first_token=5, silence=0.3, total=6)
    pieces = build(wire).complete(HELLO, "m", stream=True, timeouts=timeouts)
    text = next(pieces).text
    time.sleep(0.5)
    text += text_of(list(pieces))
    assert text.startswith("one two")
    assert len(text) == 4 + 9_000_000


@pytest.mark.parametrize("wire", WIRES)
def test_threads_share_an_adapter(
    sandbox: Sandbox, adapters: dict[str, Adapter], wire: str
) -> None:
    """Each of many threads on one adapter gets the reply to its own prompt."""

    def ask(number: int) -> bool:
        request = Request((Message("user", f"Number {number}."),))
        reply = text_of(complete(adapters[wire], MODELS[wire], request, stream=number % 2 == 0))
        return f"Number {number}." in reply

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(24)))


@pytest.mark.parametrize("wire", WIRES)
def test_streams_in_one_thread_may_interleave(
    sandbox: Sandbox, adapters: dict[str, Adapter], wire: str
) -> None:
    """Two streams that one thread reads alternately do not mix."""
    streams = [
        adapters[wire].complete(
            Request((Message("user", f"Number {n}."),)),
            MODELS[wire],
            stream=True,
            timeouts=Timeouts(),
        )
        for n in (1, 2)
    ]
    texts = ["", ""]
    for pair in zip(*streams, strict=False):
        texts = [text + completion.text for text, completion in zip(texts, pair, strict=True)]
    assert "Number 1." in texts[0]
    assert "Number 2." not in texts[0]
    assert "Number 2." in texts[1]


@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate"])
@pytest.mark.parametrize("wire", WIRES)
def test_connections_are_reused(script: Script, build: Build, wire: str, encoding: str) -> None:
    """Consecutive calls use one connection: after refusals, replies and streams."""
    compress = {"identity": bytes, "gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    for _ in range(2):
        script.answer(500, {"error": {"message": "no"}}, {"content-encoding": encoding})
        script.body = compress(script.body)
        with pytest.raises(Exception, match="500"):
            complete(build(wire), "m")
        script.answer(200, reply_of(wire, "Yes."), {"content-encoding": encoding})
        script.body = compress(script.body)
        assert text_of(complete(build(wire), "m")) == "Yes."
        script.events(chunk_of(wire, "Yes."), chunk_of(wire, "", "stop"), done=wire != "google")
        script.headers["content-encoding"] = encoding
        script.body = compress(script.body)
        assert text_of(complete(build(wire), "m", stream=True)) == "Yes."
    assert len(script.connections) == 1


@pytest.mark.parametrize("wire", ["groq", "openai", "mistral"])
def test_a_stream_ends_with_its_last_event(script: Script, build: Build, wire: str) -> None:
    """A server that goes on sending after it delays nothing."""
    script.events(chunk_of(wire, "Yes."), chunk_of(wire, "", "stop"))
    script.endless = b": still here\n\n"
    assert text_of(complete(build(wire), "m", stream=True)) == "Yes."
    assert script.left.wait(1)


class CollectingKey(Key):
    """A key that starts the garbage collection when it is read, which is before each request."""

    def secret(self) -> str:
        gc.collect()
        return super().secret()


@pytest.mark.parametrize("wire", WIRES)
def test_an_abandoned_stream_does_not_disturb_the_next_call(script: Script, wire: str) -> None:
    """It is closed when the garbage collection finds it."""
    gc.freeze()  # so that a collection looks at new objects only, which is fast
    adapter = build_adapter(wire, CollectingKey.of(wire, f"{wire}_key_1", SECRET), script.url)
    script.events(chunk_of(wire, "Yes"), chunk_of(wire, ".", "stop"), done=wire != "google")
    stream = adapter.complete(HELLO, "m", stream=True, timeouts=TEN_SECONDS)
    assert next(stream).text == "Yes"
    cycle: list[object] = [stream]
    cycle.append(cycle)
    del stream, cycle
    assert text_of(complete(adapter, "m", stream=True)) == "Yes."
    adapter.close()
    gc.unfreeze()


def test_an_unknown_wire_is_refused_with_the_known_ones() -> None:
    """The error for an unknown wire lists the known ones."""
    with pytest.raises(ValueError, match="groq, openai, mistral, google"):
        build_adapter("grok", Key.of("grok", "grok_key_1", "x"), "http://127.0.0.1:9")
