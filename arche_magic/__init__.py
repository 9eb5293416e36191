"""Ask language models from notebooks, across providers and within their limits.

`%load_ext arche_magic` in a notebook; `arche_magic.llm_providers` in Python.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .bulk import embed, imap, map, plan, quality  # noqa: A004  # what the builtin does, for prompts
    from .llm_providers import get_llm_provider
    from .llm_providers.quota_tracker import get_quota_tracker
    from .notebook.past_attempts import (
        attempts_from_notebook,
        decisions_from_notebook,
        load_attempts,
    )
    from .notebook.reply_formats import frame
    from .openai_api.clients import async_openai_client, openai_client, openai_transport

__version__ = "0.1.0"

__all__ = [
    "async_openai_client",
    "attempts_from_notebook",
    "decisions_from_notebook",
    "embed",
    "frame",
    "get_llm_provider",
    "get_quota_tracker",
    "imap",
    "load_attempts",
    "map",
    "openai_client",
    "openai_transport",
    "plan",
    "quality",
]

# Imported when first used, so that loading the extension stays fast.
_MODULES = {
    "bulk": ("embed", "imap", "map", "plan", "quality"),
    "llm_providers": ("get_llm_provider", "get_quota_tracker"),
    "notebook.past_attempts": (
        "attempts_from_notebook",
        "decisions_from_notebook",
        "load_attempts",
    ),
    "notebook.reply_formats": ("frame",),
    "openai_api.clients": ("async_openai_client", "openai_client", "openai_transport"),
}
_LATER = {name: module for module, names in _MODULES.items() for name in names}

logging.getLogger("arche_magic").addHandler(logging.NullHandler())


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics: `%load_ext arche_magic`."""
    from .notebook.magics import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Undo everything that loading did: `%unload_ext arche_magic`."""
    from .notebook.magics import unload

    unload(shell)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


if not TYPE_CHECKING:  # type checkers use the imports above, and report wrong names

    def __getattr__(name):
        """Import a public name."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
