"""`%llm_keys`: show the keys, add and remove keys of this session, check whether they work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..command import Session, Typed, command

if TYPE_CHECKING:
    import pandas as pd


@command()
def llm_keys(session: Session, typed: Typed) -> pd.DataFrame | None:
    """Show the keys: where each came from, and whether it is open.

    Keys are shown by label and fingerprint; the key itself is never shown. Returns a DataFrame.

    Usage:
      %llm_keys
      %llm_keys add PROVIDER    add a key for this session; a prompt hides what you type
      %llm_keys remove KEY      stop using a key that was added this way
      %llm_keys check [KEY]     check whether it works; uses no quota

    Examples:
      %llm_keys
      %llm_keys add groq
      %llm_keys check groq_key_1
    """
    from arche_magic.llm_providers.config import get_configuration, remove_key
    from arche_magic.llm_providers.errors import InvalidRequest

    from ..display import show
    from ..keys import FIRST_STEPS, HOW_TO_ADD, add, check, has_keys, list_keys

    frame: pd.DataFrame | None = None
    match typed.text.split():
        case [] | ["check"] if not has_keys():
            show(FIRST_STEPS)
        case []:
            bundle, frame = list_keys()
            show(bundle)
        case ["check", *label] if len(label) <= 1:
            bundle, frame = check(*label)
            show(bundle)
        case ["add", provider]:
            show(add(provider))
        case ["remove", label]:
            key = remove_key(get_configuration(), label)
            show(f"{key.label} is no longer used.")
        case ["add", _, _, *_]:
            raise InvalidRequest(HOW_TO_ADD)
        case _:
            raise InvalidRequest(
                "usage: %llm_keys, or %llm_keys add PROVIDER, remove KEY, or check [KEY]"
            )
    return frame
