"""Reads the body of an answer: decompressed, limited in size, and as plain events.

A few kilobytes can decompress to gigabytes, and an error page or a line can be endless. The SDKs
read everything, so this module limits what they get.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import httpcore
import httpx

from ..text.characters import whole_characters

ACCEPTED_ENCODINGS = "gzip, deflate"
MOST_OF_AN_ERROR = 65_536
"""Maximum bytes that are read of an error, before and after decompression."""
MOST_OF_A_REPLY = 32_000_000
"""Maximum bytes of a reply in one piece, or of one event of a stream."""
MOST_OF_A_STREAM = 256_000_000
"""Maximum bytes of a stream; a token takes about 300."""

_PIECE = 65_536
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIELDS = (b"data", b"event", b"id", b"retry")
_LONGEST_NUMBER = 400
# Python refuses numbers of more than 4,300 digits, and an SDK would then refuse the whole reply.
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (_LONGEST_NUMBER + 1))


class Unreadable(httpx.StreamError):
    """The body is too long, has an encoding that was not requested, or is not an event stream."""


def bounded(chunks: Iterable[bytes], most: int) -> Iterator[bytes]:
    """The chunks; raises Unreadable once there are more than `most` bytes."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > most:
            raise Unreadable(f"the answer is longer than {most / 1e6:g} MB")
        yield chunk


def beginning(chunks: Iterable[bytes], most: int) -> bytes:
    """The first bytes that can be read."""
    kept = bytearray()
    try:
        for chunk in chunks:
            kept += chunk
            if len(kept) >= most:
                break
    except Unreadable:
        pass
    return bytes(kept[:most])


def decompressed(
    chunks: Iterable[bytes], encoding: str, ended: Callable[[], None]
) -> Iterator[bytes]:
    """The body without its `content-encoding`, in pieces of at most 64 kB; `ended` as in `events`.

    Raises:
        Unreadable: the encoding is not one that we accept, or the data is damaged.
    """
    encodings = [name for part in encoding.split(",") if (name := part.strip().lower())]
    match [name for name in encodings if name != "identity"]:
        case []:
            yield from chunks
        case ["gzip" | "x-gzip"]:
            yield from _inflated(chunks, 16 + zlib.MAX_WBITS, ended)
        case ["deflate"]:
            yield from _inflated(chunks, zlib.MAX_WBITS, ended)
        case _:
            raise Unreadable("the answer is compressed in a way that was not requested")


def _inflated(chunks: Iterable[bytes], window: int, ended: Callable[[], None]) -> Iterator[bytes]:
    inflate, begun = zlib.decompressobj(window), False
    for chunk in chunks:
        rest, piece = chunk, b""
        while rest or len(piece) == _PIECE:
            try:
                piece = inflate.decompress(rest, _PIECE)
            except zlib.error:
                if begun or window != zlib.MAX_WBITS:
                    raise Unreadable("the compressed answer is damaged") from None
                # Some servers leave out the header that the standard demands.
                inflate, begun = zlib.decompressobj(-zlib.MAX_WBITS), True
                continue
            begun, rest = True, inflate.unconsumed_tail
            if piece:
                yield piece
            if inflate.eof:
                _read_end(chunks, ended)
                return


def _read_end(chunks: Iterable[bytes], ended: Callable[[], None]) -> None:
    """Read the end of a message whose content has arrived, so that its connection can be reused."""
    # It has usually arrived too. A server that does not send it delays nothing.
    ended()
    with suppress(
        httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, Unreadable
    ):
        for _ in chunks:
            pass


def events(
    chunks: Iterable[bytes], heard: Callable[[], None], ended: Callable[[], None]
) -> Iterator[bytes]:
    """The events of a stream, each as `data: …` lines and a blank one.

    The SDKs drop events after a byte order mark or with an `event:` line. This reader follows the
    standard (https://html.spec.whatwg.org/multipage/server-sent-events.html) with two exceptions:
    the last event needs no blank line, and JSON under an unknown name is an error, because a piece
    of the reply would be missing. JSON instead of events is passed on as one event.

    Args:
        chunks: the body, cut anywhere.
        heard: called for each chunk that has more than comments. Comments only keep the connection
            open, and the model may never answer.
        ended: called when the content is complete; must limit the time in which `chunks` end.
    """
    data: list[bytes] = []
    size, is_json = 0, False
    for line in _lines(chunks, heard):
        if not line:
            is_last = data == [b"[DONE]"]
            if is_last:
                # Some SDKs read no further.
                _read_end(chunks, ended)
            if any(data):
                yield b"".join(b"data: %b\n" % value for value in data) + b"\n"
            if is_last:
                return
            data, size, is_json = [], 0, False
            continue
        is_json = is_json or (not data and line.lstrip().startswith((b"{", b"[")))
        name, _, value = line.partition(b":")
        if is_json or name == b"data":
            data.append((line if is_json else value).removeprefix(b" "))
            size = _checked(size + len(line))
        elif name and name not in _FIELDS and b"{" in line:
            raise Unreadable("the stream has JSON that is not an event")


def _lines(chunks: Iterable[bytes], heard: Callable[[], None]) -> Iterator[bytes]:
    """The lines of a stream without their ends, and a blank one after the last."""
    line, after_return = bytearray(), False
    for chunk in chunks:
        found, is_comment = [], True
        # A line feed after a carriage return in the chunk before belongs to the same line end.
        text = chunk.removeprefix(b"\n") if after_return else chunk
        after_return = text.endswith(b"\r")
        for part in text.splitlines(keepends=True):
            line += part
            _checked(len(line))
            is_comment = is_comment and line.startswith((b":", b"\r", b"\n"))
            if part.endswith((b"\r", b"\n")):
                found.append(_without_marks(line))
                line.clear()
        if not is_comment:
            heard()
        yield from found
    yield from (_without_marks(line), b"")


def _without_marks(line: bytearray) -> bytes:
    """A line without its end, and without the byte order marks that joined files leave in it."""
    bare = bytes(line).rstrip(b"\r\n")
    while bare.startswith(_BYTE_ORDER_MARK):
        bare = bare.removeprefix(_BYTE_ORDER_MARK)
    return bare


def _checked(size: int) -> int:
    if size > MOST_OF_A_REPLY:
        raise Unreadable(f"an event is longer than {MOST_OF_A_REPLY / 1e6:g} MB")
    return size


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text; a whole number of more than 400 digits is read as -1.

    Raises:
        ValueError, RecursionError: it is not JSON.
    """
    return json.loads(text, parse_int=_whole_number)


def parse_body(text: str) -> Any:
    """JSON if it is JSON, else the text."""
    try:
        return read_json(text)
    except (ValueError, RecursionError):
        return text


def _whole_number(digits: str) -> int:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else -1


def rewritten(
    chunks: Iterable[bytes], keep: Callable[[Any], Any] | None, *, events: bool
) -> Iterator[bytes]:
    """What `keep` leaves of the JSON of a body or of each event, with numbers Python can read."""
    for text in chunks if events else [b"".join(chunks)]:
        if keep is None and not _LONG_NUMBER.search(text):
            yield text
            continue
        lines = text.split(b"\n") if events else [text]
        try:
            value = read_json(b"\n".join(line.removeprefix(b"data: ") for line in lines))
        except (ValueError, RecursionError):
            yield text
            continue
        form = b"data: %b\n\n" if events else b"%b"
        kept = json.dumps(keep(value) if keep else value, ensure_ascii=events)
        # Mistral's SDK refuses a reply with half a character; a stream sends the other half later.
        yield form % whole_characters(kept).encode()
