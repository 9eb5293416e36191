"""One small file per wire format: a request in our words becomes one call of the provider's SDK.

Importing this package loads no SDK; `build_adapter` loads the one it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from ..bounded import apart
from ..tracebacks import without_locals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..types import Completion, Key, Period, Request, Timeouts

WIRES = {
    "groq": "openai_compatible:GroqAdapter",
    "openai": "openai_compatible:OpenAIAdapter",
    "mistral": "mistral:MistralAdapter",
    "google": "google:GoogleAdapter",
}


class Adapter(Protocol):
    """One key's way to one provider; its HTTP connections are reused, and safe between threads."""

    account: str | None
    """The account the provider's last answer named (organization, project), or None."""

    served_at: float | None
    """When the last answer was made by the server's own clock, epoch seconds, or None."""

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
        """One call to the provider, made when the first piece is asked for.

        Not streamed: one Completion. Streamed: one per piece of text, and a last one without
        text that carries `usage` (None if the provider gave none) and `finish_reason`. What the
        response headers said of limits comes with the first. Closing the iterator drops the
        connection at once. `timeouts.total` is for the call as a whole, counted from its sending;
        the others end it earlier.

        Raises:
            AttemptFailed: whatever went wrong; nothing else leaves here.
        """
        ...

    def models(self, timeout: float) -> tuple[str, ...]:
        """The names of the models the key may ask for; takes nothing from its quota.

        `timeout` is in seconds, for the call as a whole.

        Raises:
            AttemptFailed: whatever went wrong; nothing else leaves here.
        """
        ...

    def close(self) -> None:
        """Close the connections; the adapter is of no use afterwards."""
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

    The key goes to the base URL's scheme, host and port, and nowhere else. `periods` says what
    headers for `requests` and `tokens` count over where their names do not. `token_limit` is the
    parameter that limits a reply's tokens, where it is not the wire's usual one.

    Raises:
        ValueError: the wire is not one of these.
    """
    if wire not in WIRES:
        raise ValueError(f"unknown wire {wire!r}; known: {', '.join(WIRES)}")
    module, _, name = WIRES[wire].partition(":")
    # The module imports the HTTP library.
    adapter = getattr(apart(lambda: import_module(f".{module}", __name__)), name)
    return cast("Adapter", adapter(key, base_url, periods, token_limit))
