"""Keys that a program passes in, in the place of the configured ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .config import Configuration, label_keys
from .errors import ConfigurationError
from .hidden import without_locals
from .types import Key


@without_locals
def with_key(configuration: Configuration, provider: str, text: str) -> Configuration:
    """A configuration in which a provider has this key and no other.

    Raises:
        ConfigurationError: the key is blank.
    """
    given, problem = labelled(configuration, provider, [text])
    # A traceback that lists local variables would show it.
    del text
    if problem:
        raise ConfigurationError(f"api_key: {problem}")
    others = (key for key in configuration.keys if key.provider != provider)
    return replace(configuration, keys=(*others, *given))


@without_locals
def labelled(
    configuration: Configuration, provider: str, texts: Sequence[str]
) -> tuple[tuple[Key, ...], str]:
    """The keys with their labels and accounts; or none, and what is wrong with one of them."""
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip():
            return (), f"key {number} is blank"
    accounts = {key.fingerprint: key.account for key in configuration.keys}
    keys = label_keys(provider, dict.fromkeys(text.strip() for text in texts))
    return tuple(
        replace(key, account=accounts.get(key.fingerprint, key.account)) for key in keys
    ), ""
