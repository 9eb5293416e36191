"""Keeps credentials out of reprs, pickles, tracebacks, messages and prompts.

`%xmode Verbose`, debuggers and error trackers print the local variables of each frame. On its way
from the environment to a request, a key is in variables of ours, of dotenv, of httpx and of the
standard library, and an interrupt may come at any of those lines.
"""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from functools import wraps
from traceback import clear_frames
from types import NoneType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import unquote
from weakref import WeakValueDictionary

from .text.characters import without_controls
from .text.wording import shortened

if TYPE_CHECKING:
    from .types import Key

P = ParamSpec("P")
T = TypeVar("T")

# How keys of known providers begin.
_KEY_PREFIX = r"(?<![\w-])(?:sk-|gsk_|AIza|AQ\.|csk-|xai-|Bearer\s)"
# Real keys are longer; file names and words such as `sk-learn-tests` are shorter.
_KEY_LIKE = re.compile(
    _KEY_PREFIX + r"[\w.*…-]{16,}"
    # Mistral's keys have no prefix. Digests have no capitals, or only capitals.
    r"|(?<![\w-])(?=[^\W_]*[a-z])(?=[^\W_]*[A-Z])(?=[^\W_]*[0-9])[A-Za-z0-9]{32}(?![\w-]|[./]\w)"
)
# Shorter keys are words, not secrets: local services accept `ollama` or `not-needed` as a key.
_SHORTEST_SECRET = 12
# Up to the end of a word, without the punctuation after it.
_REST = r"(?:[^\s\"'`<>(){}\[\],;]*[^\s\"'`<>(){}\[\],;:.!?])?"

LONGEST_MESSAGE = 200
"""The most characters of a provider's message that are shown."""
# This many characters of a key in a row reveal it; fewer may be any word.
_FRAGMENT = 8
_READ = 2000
_REDACTED = "[key]"
_LEFT_OUT = "[removed, because it contained the key]"
# In a provider's message: the beginning of a key, or OpenAI's shortened form ("sk-abcd***wxyz").
_KEY_IN_MESSAGE = re.compile(_KEY_PREFIX + r"[\w.*…-]{4,}|\S{0,40}\*{3}\S{0,40}")
_WORD = re.compile(r"[^\s\"'`<>(){}\[\],;]+")
_SHORTENED = re.compile(r"([\w-]*)(?:\.{2,}|…|[*•]+|[xX]{4,})([\w-]*)")
_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|)")
_OTHER = re.compile(r"[\W_]+")
# Tuples, because a union would be built again for each of the many values in a request.
_WITHOUT_TEXT = (int, float, NoneType)
_COLLECTIONS = (list, tuple, set, frozenset)


class Hidden(str):
    """A text that is hidden in lists of local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<hidden>"


class Secret:
    """Holds a credential that repr, pickle and debuggers do not show."""

    __slots__ = ("__weakref__", "reveal")

    def __init__(self, text: str) -> None:
        # In a closure, because debuggers and rich reprs show the attributes of an object.
        text = Hidden(text)

        def reveal() -> str:
            return text

        self.reveal = reveal

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a credential cannot be pickled; create the provider in the other process")


def is_key_like(text: str) -> bool:
    """Return whether the text contains a word that looks like a key."""
    return _KEY_LIKE.search(text) is not None


# The keys of this process. Several may be equal, so they go by their identity.
_keys: WeakValueDictionary[int, Secret] = WeakValueDictionary()


def remember_key(secret: Secret) -> None:
    """Keep a key out of all errors of this process; see `without_key_like`."""
    _keys[id(secret)] = secret


def without_key_like(text: str) -> str:
    """Return the text without words that look like keys, and without the keys of this process."""
    text = _KEY_LIKE.sub("[key]", text)
    # A list, because another thread may add one.
    for reference in _keys.valuerefs():
        # A message may shorten a key, but keeps its beginning.
        head = Hidden(secret.reveal()[:_SHORTEST_SECRET] if (secret := reference()) else "")
        if len(head) == _SHORTEST_SECRET and head in text:
            text = re.sub(re.escape(head) + _REST, "[key]", text)
    return text


class hiding_locals:  # noqa: N801  # used like a function, as `contextlib.suppress` is
    """A `with` block whose exceptions have no local variables in the frames below it."""

    def __enter__(self) -> None:
        # An error that the caller is already handling keeps its frames.
        self._outer = sys.exception()

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is not None:
            _clear(error, self._outer)


def without_locals(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function: its exceptions have no local variables of it or of its callees."""

    @wraps(function)
    def hiding(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with hiding_locals():
                return function(*args, **kwargs)
        finally:
            # They are emptied instead of deleted, because tools that list arguments look up their
            # names.
            args, kwargs = (), {}  # type: ignore[assignment]

    return hiding


def _clear(error: BaseException, outer: BaseException | None) -> None:
    """Clear the frames of an error and of its causes and contexts, except the caller's error."""
    waiting: list[BaseException | None] = [error]
    seen: list[BaseException] = []
    while waiting:
        link = waiting.pop()
        if link is None or link is outer or any(link is one for one in seen):
            continue
        seen.append(link)
        clear_frames(link.__traceback__)
        waiting += [link.__cause__, link.__context__]


def redacted(text: str, secret: str) -> str:
    """Shorten a text to one line without the key, its parts, and anything that looks like a key.

    A word that contains part of the key is replaced. A text that contains the key in disguise
    (escaped, encoded, spread over several words) is left out up to its next colon.
    """
    text = _WORD.sub(lambda word: _without(word[0], secret), text[:_READ])
    text = _KEY_IN_MESSAGE.sub(_REDACTED, text)
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
    # Imported when it is needed: its table of entities is large.
    import html

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
        if len(secret) >= _SHORTEST_SECRET and secret in everything:
            return key
    return None


def _without(word: str, secret: str) -> str:
    """Return the word, or a placeholder if it is part of the key or a shortened form of it."""
    if len(secret) < _FRAGMENT:
        # Only as a whole word, because parts of so short a key are in every text.
        return _REDACTED if word == secret and len(secret) > 3 else word
    parts = (secret[start : start + _FRAGMENT] for start in range(len(secret) - _FRAGMENT + 1))
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
        letters, size = _letters(form), 2 * _FRAGMENT if number == 1 else _FRAGMENT
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
