"""Kept vectors, in the file of kept replies, by address.

A row holds the address, not the text. A vector says much about its text, so the file needs the
same care as the texts.
"""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from .store import ReplyStore, one_per_process, tables

# Files of earlier versions lack the table, and earlier versions ignore it.
_TABLE = """
CREATE TABLE IF NOT EXISTS vectors (
    address BLOB PRIMARY KEY NOT NULL,
    vector BLOB NOT NULL,
    kept_at REAL NOT NULL
)
"""
_LOOK_UP = "SELECT vector FROM vectors WHERE address = ?"


def vector_addresses(provider: str, model: str, dimensions: int | None) -> Callable[[str], bytes]:
    """Return the address of the vector of a text, by that model of that provider."""
    begun = hashlib.sha256(json.dumps(["vector", provider, model, dimensions]).encode())

    def address(text: str) -> bytes:
        whole = begun.copy()
        whole.update(text.encode("utf-8", "surrogatepass"))
        return whole.digest()

    return address


class VectorStore(ReplyStore):
    """Vectors by address, in a file of kept replies; see there for what happens on full disks."""

    def vectors(self, addresses: Iterable[bytes]) -> dict[bytes, array[float]]:
        """Return the kept vectors at these addresses."""
        found: dict[bytes, array[float]] = {}
        with self._complaining(), self._reading() as connection:
            if connection is None or "vectors" not in tables(connection):
                return {}
            # One transaction: otherwise each look-up locks the file anew.
            connection.execute("BEGIN")
            for address in addresses:
                row = connection.execute(_LOOK_UP, [address]).fetchone()
                if row is not None:
                    found[address] = _read(row[0])
        return found

    def keep_vectors(self, vectors: Mapping[bytes, array[float]], now: float) -> None:
        """Keep vectors at their addresses, replacing older ones."""
        with self._complaining(), self._change() as connection:
            connection.execute(_TABLE)
            connection.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)",
                [(address, _bytes(vector), now) for address, vector in vectors.items()],
            )


def _bytes(vector: array[float]) -> bytes:
    """Return its numbers as little-endian 32-bit floats."""
    if sys.byteorder == "big":
        vector = vector[:]
        vector.byteswap()
    return vector.tobytes()


def _read(data: bytes) -> array[float]:
    vector = array("f")
    vector.frombytes(data)
    if sys.byteorder == "big":
        vector.byteswap()
    return vector


def vector_store(path: Path) -> VectorStore:
    """Return the store for a file, one per process."""
    return one_per_process(VectorStore, path)
