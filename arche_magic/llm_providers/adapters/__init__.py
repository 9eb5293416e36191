"""One small module per wire format, which turns a request into one call of the provider's SDK.

Importing this package loads no SDK; `build_adapter` loads the one it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..bounded import library
from ..secrets import without_locals
from ..types import Key, Period

if TYPE_CHECKING:
    from .adapter import Adapter

WIRES = {
    "groq": "openai_compatible:GroqAdapter",
    "openai": "openai_compatible:OpenAIAdapter",
    "mistral": "mistral:MistralAdapter",
    "google": "google:GoogleAdapter",
}


@without_locals
def build_adapter(
    wire: str,
    key: Key,
    base_url: str,
    periods: Mapping[str, Period] | None = None,
    token_limit: str = "",
) -> Adapter:
    """Return the adapter of a wire: `groq`, `openai`, `mistral` or `google`.

    The key is sent only to the scheme, host and port of the base URL. `periods` are those of
    headers for `requests` and `tokens` whose names state none. `token_limit` is the parameter that
    limits a reply's tokens, if it is not the usual one of the wire.

    Raises:
        ValueError: the wire is not one of these.
    """
    if wire not in WIRES:
        raise ValueError(f"unknown wire {wire!r}; known: {', '.join(WIRES)}")
    module, _, name = WIRES[wire].partition(":")
    # The module imports the HTTP library.
    kind: type[Adapter] = getattr(library(f"{__name__}.{module}"), name)
    return kind(key, base_url, periods, token_limit)
