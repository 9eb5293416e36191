"""`%llm_last`: the last reply again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..command import Session, Typed, command, option

if TYPE_CHECKING:
    from arche_magic.llm_providers import Reply


@command(option("-o --output NAME", "Also assign the reply to this variable."))
def llm_last(session: Session, typed: Typed) -> Reply:
    """Show the last reply of this kernel again, and return it.

    Usage:
      %llm_last [OPTIONS]

    Examples:
      %llm_last
      %llm_last -o answer
      answer = %llm_last
    """
    from ..cell import check_variable

    output = typed.options.output
    if output is not None:
        check_variable("-o", output)
    reply = session.last_reply("%llm_last")
    if output is not None:
        session.shell.user_ns[output] = reply
    return reply
