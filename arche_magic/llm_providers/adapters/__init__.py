"""One small file per wire format: it turns a request into one call of the provider's SDK.

Importing this package loads no SDK; `build_adapter` loads the one it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from ..bounded import apart
from ..hidden import without_locals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..request import Request
    from ..types import Completion, Key, Period, Timeouts

WIRES = {
    "groq": "openai_compatible:GroqAdapter",
    "openai": "openai_compatible:OpenAIAdapter",
    "mistral": "mistral:MistralAdapter",
    "google": "google:GoogleAdapter",
}


class Adapter(Protocol):
    """Makes the calls of one key; threads may share it, and its HTTP connections are reused."""

    account: str | None
    """The account the provider's last answer named (organization, project), or None."""

    served_at: float | None
    """The time of the last answer by the server's own clock, in epoch seconds, or None."""

    def __init__(
        self,
        key: Key,
        base_url: str,
        periods: Mapping[str, Period] | None = None,
        token_limit: str = "",
    ) -> None: ...

    def complete(
        self, request: Request, model: str, *, stream: bool, timeouts: Timeouts
    ) -> Iterator[Completion]:
        """One call to the provider, which is made when the first piece is requested.

        Not streamed: one Completion. Streamed: one per piece of text, and a last one without text
        that has `usage` (None if the provider gave no count) and `finish_reason`. The first one has
        what the response headers say about limits. Closing the iterator drops the connection at
        once. `timeouts.total` is for the call as a whole, from the moment it is sent; the other
        timeouts can end it earlier.

        Raises:
            AttemptFailed: for every failure; no other exception is raised.
        """
        ...

    def models(self, timeout: float) -> tuple[str, ...]:
        """The names of the models that the key may use; costs no quota.

        `timeout` is in seconds, for the call as a whole.

        Raises:
            AttemptFailed: for every failure; no other exception is raised.
        """
        ...

    def close(self) -> None:
        """Close the connections; the adapter cannot be used afterwards."""
        ...


@without_locals
def build_adapter(
    wire: str,
    key: Key,
    base_url: str,
    periods: Mapping[str, Period] | None = None,
    token_limit: str = "",
) -> Adapter:
    """The adapter of a wire: `groq`, `openai`, `mistral` or `google`.

    The key is sent only to the scheme, host and port of the base URL. `periods` are the periods of
    the headers for `requests` and `tokens` whose names state none. `token_limit` is the parameter
    that limits a reply's tokens, if it is not the usual one of the wire.

    Raises:
        ValueError: the wire is not one of these.
    """
    if wire not in WIRES:
        raise ValueError(f"unknown wire {wire!r}; known: {', '.join(WIRES)}")
    module, _, name = WIRES[wire].partition(":")
    # The module imports the HTTP library.
    adapter = getattr(apart(lambda: import_module(f".{module}", __name__)), name)
    return cast("Adapter", adapter(key, base_url, periods, token_limit))
