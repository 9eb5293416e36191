"""Prompt language models from notebooks, across providers and within their limits.

`%load_ext arche_magic` in a notebook; `arche_magic.llm_providers` in Python.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__version__ = "0.1.0"

logging.getLogger("arche_magic").addHandler(logging.NullHandler())


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics: `%load_ext arche_magic`."""
    from .notebook import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Undo all that loading did: `%unload_ext arche_magic`."""
    from .notebook import unload

    unload(shell)


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: loading the extension stays instant."""
    if name in ("get_llm_provider", "get_quota_tracker"):
        from . import llm_providers

        return getattr(llm_providers, name)
    if name == "frame":
        from .notebook import structured

        return structured.frame
    if name in ("map", "imap"):
        from . import bulk

        return getattr(bulk, name)
    if name in ("load_attempts", "attempts_from_notebook", "decisions_from_notebook"):
        from .notebook import history

        return getattr(history, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
