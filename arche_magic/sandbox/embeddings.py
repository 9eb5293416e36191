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
    vector = [0.0] * length
    for place, value in _changes(text, model, length):
        vector[place] += _WHOLE * value
    for word in _WORD.findall(text.lower()):
        for place, value in _changes(word, model, length):
            vector[place] += value * min(len(word), 8)
    vector = vector[: dimensions or length]
    size = math.sqrt(sum(value * value for value in vector if value))
    if not size:
        return [1.0] + [0.0] * (len(vector) - 1)
    return [value / size if value else 0.0 for value in vector]


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
