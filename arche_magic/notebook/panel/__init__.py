"""`%llm_panel`: what every route has left, live; what is asked, in which order; and a prompt box.

A view of the engine and nothing more: it shows the ledger, makes the session's choices, and sends
prompts like any cell.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ..defaults import Defaults


def show(shell: InteractiveShell, defaults: Defaults) -> None:
    """Show a panel in the running cell, and leave a table for when the kernel is gone.

    In a plain terminal, which shows no widgets, the table is printed.
    """
    from .view import look, snapshot_bundle

    if not hasattr(shell, "kernel"):
        print(snapshot_bundle(look())["text/plain"])
        print("The panel itself shows in JupyterLab and Notebook 7.")
        return
    from .widgets import Panel

    Panel(shell, defaults).show()


def close_all() -> None:
    """Close every panel of this kernel and stop what their prompt boxes wait for."""
    if f"{__name__}.refreshing" not in sys.modules:
        return
    from .refreshing import open_panels

    for panel in open_panels():
        panel.close()
