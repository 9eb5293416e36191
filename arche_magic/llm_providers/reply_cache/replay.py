"""Finds and stores the reply to a request, under a hash of everything that was asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from ..bounded import TookTooLong, within
from ..errors import NotKept
from ..reply import Reply, default_of
from ..request import Request
from ..text.wording import shortened

if TYPE_CHECKING:
    from .store import ReplyStore

# Fields that say how a request is made, not what it asks. All other fields are part of the address,
# even new ones: a question may then be asked twice, but never gets the reply to another question.
_HOW = {
    "patience", "timeout", "fallback_on_filter", "replay", "fresh", "provider", "reserve",
    "private", "expected_tokens", "tag", "counts_as",
}  # fmt: skip
_SHOWN_CHARACTERS = 60
# A placeholder for the text of a message. Prompts contain no lone surrogates.
_MARK = "\ud800 prompt"
# How long a disk that hangs, or a locked file, may delay a request.
_LONGEST_SECONDS = 5.0
_SILENT = TimeoutError("it does not answer")


def address(request: Request, providers: Sequence[str] = ()) -> str:
    """Return the address of the reply to a request: a hash of everything that was asked.

    The messages and parameters of the request count. Its patience and timeout do not. `providers`
    are the only providers that may answer; empty for any.
    """
    return hashlib.sha256(_asked(request, providers)).hexdigest()


def addresses_like(sample: Request, providers: Sequence[str] = ()) -> Callable[[Request], str]:
    """Return a fast `address` for many requests that differ only in their last message.

    The rest is encoded once, so that a million prompts are hashed in seconds.
    """
    *before, last = sample.messages
    marked = replace(sample, messages=(*before, replace(last, content=_MARK, images=())))
    head, _, tail = _asked(marked, providers).rpartition(json.dumps(_MARK).encode())
    begun = hashlib.sha256(head)

    def address_of(request: Request) -> str:
        message = request.messages[-1]
        if message.images:
            return address(request, providers)
        whole = begun.copy()
        whole.update(json.dumps(message.content).encode() + tail)
        return whole.hexdigest()

    return address_of


def vector_addresses(provider: str, model: str, dimensions: int | None) -> Callable[[str], bytes]:
    """Return the address of the vector of a text, by that model of that provider."""
    begun = hashlib.sha256(json.dumps(["vector", provider, model, dimensions]).encode())

    def address(text: str) -> bytes:
        whole = begun.copy()
        whole.update(text.encode("utf-8", "surrogatepass"))
        return whole.digest()

    return address


def kept_reply(request: Request, address: str, store: ReplyStore) -> Reply | None:
    """Return the reply kept at this address, with its parsed value.

    None if no kept reply can answer the request.
    """
    if request.replay == "off" or (request.fresh and request.replay != "only"):
        return None
    try:
        longest = min(_LONGEST_SECONDS, request.timeout / 2)
        reply = within(longest, lambda: store.lookup_many([address]).get(address))
    except TookTooLong:
        store.complain(_SILENT)
        return None
    if reply is None or request.schema is None or reply.tool_calls:
        return reply
    try:
        return reply.changed(parsed=request.schema.read(str(reply)))
    except ValueError:
        # A class's own validators are not part of the address and may have changed.
        return None


def keep(reply: Reply, address: str, store: ReplyStore, now: float) -> None:
    """Keep a new reply at this address; a disk that hangs delays the request for 5 s at most."""
    try:
        within(_LONGEST_SECONDS, lambda: store.finish({address: reply}, now))
    except TookTooLong:
        store.complain(_SILENT)


def not_kept(request: Request, store: ReplyStore) -> NotKept:
    """Return the error for a request that only a kept reply may answer, if there is none."""
    prompt = shortened(" ".join(request.messages[-1].content.split()), _SHOWN_CHARACTERS)
    where = f"{store.path} has no kept reply for {prompt!r}"
    if store.problem:
        where += f", which cannot be read ({store.problem})"
    elif not store.path.exists():
        where = (
            f"there are no kept replies: the file {store.path} does not exist "
            "(ARCHE_REPLIES sets another path)"
        )
    return NotKept(
        f"{where}; replay is set to only, so nothing was sent. "
        "Run it once with a key and replay set to keep"
    )


def _asked(request: Request, providers: Sequence[str]) -> bytes:
    """Return everything that was asked, as JSON with sorted names."""
    asked = {name: value for name, value in _plain(request).items() if name not in _HOW}
    asked["providers"] = sorted(set(providers))
    return json.dumps(asked, sort_keys=True, separators=(",", ":")).encode("ascii")


def _plain(value: Any) -> Any:
    """Convert a value to JSON, without defaults, so that new fields change nothing."""
    if is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in fields(value)
            if field.compare and getattr(value, field.name) != default_of(field)
        }
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
