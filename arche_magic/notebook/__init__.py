"""The notebook layer: commands, displays and tables. It contains no routing or quota rules."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load(shell: InteractiveShell) -> None:
    """Register the magics in a shell; loading twice changes nothing.

    Raises:
        ConfigurationError: a default in `ipython_config.py` has an impossible value.
    """
    from IPython.core.inputtransformer2 import HelpEnd
    from traitlets import TraitError

    from . import completion, status_bar, warning_lines
    from .magics import ArcheMagics, HelpExceptOnQuestions, register_help

    if _loaded(shell):
        return
    try:
        magics = ArcheMagics(shell=shell)
    except TraitError as error:
        from arche_magic.llm_providers.errors import ConfigurationError

        known: list[Any] = shell.configurables
        known[:] = [one for one in known if not isinstance(one, ArcheMagics)]
        raise ConfigurationError(f"c.ArcheMagics in ipython_config.py: {error}") from None
    table = shell.magics_manager.magics
    magics.replaced = {
        (kind, name): table[kind][name]
        for kind, names in ArcheMagics.magics.items()
        for name in names
        if name in table[kind]
    }
    if magics.replaced:
        names = ", ".join(sorted({name for _, name in magics.replaced}))
        print(f"arche_magic takes over from another extension until %unload_ext: {names}")
    shell.register_magics(magics)
    register_help(shell, HelpEnd, HelpExceptOnQuestions)
    completion.register(shell)
    warning_lines.register()
    magics.status_bar = status_bar.start(shell, magics)
    magics.strict_stdout = _replace_characters_of_stdout()


def unload(shell: InteractiveShell) -> None:
    """Undo `load`: remove the magics, stop sandbox and server, restore replaced magics."""
    magics = _loaded(shell)
    if magics is None:
        return
    from IPython.core.inputtransformer2 import HelpEnd

    from . import completion, warning_lines
    from .magics import HelpExceptOnQuestions, register_help

    register_help(shell, HelpExceptOnQuestions, HelpEnd)
    completion.unregister(shell)
    warning_lines.unregister()
    magics.unload()
    if magics.strict_stdout and not magics.strict_stdout.closed:
        magics.strict_stdout.reconfigure(errors="strict")
    table = shell.magics_manager.magics
    for kind, names in magics.magics.items():
        for name in names:
            table[kind].pop(name, None)
    for (kind, name), function in magics.replaced.items():
        table[kind][name] = function
    shell.magics_manager.registry.pop(type(magics).__name__, None)
    shell.configurables.remove(magics)


def _replace_characters_of_stdout():  # type: ignore[no-untyped-def]  # io.TextIOWrapper or None
    """Print `?` for characters that the encoding of a terminal or a file lacks; return its stream.

    Otherwise, the first emoji in a reply would end the cell after the request was paid for, for
    example on Windows when the output goes to a file. The streams of kernels accept every
    character, and so does UTF-8.
    """
    stream = sys.stdout
    if getattr(stream, "errors", "") != "strict" or not hasattr(stream, "reconfigure"):
        return None
    if stream.encoding.lower() in ("utf-8", "utf8"):
        return None
    stream.reconfigure(errors="replace")
    return stream


def _loaded(shell: InteractiveShell):  # type: ignore[no-untyped-def]  # ArcheMagics, imported late
    return shell.magics_manager.registry.get("ArcheMagics")
