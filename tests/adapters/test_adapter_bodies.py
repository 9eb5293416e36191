"""How long, compressed and oddly written bodies are read."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
from adapter_calls import (
    MODELS,
    TEN_SECONDS,
    WIRES,
    Build,
    Script,
    chunk_of,
    complete,
    reply_of,
    text_of,
)

from arche_magic.llm_providers.adapters.bodies import events
from arche_magic.llm_providers.provider_failure import AttemptFailed, Remedy

MEGABYTE = 1_000_000
QUESTION = "Grüße 😀"


# --- bounds


def gzipped(text: bytes) -> bytes:
    return gzip.compress(text, 9)


def raw_deflated(text: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(text) + deflate.flush()


LONG = b'{"error": {"message": "' + 20 * MEGABYTE * b" "
BOMBS: dict[str, tuple[dict[str, str], Callable[[], bytes]]] = {
    "long": ({}, lambda: 50 * MEGABYTE * b" "),
    "gzip": ({"content-encoding": "gzip"}, lambda: gzipped(LONG)),
    "deflate": ({"content-encoding": "deflate"}, lambda: zlib.compress(LONG)),
    "raw deflate": ({"content-encoding": "Deflate"}, lambda: raw_deflated(LONG)),
    "gzip twice": ({"content-encoding": "gzip, gzip"}, lambda: gzipped(gzipped(LONG))),
    "br": ({"content-encoding": "br"}, lambda: 300_000 * b"\x00"),
    "zstd": ({"content-encoding": "zstd"}, lambda: 300_000 * b"\x00"),
    "punycode": ({"content-type": "text/plain; charset=punycode"}, lambda: 300_000 * b"a-"),
    "nested": ({}, lambda: 300_000 * b"["),
}


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    made = {name: make() for name, (_, make) in BOMBS.items()}
    return {**made, "reply": gzipped(b"data: " + 60 * MEGABYTE * b"x")}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("wire", WIRES)
def test_only_the_beginning_of_an_error_is_read(
    script: Script, build: Build, bombs: dict[str, bytes], wire: str, name: str
) -> None:
    """At most 64 kB are read, in any compression or charset. The status still counts."""
    script.answer(200, reply_of(wire, QUESTION))
    complete(build(wire), MODELS[wire])  # loads the SDK
    for stream in (False, True):
        script.answer(500, "", BOMBS[name][0])
        script.body = bombs[name]
        tracemalloc.start()
        began = time.process_time()
        with pytest.raises(AttemptFailed, match=r"server error \(500\)") as caught:
            complete(build(wire), MODELS[wire], stream=stream)
        seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert caught.value.failure.remedy is Remedy.RETRY_LATER
        assert peak < 5 * MEGABYTE
        assert seconds < 3


@pytest.mark.parametrize("wire", WIRES)
def test_a_compressed_answer_is_read(script: Script, build: Build, wire: str) -> None:
    """Replies, streams and errors, in the encodings that we request."""
    for encoding, compress in (
        ("gzip", gzipped), ("x-gzip", gzipped), ("deflate", zlib.compress),
        ("deflate", raw_deflated), ("identity", bytes),
    ):  # fmt: skip
        script.answer(200, reply_of(wire, QUESTION), {"content-encoding": encoding})
        script.body = compress(script.body)
        assert text_of(complete(build(wire), MODELS[wire])) == QUESTION
        script.events(chunk_of(wire, "Grüße"), chunk_of(wire, " 😀", "stop"))
        script.headers["content-encoding"] = encoding
        script.body = compress(script.body)
        assert text_of(complete(build(wire), MODELS[wire], stream=True)) == QUESTION
        script.answer(403, {"error": {"message": "not here", "code": 403}})
        script.headers["content-encoding"] = encoding
        script.body = compress(script.body)
        with pytest.raises(AttemptFailed, match="not here"):
            complete(build(wire), MODELS[wire])
    assert {request["headers"]["accept-encoding"] for request in script.received} == {
        "gzip, deflate"
    }


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
@pytest.mark.parametrize("wire", WIRES)
def test_a_reply_that_cannot_be_decompressed_is_a_failure(
    script: Script, build: Build, wire: str, encoding: str
) -> None:
    """The reply is damaged, or has an encoding that we did not request."""
    for stream in (False, True):
        script.answer(200, reply_of(wire, QUESTION), {"content-encoding": encoding})
        with pytest.raises(
            AttemptFailed, match=r"the compressed answer is damaged|in a way that was not requested"
        ) as caught:
            complete(build(wire), MODELS[wire], stream=stream)
        assert caught.value.failure.remedy is Remedy.RETRY_LATER


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_the_length_of_a_reply_is_limited(
    script: Script, build: Build, bombs: dict[str, bytes], wire: str, stream: bool
) -> None:
    """It is far longer than any model's reply, so a small bomb cannot fill the memory."""
    script.answer(200, "", {"content-encoding": "gzip"})
    script.body = bombs["reply"]
    with pytest.raises(AttemptFailed, match="is longer than 32 MB"):
        complete(build(wire), MODELS[wire], stream=stream)


