"""`%llm_panel`: quotas, switches and a prompt box, live."""

from __future__ import annotations

from ..command import Session, Typed, command


@command()
def llm_panel(session: Session, typed: Typed) -> None:
    """Show what every route has left, live, with switches, an order, and a prompt box.

    Its settings hold for every cell of this kernel until the kernel ends. A static table
    stays in the saved notebook.

    Usage:
      %llm_panel

    Examples:
      %llm_panel
    """
    from ..keys import require_keys

    require_keys()
    from ..panel import show

    show(session.shell, session.defaults)
