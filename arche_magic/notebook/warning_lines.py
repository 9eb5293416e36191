"""Warnings of this package in one line, without the place in our source that issued them.

The engine is imported inside a function, because this module is loaded with the extension.
"""

from __future__ import annotations

import warnings

_usual = warnings.formatwarning


def register() -> None:
    """Format our warnings ourselves."""
    global _usual
    if warnings.formatwarning is not _format:
        _usual, warnings.formatwarning = warnings.formatwarning, _format


def unregister() -> None:
    """Undo `register`, unless somebody else formats warnings by now."""
    if warnings.formatwarning is _format:
        warnings.formatwarning = _usual


def _format(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    if category.__module__.partition(".")[0] != "arche_magic":
        return _usual(message, category, filename, lineno, line)
    from arche_magic.llm_providers.text.characters import without_controls

    return f"{category.__name__}: {' '.join(without_controls(str(message)).split())}\n"
