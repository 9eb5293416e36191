"""Reads the body of an answer: decompressed, limited in size, and as plain events.

A few kilobytes can decompress to gigabytes, an error page can be as long as a film, and a line can
be endless. The SDKs read everything, so this module limits what they get.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx

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


def decompressed(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """The body without its `content-encoding`, in pieces of at most 64 kB.

    Raises:
        Unreadable: the encoding is not one that we accept, or the data is damaged.
    """
    encodings = [name for part in encoding.split(",") if (name := part.strip().lower())]
    match [name for name in encodings if name != "identity"]:
        case []:
            yield from chunks
        case ["gzip" | "x-gzip"]:
            yield from _inflated(chunks, 16 + zlib.MAX_WBITS)
        case ["deflate"]:
            yield from _inflated(chunks, zlib.MAX_WBITS)
        case _:
            raise Unreadable("the answer is compressed in a way that was not requested")


def _inflated(chunks: Iterable[bytes], window: int) -> Iterator[bytes]:
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
                return


def events(chunks: Iterable[bytes], heard: Callable[[], None]) -> Iterator[bytes]:
    """The events of a stream, each as `data: …` lines and a blank one.

    The SDKs support different parts of the format: one drops an event that follows a byte order
    mark, another drops an event that has an `event:` line. This reader follows the standard
    (https://html.spec.whatwg.org/multipage/server-sent-events.html) with two exceptions: the last
    event needs no blank line, and JSON under an unknown name is an error, because a piece of the
    reply would be missing. JSON instead of events is passed on as one event.

    Args:
        chunks: the body, cut anywhere.
        heard: called for each chunk that has more than comments. Comments only keep the connection
            open, and the model may never answer.
    """
    reader = _EventReader()
    for chunk in chunks:
        found = list(reader.read(chunk))
        if reader.heard:
            heard()
        yield from found
    yield from reader.end()


class _EventReader:
    """Reads the lines of a stream. `heard`: whether the last chunk had more than comments."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._after_return = self._is_json = False
        self.heard = False

    def read(self, chunk: bytes) -> Iterator[bytes]:
        self.heard = False
        if self._after_return and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r") if chunk else False
        for part in chunk.splitlines(keepends=True):
            self._line += part
            if self._size + len(self._line) > MOST_OF_A_REPLY:
                raise Unreadable(f"an event is longer than {MOST_OF_A_REPLY / 1e6:g} MB")
            self.heard = self.heard or not self._line.startswith((b":", b"\r", b"\n"))
            if part.endswith((b"\r", b"\n")):
                yield from self._take_line()

    def end(self) -> Iterator[bytes]:
        yield from self._take_line()
        yield from self._take_line()

    def _take_line(self) -> Iterator[bytes]:
        """Take the line that is complete; a blank one ends an event."""
        line = bytes(self._line).rstrip(b"\r\n")
        self._line.clear()
        # Servers that join files leave a byte order mark before each of them.
        while line.startswith(_BYTE_ORDER_MARK):
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            if any(self._data):
                yield b"".join(b"data: %b\n" % data for data in self._data) + b"\n"
            self._data, self._size, self._is_json = [], 0, False
            return
        begins_json = not self._data and line.lstrip().startswith((b"{", b"["))
        self._is_json = self._is_json or begins_json
        name, _, value = line.partition(b":")
        if self._is_json:
            value = line
        elif name != b"data":
            if name and name not in _FIELDS and b"{" in line:
                raise Unreadable("the stream has JSON that is not an event")
            return
        self._data.append(value.removeprefix(b" "))
        self._size += len(line)


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text; a whole number of more than 400 digits is read as -1.

    Raises:
        ValueError, RecursionError: it is not JSON.
    """
    return json.loads(text, parse_int=_whole_number)


def _whole_number(digits: str) -> int:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else -1


def rewritten(
    chunks: Iterable[bytes], keep: Callable[[Any], Any] | None, *, events: bool
) -> Iterator[bytes]:
    """The JSON of a body, or of each event of a stream, with numbers that Python can read.

    If `keep` is given, only what it leaves of the JSON is passed on.
    """
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
        yield form % json.dumps(keep(value) if keep else value).encode()


class Body(httpx.SyncByteStream):
    """The bytes of an answer as an SDK gets them, and how to close it."""

    def __init__(self, chunks: Iterable[bytes], close: Callable[[], None]) -> None:
        self._chunks, self._close = chunks, close

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks

    def close(self) -> None:
        """Drop the connection if the body was not read to its end."""
        self._close()
