"""`%llm_panel`: what every route has left, live; switches and order of the routes; a prompt box.

The panel is only a view: it shows the ledger, changes the session's settings, and sends prompts
like any cell.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ..defaults import Defaults


def show(shell: InteractiveShell, defaults: Defaults) -> None:
    """Show a panel in the running cell, with a static table for the saved notebook.

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
    """Close every panel of this kernel and stop their prompts."""
    if f"{__name__}.refreshing" not in sys.modules:
        return
    from .refreshing import open_panels

    for panel in open_panels():
        panel.close()
