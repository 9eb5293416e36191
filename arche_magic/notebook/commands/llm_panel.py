"""`%llm_panel`: quotas, switches and a prompt box, live."""

from __future__ import annotations

from ..command import Session, Typed, command


@command()
def llm_panel(session: Session, typed: Typed) -> None:
    """Show a live panel: what every route has left, switches, the order, a prompt box.

    Your choices apply to every cell of this kernel until the kernel ends. The saved notebook keeps
    a static table.

    Usage:
      %llm_panel

    Examples:
      %llm_panel
    """
    from .. import quota
    from ..keys import require_keys

    require_keys()
    if not hasattr(session.shell, "kernel"):
        # A plain terminal shows no widgets.
        print(quota.view_bundle(quota.current_quota())["text/plain"])
        print("The panel itself shows in JupyterLab and Notebook 7.")
        return
    from ..panel.widgets import Panel

    Panel(session).show()
