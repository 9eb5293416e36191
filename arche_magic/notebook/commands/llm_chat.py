"""`%llm_chat`: list, show, export, load, fork and clear conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..command import Session, Typed, command

if TYPE_CHECKING:
    import pandas as pd


@command()
def llm_chat(session: Session, typed: Typed) -> pd.DataFrame:
    """List, show, export and edit conversations; returns them as a DataFrame.

    Usage:
      %llm_chat [list]
      %llm_chat show CHAT
      %llm_chat export CHAT FILE     as Markdown (.md) or JSON (.json)
      %llm_chat load FILE [NAME]     an exported .json file
      %llm_chat fork CHAT NAME       copy it, to continue both
      %llm_chat undo CHAT            remove its last turn
      %llm_chat clear CHAT           remove it

    Examples:
      %llm_chat
      %llm_chat show tutor
      %llm_chat export tutor tutor.md
    """
    from ..display import show

    show(session.chats.run(typed.text))
    return session.out.shown(session.chats.frame())
