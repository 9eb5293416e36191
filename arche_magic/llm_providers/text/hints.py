"""Parts of messages: suggestions for misspelt names, numbers of things, several reasons."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'groq'?` for a near miss, else nothing.

    The dashes before an option do not make it like another one.
    """
    import difflib

    names = {name.lstrip("-"): name for name in known}
    near = difflib.get_close_matches(word.lower().lstrip("-"), list(names), n=1, cutoff=0.6)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def plural(number: int, noun: str) -> str:
    """`1 row`, `2 rows`, `1,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def joined(reasons: Iterable[str]) -> str:
    """The reasons that are not empty, separated by semicolons.

    A provider's own sentence loses its full stop if another reason follows.
    """
    *others, last = [*filter(None, reasons)] or [""]
    return "; ".join([*(reason.rstrip(" .") for reason in others), last])
