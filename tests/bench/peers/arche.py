"""arche_magic as its users get it; waiting is allowed, as long as it takes."""

from __future__ import annotations

from collections.abc import Callable


def build() -> Callable[[str], str]:
    """A function that answers a prompt."""
    from arche_magic.llm_providers import get_llm_provider

    provider = get_llm_provider("intelligent")
    return lambda prompt: provider.generate(prompt, patience=600, timeout=600)
