"""`%llm_prompts`: the saved prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..command import Session, Typed, command

if TYPE_CHECKING:
    import pandas as pd


@command()
def llm_prompts(session: Session, typed: Typed) -> pd.DataFrame:
    """Show the saved prompts with their fields; returns them as a DataFrame.

    They come from [prompts] in arche_magic.toml and from files prompts/NAME.md beside that file or
    beside the notebook. `%%llm --prompt NAME` sends one.

    Usage:
      %llm_prompts

    Examples:
      %llm_prompts
    """
    from arche_magic.prompts.saved import saved_prompts

    from ..display import show
    from ..named_prompts import prompts_bundle, prompts_frame

    saved = saved_prompts()
    show(prompts_bundle(saved))
    return session.out.shown(prompts_frame(saved))
