"""Keeps the keys of the session out of messages that quote what the user typed."""

from __future__ import annotations

from contextlib import suppress

from arche_magic.llm_providers.secrets import without_key_like, without_locals


@without_locals
def without_keys(text: str) -> str:
    """The text without the keys of this session, and without words that look like keys."""
    from arche_magic.llm_providers.config import get_configuration
    from arche_magic.llm_providers.errors import ConfigurationError

    configuration = None
    with suppress(ConfigurationError):
        configuration = get_configuration()
    # Its keys are left out as long as it exists, and it may have been read only here.
    text = without_key_like(text)
    del configuration
    return text
