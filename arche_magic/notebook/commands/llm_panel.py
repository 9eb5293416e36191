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
    from ..keys import require_keys

    require_keys()
    from ..panel import show

    show(session)
