"""The notebook face: magics, displays and tables over the engine. No routing, no quota rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load(shell: InteractiveShell) -> None:
    """Register the magics in a shell; loading twice changes nothing."""
    from .magics import ArcheMagics

    if _loaded(shell):
        return
    magics = ArcheMagics(shell=shell)
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
    shell.configurables.append(magics)  # type: ignore[arg-type]  # declared too narrow


def unload(shell: InteractiveShell) -> None:
    """Undo `load`: remove the magics, stop the sandbox, bring back what was replaced."""
    magics = _loaded(shell)
    if magics is None:
        return
    magics.stop_sandbox()
    table = shell.magics_manager.magics
    for kind, names in magics.magics.items():
        for name in names:
            table[kind].pop(name, None)
    for (kind, name), function in magics.replaced.items():
        table[kind][name] = function
    shell.magics_manager.registry.pop(type(magics).__name__, None)
    shell.configurables.remove(magics)


def _loaded(shell: InteractiveShell):  # type: ignore[no-untyped-def]  # ArcheMagics, imported late
    return shell.magics_manager.registry.get("ArcheMagics")
