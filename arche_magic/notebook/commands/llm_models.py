"""`%llm_models`: the models of the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..command import Session, Typed, command

if TYPE_CHECKING:
    import pandas as pd


@command()
def llm_models(session: Session, typed: Typed) -> pd.DataFrame:
    """Show the models in the catalog with their published limits and prices.

    Other models can be used too, as provider/model. Limits that the provider reports with a reply
    replace these figures. Returns a DataFrame.

    Usage:
      %llm_models
      %llm_models PROVIDER|MODEL [MODEL]    only these; a part of a model's name is enough

    Examples:
      %llm_models groq
      %llm_models mistral large
    """
    from ..display import show
    from ..models import models

    bundle, frame = models(typed.text)
    show(bundle)
    return frame
