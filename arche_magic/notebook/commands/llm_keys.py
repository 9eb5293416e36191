"""`%llm_keys`: show the keys, add and remove those of the session, ask whether they work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..command import Session, Typed, command

if TYPE_CHECKING:
    import pandas as pd


@command()
def llm_keys(session: Session, typed: Typed) -> pd.DataFrame | None:
    """Show the keys: where each came from, and whether it is open.

    Keys are shown by label and fingerprint, never by their text. Returns a DataFrame.

    Usage:
      %llm_keys
      %llm_keys add PROVIDER    add one for this session, typed at a prompt that hides it
      %llm_keys remove KEY      stop using one of this session
      %llm_keys check [KEY]     ask whether it works; uses no quota

    Examples:
      %llm_keys
      %llm_keys add groq
      %llm_keys check groq_key_1
    """
    from arche_magic.llm_providers.errors import InvalidRequest

    from ..display import show
    from ..keys import FIRST_STEPS, add, check, has_keys, list_keys, remove

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
            show(remove(label))
        # The rest of the line may be a key, so the message does not repeat it.
        case ["add", _, _, *_]:
            raise InvalidRequest(
                "%llm_keys add takes a provider alone; the key is typed at a prompt. If there is "
                "one on this line, delete the line: it is in the history and will be in the saved "
                "notebook"
            )
        case _:
            raise InvalidRequest(
                "%llm_keys: write add PROVIDER, remove KEY, check [KEY], or nothing"
            )
    return session.out.shown(frame)
