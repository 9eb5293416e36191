"""`%llm_models`: the models of the catalog."""

from __future__ import annotations

from ..command import Session, Shown, Typed, command


@command()
def llm_models(session: Session, typed: Typed) -> Shown:
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
    from ..catalog_tables import models

    return models(typed.text)
