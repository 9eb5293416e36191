"""Removes keys from providers' messages, and finds keys in prompts."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .secrets import KEY_PREFIX, SHORTEST_SECRET, without_locals
from .text.characters import without_controls
from .text.wording import shortened

if TYPE_CHECKING:
    from .types import Key

LONGEST_MESSAGE = 200
FRAGMENT = 8
"""This many characters of a key in a row reveal it; fewer may be any word."""
_READ = 2000
_REDACTED = "[key]"
_LEFT_OUT = "[removed, because it contained the key]"
# The beginnings of keys, and OpenAI's shortened form of a refused key ("sk-abcd***wxyz").
_KEY_LIKE = re.compile(KEY_PREFIX + r"[\w.*…-]{4,}|\S{0,40}\*{3}\S{0,40}")
_WORD = re.compile(r"[^\s\"'`<>(){}\[\],;]+")
_SHORTENED = re.compile(r"([\w-]*)(?:\.{2,}|…|[*•]+|[xX]{4,})([\w-]*)")
_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|)")
_OTHER = re.compile(r"[\W_]+")
# Tuples, because a union would be built again for each of the many values in a request.
_WITHOUT_TEXT = (int, float, NoneType)
_COLLECTIONS = (list, tuple, set, frozenset)


def redacted(text: str, secret: str) -> str:
    """Shorten a text to one line without the key, its parts, and anything that looks like a key.

    A word that contains part of the key is replaced. A text that contains the key in disguise
    (escaped, encoded, spread over several words) is left out up to its next colon.
    """
    text = _WORD.sub(lambda word: _without(word[0], secret), text[:_READ])
    text = _KEY_LIKE.sub(_REDACTED, text)
    if quotes(text, secret):
        pieces = [_LEFT_OUT if quotes(p, secret) else p for p in text.split(": ")]
        text = ": ".join(pieces)
    if quotes(text, secret):
        text = _LEFT_OUT
    text = without_controls(" ".join(text.split()))
    text = "".join(character for character in text if character.isprintable())
    return shortened(text, LONGEST_MESSAGE)


def quotes(text: str, secret: str) -> bool:
    """Return whether a text reveals eight characters of a key in a row, plain or in disguise.

    Disguises are: other case; spaces and punctuation in between; JSON, URL and HTML escapes;
    base64; hex.
    """
    pieces = _pieces(secret)
    for _ in range(3):
        plain = _letters(text)
        if any(piece in plain for piece in pieces):
            return True
        before, text = text, unquote(html.unescape(_ESCAPE.sub(_unescaped, text)))
        if text == before:
            break
    return False


@without_locals
def key_in(request: Any, keys: Iterable[Key]) -> Key | None:
    """Return the first of the keys that is in a text of the request, even over several lines.

    A request can be any value: the texts in dataclasses, mappings and sequences are searched.
    """
    texts: list[str] = []
    _add_texts(request, texts)
    texts += ["".join(text.split()) for text in texts if "\n" in text]
    # There may be hundreds of keys: each is looked for once.
    everything = "\0".join(texts)
    for key in keys:
        secret = key.secret()
        if len(secret) >= SHORTEST_SECRET and secret in everything:
            return key
    return None


def _without(word: str, secret: str) -> str:
    """Return the word, or a placeholder if it is part of the key or a shortened form of it."""
    if len(secret) < FRAGMENT:
        # Only as a whole word, because parts of so short a key are in every text.
        return _REDACTED if word == secret and len(secret) > 3 else word
    parts = (secret[start : start + FRAGMENT] for start in range(len(secret) - FRAGMENT + 1))
    if any(part in word for part in parts):
        return _REDACTED
    for head, tail in _SHORTENED.findall(word):
        begins = len(head) >= 3 and secret.startswith(head)
        if begins or (len(tail) >= 3 and secret.endswith(tail)):
            return _REDACTED
    return word


def _pieces(secret: str) -> set[str]:
    """Return the pieces that reveal the key in a text reduced to its letters and digits."""
    raw = secret.encode("utf-8", "surrogatepass")
    forms = [secret, raw.hex()]
    for offset in range(3):
        # The characters at both ends depend on the text around the key.
        encoded = base64.b64encode(bytes(offset) + raw).decode().rstrip("=")
        forms.append(encoded[2 if offset else 0 : -1])
    pieces = set()
    for number, form in enumerate(forms):
        letters, size = _letters(form), 2 * FRAGMENT if number == 1 else FRAGMENT
        pieces |= {letters[n : n + size] for n in range(len(letters) - size + 1)}
    return pieces


def _letters(text: str) -> str:
    return _OTHER.sub("", text).casefold()


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else ""


def _add_texts(value: Any, texts: list[str]) -> None:
    """Add all texts in a value to a list."""
    if isinstance(value, str):
        texts.append(value)
    elif isinstance(value, _WITHOUT_TEXT):
        pass
    elif isinstance(value, _COLLECTIONS):
        for entry in value:
            _add_texts(entry, texts)
    elif is_dataclass(value) and not isinstance(value, type):
        # Dataclasses with slots are not supported: such a class of ours would raise an error here,
        # and nothing would be sent.
        for entry in vars(value).values():
            # Most options of a request are not set.
            if entry:
                _add_texts(entry, texts)
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            _add_texts(name, texts)
            _add_texts(entry, texts)
