"""Texts that reprs, pickles and lists of local variables do not show."""

from __future__ import annotations

from typing import Any


class Hidden(str):
    """A text that is hidden in lists of local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<hidden>"


class Secret:
    """Holds a credential that repr, pickle and debuggers do not show."""

    __slots__ = ("reveal",)

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
