"""Reading the vectors in answers to embedding requests."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..types import Vectors


def read_vectors(values: Sequence[Any], count: int) -> Vectors:
    """Return one vector per text, in 32-bit floats.

    Args:
        values: each a list of numbers, or a base64 text of little-endian 32-bit floats.
        count: the number of texts.

    Raises:
        ValueError: another number of vectors, vectors of different lengths, empty ones, or values
            that are not finite numbers.
    """
    if len(values) != count:
        raise ValueError(f"{len(values)} vectors for {count} texts")
    vectors = tuple(map(_read, values))
    if len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
        raise ValueError("vectors of different lengths, or empty ones")
    # 32-bit floats do not overflow a sum of 64-bit ones, so only infinities and NaN remain.
    if not all(math.isfinite(sum(vector)) for vector in vectors):
        raise ValueError("a vector with infinite or missing numbers")
    return vectors


def in_order(data: Sequence[Any]) -> list[Any]:
    """Return the vectors of OpenAI's and Mistral's `data`, in the order of the texts.

    Raises:
        TypeError, KeyError: an entry is not an embedding.
    """
    by_place = {entry.get("index"): entry["embedding"] for entry in data}
    places = range(len(data))
    # Some services number them wrongly; they are then in order.
    in_place = by_place.keys() == set(places)
    return [by_place[n] if in_place else data[n]["embedding"] for n in places]


def _read(value: Any) -> array[float]:
    if not isinstance(value, str):
        try:
            return array("f", value)
        except (TypeError, OverflowError):
            raise ValueError("a vector that is not a list of numbers") from None
    vector = array("f")
    vector.frombytes(base64.b64decode(value, validate=True))
    if sys.byteorder == "big":
        vector.byteswap()
    return vector
