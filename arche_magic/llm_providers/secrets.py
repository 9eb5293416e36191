"""Keeps credentials out of reprs, pickles, tracebacks and messages.

`%xmode Verbose`, debuggers and error trackers print the local variables of each frame. On its way
from the environment to a request, a key is in variables of ours, of dotenv, of httpx and of the
standard library, and an interrupt may come at any of those lines.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import wraps
from traceback import clear_frames
from typing import Any, ParamSpec, TypeVar
from weakref import WeakValueDictionary

P = ParamSpec("P")
T = TypeVar("T")

KEY_PREFIX = r"(?<![\w-])(?:sk-|gsk_|AIza|AQ\.|csk-|xai-|Bearer\s)"
"""How keys of known providers begin, as a regular expression."""
# Real keys are longer; file names and words such as `sk-learn-tests` are shorter.
_KEY_LIKE = re.compile(
    KEY_PREFIX + r"[\w.*…-]{16,}"
    # Mistral's keys have no prefix. Digests have no capitals, or only capitals.
    r"|(?<![\w-])(?=[^\W_]*[a-z])(?=[^\W_]*[A-Z])(?=[^\W_]*[0-9])[A-Za-z0-9]{32}(?![\w-]|[./]\w)"
)
SHORTEST_SECRET = 12
"""Shorter keys are words, not secrets: local services accept `ollama` or `not-needed` as a key."""
# Up to the end of a word, without the punctuation after it.
_REST = r"(?:[^\s\"'`<>(){}\[\],;]*[^\s\"'`<>(){}\[\],;:.!?])?"


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
        head = Hidden(secret.reveal()[:SHORTEST_SECRET] if (secret := reference()) else "")
        if len(head) == SHORTEST_SECRET and head in text:
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