def test_the_length_of_a_stream_is_limited(script: Script, build: Build) -> None:
    """The length of all its events together is limited too."""
    script.events()
    script.headers["content-encoding"] = "gzip"
    script.body = gzipped((b": " + MEGABYTE * b"x" + b"\n") * 300)
    with pytest.raises(AttemptFailed, match="longer than 256 MB"):
        complete(build("groq"), MODELS["groq"], stream=True, timeouts=TEN_SECONDS)


# --- events


def joined(sep: str, *events_: dict[str, Any], prefix: str = "data: ", done: bool = True) -> str:
    """A stream with these line ends."""
    lines = [f"{prefix}{json.dumps(event, ensure_ascii=False)}{sep}{sep}" for event in events_]
    return "".join(lines) + (f"data: [DONE]{sep}{sep}" if done else "")


def pretty(event: dict[str, Any]) -> str:
    """One event whose JSON takes several lines."""
    text = json.dumps(event, indent=1, ensure_ascii=False)
    return "".join(f"data: {line}\n" for line in text.splitlines()) + "\n"


STREAMS: dict[str, Callable[..., str]] = {
    "plain": lambda *e: joined("\n", *e),
    "byte order mark": lambda *e: "\ufeff" + joined("\n", *e),
    "two marks": lambda *e: "\ufeff\ufeff" + joined("\n", *e),
    "a mark per event": lambda *e: joined("\n", *e, prefix="\ufeffdata: "),
    "event line": lambda *e: joined("\n", *e, prefix="event: message\ndata: "),
    "event line first": lambda *e: "event: start\n" + joined("\n", *e),
    "event without data": lambda *e: "event: ping\n\n" + joined("\n", *e),
    "empty data": lambda *e: "data\n\ndata:\n\n" + joined("\n", *e),
    "mark and event line": lambda *e: "\ufeffevent: message\n" + joined("\n", *e),
    "id and retry": lambda *e: joined("\n", *e, prefix="id: 7\nretry: 10\ndata: "),
    "lone id": lambda *e: "id: 7\n\n" + joined("\n", *e),
    "unknown field": lambda *e: joined("\n", *e, prefix="colour: red\ndata: "),
    "comment": lambda *e: ": hello\n\n:\n" + joined("\n", *e, prefix=": x\ndata: "),
    "carriage returns": lambda *e: joined("\r", *e),
    "both line ends": lambda *e: joined("\r\n", *e),
    "mixed line ends": lambda *e: joined("\r\n", e[0], done=False) + joined("\r", *e[1:]),
    "no space": lambda *e: joined("\n", *e, prefix="data:"),
    "two spaces": lambda *e: joined("\n", *e, prefix="data:  "),
    "several lines": lambda *e: "".join(pretty(event) for event in e),
    "more blank lines": lambda *e: "\n\n" + joined("\n\n", *e),
    "no end": lambda *e: joined("\n", *e, done=False).rstrip("\n"),
    "one line end": lambda *e: joined("\n", *e, done=False).rstrip("\n") + "\n",
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("wire", WIRES)
def test_every_valid_form_of_a_stream_is_read(
    script: Script, build: Build, wire: str, name: str
) -> None:
    """Every form that the standard for event streams allows gives all pieces."""
    script.events(
        STREAMS[name](
            chunk_of(wire, "one "), chunk_of(wire, "two 😀 "), chunk_of(wire, "three", "stop")
        ),
        done=False,
    )
    completions = complete(build(wire), MODELS[wire], stream=True)
    assert text_of(completions) == "one two 😀 three"
    assert completions[-1].finish_reason == "stop"


@pytest.mark.parametrize("name", STREAMS)
def test_packet_boundaries_do_not_change_the_events(name: str) -> None:
    """Packets that end inside characters, line ends or fields give the same events."""
    body = STREAMS[name]({"a": "ä"}, {"b": "😀"}, {"c": 1}).encode()

    def events_of(chunks: Iterable[bytes]) -> list[bytes]:
        return list(events(iter(chunks), heard=lambda: None, ended=lambda: None))

    whole = events_of([body])
    texts = [b"".join(part.removeprefix(b"data: ") for part in e.split(b"\n")) for e in whole]
    values = [json.loads(text) for text in texts if text != b"[DONE]"]
    assert values == [{"a": "ä"}, {"b": "😀"}, {"c": 1}]
    for at in range(len(body) + 1):
        assert events_of([body[:at], b"", body[at:]]) == whole
    assert events_of(body[n : n + 1] for n in range(len(body))) == whole


@pytest.mark.parametrize("wire", WIRES)
def test_a_truncated_stream_fails_or_is_complete(script: Script, build: Build, wire: str) -> None:
    """No cut makes a part look like a complete reply."""
    script.events(chunk_of(wire, "one "), chunk_of(wire, "two", "stop"), done=False)
    body = script.body
    for length in range(0, len(body), 17):
        script.body = body[:length]
        try:
            text = text_of(complete(build(wire), MODELS[wire], stream=True))
        except AttemptFailed:
            continue
        assert text == "one two"


NO_EVENTS = (" data: {}", "Data: {}", "data : {}", "\u00a0data: {}", "\x00data: {}")
NO_OBJECTS = ("data: null", "data: []", 'data: "one "', "data: 5")


@pytest.mark.parametrize("wire", WIRES)
def test_an_unreadable_piece_is_a_failure(script: Script, build: Build, wire: str) -> None:
    """Otherwise, the rest would pass for the complete reply."""
    for text in (*NO_EVENTS, *NO_OBJECTS):
        piece = text.replace("{}", json.dumps(chunk_of(wire, "one "))) + "\n\n"
        script.events(piece, chunk_of(wire, "two", "stop"), done=wire != "google")
        with pytest.raises(AttemptFailed) as caught:
            complete(build(wire), MODELS[wire], stream=True)
        assert caught.value.failure.remedy is Remedy.RETRY_LATER


@pytest.mark.parametrize("wire", WIRES)
def test_a_single_object_is_accepted_as_a_stream(script: Script, build: Build, wire: str) -> None:
    """Some services send a single object instead of a stream. An error is reported."""
    for indent in (None, 2):
        body = json.dumps(reply_of(wire, QUESTION), indent=indent)
        script.answer(200, body, {"content-type": "application/json"})
        assert text_of(complete(build(wire), MODELS[wire], stream=True)) == QUESTION
        body = json.dumps({"error": {"message": "busy", "code": 503}}, indent=indent)
        script.answer(200, "\n" + body, {"content-type": "application/json"})
        with pytest.raises(AttemptFailed, match=r"overloaded \(503\)"):
            complete(build(wire), MODELS[wire], stream=True)


def test_comments_do_not_count_as_data() -> None:
    """A comment keeps the connection open for a model that may never answer."""
    for chunks, expected in (
        ([b": wait\n\n"], 0),
        ([b": wa", b"it\n", b"\n"], 0),
        ([b"data: 1"], 1),
        ([b"da", b"ta: 1\n", b"\n"], 2),
        ([b": wait\ndata: 1\n\n"], 1),
    ):
        heard: list[None] = []
        list(events(chunks, partial(heard.append, None), lambda: None))
        assert len(heard) == expected
