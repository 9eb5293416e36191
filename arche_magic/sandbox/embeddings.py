"""Simulated embeddings: unit vectors, the same for equal texts and close for similar ones."""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import re
import struct

_WORD = re.compile(r"\w+")
_SPREAD = 24  # how many numbers of a vector a word changes
_WHOLE = 0.2  # the weight of the text as a whole beside the weight of its words


def embed(text: str, model: str, length: int, dimensions: int | None = None) -> list[float]:
    """The vector of a text from a model whose vectors have `length` numbers.

    `dimensions` cuts it to that many numbers and scales it to length 1 again, as the real models
    allow it. Texts that share words have close vectors.
    """
    # Few numbers differ from 0, which keeps a request with 2,048 texts fast.
    changed: dict[int, float] = {}
    weights = [(text, _WHOLE)]
    weights += [(word, min(len(word), 8)) for word in _WORD.findall(text.lower())]
    for part, weight in weights:
        for place, value in _changes(part, model, length):
            changed[place] = changed.get(place, 0.0) + weight * value
    vector = [0.0] * (dimensions or length)
    changed = {place: value for place, value in changed.items() if value and place < len(vector)}
    size = math.hypot(*changed.values())
    for place, value in (changed if size else {0: 1.0}).items():
        vector[place] = value / (size or 1.0)
    return vector


@functools.lru_cache(maxsize=20_000)
def _changes(text: str, model: str, length: int) -> tuple[tuple[int, float], ...]:
    """What a text adds to a vector: places and values, a third of them in the first eighth."""
    content = f"{model}|{text}".encode("utf-8", "replace")
    digest = hashlib.shake_256(content).digest(4 * _SPREAD)
    changes = []
    for number, (raw,) in enumerate(struct.iter_unpack(">I", digest)):
        # The first numbers of a vector must tell texts apart, too, because vectors can be cut.
        room = max(1, length // 8) if number % 3 == 0 else length
        changes.append((raw // 2 % room, 1.0 if raw % 2 else -1.0))
    return tuple(changes)


def as_base64(vector: list[float]) -> str:
    """A vector as OpenAI sends it for `encoding_format="base64"`: 32-bit floats, little-endian."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
