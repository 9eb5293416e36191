"""Keeps the keys of the session out of messages that quote what the user typed."""

from __future__ import annotations

import re

from arche_magic.llm_providers.secrets import without_key_like, without_locals

# Shorter keys are words, such as `ollama`. A message may quote only the beginning of a long key.
_SHOWN = 12


@without_locals
def without_keys(text: str) -> str:
    """The text without the keys of this session, and without words that look like keys."""
    from arche_magic.llm_providers.config import get_configuration
    from arche_magic.llm_providers.errors import ConfigurationError

    text = without_key_like(text)
    try:
        keys = get_configuration().keys
    except ConfigurationError:
        return text
    for key in keys:
        begin = key.secret()[:_SHOWN]
        if len(begin) == _SHOWN and begin in text:
            text = re.sub(rf"{re.escape(begin)}[^\s'\"]*", "[key]", text)
    return text
