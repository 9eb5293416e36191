"""arche_magic with its defaults, except that it may wait without a time limit."""

from __future__ import annotations

from collections.abc import Callable


def build() -> Callable[[str], str]:
    """A function that answers a prompt."""
    from arche_magic.llm_providers import get_llm_provider

    provider = get_llm_provider("intelligent")
    return lambda prompt: provider.generate(prompt, patience=600, timeout=600)
