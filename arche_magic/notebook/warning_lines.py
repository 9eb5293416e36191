"""Warnings of this package in one line, without the place in our source that issued them.

The engine is imported inside a function, because this module is loaded with the extension.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# The function that formats other packages' warnings while we format ours; None if we do not.
_usual: Callable[..., str] | None = None
_collected: list[warnings.WarningMessage] = []


def register() -> None:
    """Format our warnings ourselves."""
    global _usual
    if _usual is None:
        _usual, warnings.formatwarning = warnings.formatwarning, _format


def unregister() -> None:
    """Undo `register`, unless another package now formats warnings and may call us."""
    global _usual
    if _usual is not None and warnings.formatwarning is _format:
        warnings.formatwarning = _usual
        _usual = None


@contextmanager
def collect() -> Iterator[None]:
    """Keep the warnings of this context for `show_collected`, because most are issued only once."""
    with warnings.catch_warnings(record=True) as caught:
        # The user's filters apply when the warnings are shown. Applied here, "error" would lose
        # them.
        warnings.simplefilter("always")
        try:
            yield
        finally:
            _collected.extend(caught)


def show_collected() -> None:
    """Issue the warnings that were held."""
    while _collected:
        one = _collected.pop(0)
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _format(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    if _usual is not None and category.__module__.partition(".")[0] != "arche_magic":
        return _usual(message, category, filename, lineno, line)
    from arche_magic.llm_providers.text.characters import without_controls

    return f"{category.__name__}: {' '.join(without_controls(str(message)).split())}\n"
