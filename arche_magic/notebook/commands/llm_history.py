"""`%llm_history`: earlier prompts of this session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..command import Session, Typed, command
from .llm import llm

if TYPE_CHECKING:
    import pandas as pd


@command(needs="history")
def llm_history(session: Session, typed: Typed) -> pd.DataFrame:
    """Find earlier prompts of this session; returns them as a DataFrame.

    It searches the cells that ran since the kernel started, which IPython keeps; nothing else is
    stored. The route is that of the cell's result.

    Usage:
      %llm_history [TEXT]    a part of the prompt; without it, all prompts

    Examples:
      %llm_history
      %llm_history token bucket
    """
    from ..display import show
    from ..history import find, history_bundle, history_frame

    found = find(session.shell, llm, typed.text.strip())
    show(history_bundle(found))
    return session.out.shown(history_frame(found))
