"""Classifies errors of redis-py: an outage, which passes, or a refusal, which does not."""

from __future__ import annotations

import re

from redis import exceptions

_REFUSALS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.AuthenticationError, "it does not accept the user name or the password"),
    (exceptions.AuthorizationError, "it does not accept the user name or the password"),
    (exceptions.NoPermissionError, "its user may not read and write the keys arche_magic:*"),
    (exceptions.ReadOnlyError, "it is a read-only replica; name its primary"),
    (exceptions.OutOfMemoryError, "its memory is full (maxmemory)"),
)


def refusal(error: Exception) -> str:
    """Why Redis refuses, in our words and not the server's; "" for an outage."""
    for kind, words in _REFUSALS:
        if isinstance(error, kind):
            return words
    # The server is starting, or its primary or slot is changing.
    passing = (exceptions.TryAgainError, exceptions.MasterDownError)
    if not isinstance(error, exceptions.ResponseError) or isinstance(error, passing):
        return ""
    code = re.match(r"[A-Z]{3,20}\b", str(error))
    if code and code[0] in ("NOAUTH", "WRONGPASS"):
        return _REFUSALS[0][1]
    return f"it refuses the change ({code[0] if code else type(error).__name__})"
