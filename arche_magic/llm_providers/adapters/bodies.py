"""Reads the body of an answer: decompressed, limited in size, as plain events, or as an error.

A few kilobytes can decompress to gigabytes, and an error page or a line can be endless. The SDKs
read everything, so this module limits what they get.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
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
MOST_READ = 20_000
"""Characters of the body of an error that are searched."""

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
    with suppress(Unreadable):
        for chunk in chunks:
            kept += chunk
            if len(kept) >= most:
                break
    return bytes(kept[:most])


def decompressed(
    chunks: Iterable[bytes], encoding: str, ended: Callable[[], None]
) -> Iterator[bytes]:
    """The body without its `content-encoding`, in small pieces; `ended` is as in `events`."""
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
            size += len(line)
            _check_length(size)
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
            _check_length(len(line))
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


def _check_length(size: int) -> None:
    if size > MOST_OF_A_REPLY:
        raise Unreadable(f"an event is longer than {MOST_OF_A_REPLY / 1e6:g} MB")


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text, with -1 for each whole number of more than 400 digits."""
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


class ErrorInReply(Exception):
    """The body of a response with status 200 describes an error; `body` is that description."""

    def __init__(self, body: Any) -> None:
        super().__init__("an error instead of a reply")
        self.body = body


def error_fields(body: Any) -> Mapping[str, Any]:
    """Return the mapping that describes the error; {} if there is none.

    Seen: `{"error": {…}}`, `[{"error": {…}}]` (Google's OpenAI-compatible endpoint), the bare
    mapping, `{"errors": [{…}]}` (Cloudflare), `{"detail": "…"}`, `{"detail": […]}` and
    `{"message": {"detail": […]}}` (Mistral), `{"detail": {…}}`, and plain text.
    """
    for _ in range(4):
        if isinstance(body, str):
            body = parse_body(body) if body[:1] in ("{", "[") else {}
        if isinstance(body, list):
            body = body[0] if body else {}
        if not isinstance(body, dict):
            return {}
        wrapped = [body.get(name) for name in ("error", "data", "errors")]
        if isinstance(body.get("detail"), dict):
            wrapped.append(body["detail"])
        inner = next((w for w in wrapped if w and isinstance(w, dict | list | str)), None)
        if inner is None:
            return body
        if isinstance(inner, str) and inner[:1] not in ("{", "["):
            return {**body, "message": body.get("message") or inner}
        body = inner
    return {}


def field_text(fields: Mapping[str, Any], name: str) -> str:
    """Return a text or a whole number as text, as codes are sent; "" for anything else."""
    value = fields.get(name)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return the mappings in a list; none if it is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def validation_problems(fields: Mapping[str, Any]) -> str:
    """`temperature (Input should be less than …)` from the list that FastAPI's servers send."""
    message = fields.get("message")
    detail = message.get("detail") if isinstance(message, dict) else fields.get("detail")
    steps = {
        ".".join(str(step) for step in problem["loc"][1:]): problem.get("msg")
        for problem in mappings(detail)
        if isinstance(problem.get("loc"), list)
    }
    return "; ".join(f"{parameter} ({reason})" for parameter, reason in steps.items())


def words_of(body: Any, fields: Mapping[str, Any]) -> str:
    """Return the server's own words: its message, the title of a page, or the unchanged body."""
    words = field_text(fields, "message") or field_text(fields, "detail")
    words = words or validation_problems(fields)
    if behind := field_text(mapping(fields.get("metadata")), "raw"):
        # OpenRouter's own message is "Provider returned error" alone.
        words = f"{words}: {behind}"
    if words or not body:
        return words
    if not isinstance(body, str):
        return json.dumps(body)[:MOST_READ]
    if not is_page(body):
        return body
    title = re.search(r"<(title|h1)[^>]{0,100}>([^<]{1,200})", body[:MOST_READ], re.IGNORECASE)
    return title[2].strip() if title else ""


def event_status(fields: Mapping[str, Any]) -> int | None:
    """Return the HTTP status that fits an error sent with status 200; None if it does not say."""
    for name in ("status_code", "raw_status_code", "code"):
        if re.fullmatch("[45][0-9][0-9]", field_text(fields, name)):
            return int(field_text(fields, name))
    words = {field_text(fields, name) for name in ("code", "type", "status")}
    if words & {"rate_limit_exceeded", "rate_limited", "RESOURCE_EXHAUSTED"}:
        return 429
    if words & {"server_error", "internal_server_error", "api_error", "INTERNAL", "UNAVAILABLE"}:
        return 500
    return 400 if field_text(fields, "type").startswith("invalid_request") else None


def is_page(body: Any) -> bool:
    """Return whether a body is HTML or XML, which no API sends."""
    return isinstance(body, str) and body.lstrip()[:1] == "<"


def is_code(word: str) -> bool:
    """Return whether a server's word is a name for something, such as `rate_limit_exceeded`."""
    return re.fullmatch(r"[\w.:/-]{1,64}", word, re.ASCII) is not None


def label(status: int, fields: Mapping[str, Any]) -> str:
    """`(429 rate_limit_exceeded)`; a code that is only a number is left to its status and type."""
    names = (field_text(fields, name) for name in ("code", "status", "type"))
    # Anything else may be a text that quotes the prompt.
    word = next((name for name in names if is_code(name) and not name.isdigit()), "")
    return f"({status} {word})" if word else f"({status})"
