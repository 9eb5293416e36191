"""`%llm_keys`: show the keys, add and remove keys of this session, check whether they work."""

from __future__ import annotations

from ..command import Session, Shown, Typed, command


@command()
def llm_keys(session: Session, typed: Typed) -> Shown:
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

    from ..keys import FIRST_STEPS, HOW_TO_ADD, add, check, list_keys

    match typed.text.split():
        case [] | ["check"] if not get_configuration().keys:
            return FIRST_STEPS, None
        case []:
            return list_keys()
        case ["check", *label] if len(label) <= 1:
            return check(*label)
        case ["add", provider]:
            return add(provider), None
        case ["remove", label]:
            key = remove_key(get_configuration(), label)
            return f"{key.label} is no longer used.", None
        case ["add", _, _, *_]:
            raise InvalidRequest(HOW_TO_ADD)
    raise InvalidRequest("usage: %llm_keys, or %llm_keys add PROVIDER, remove KEY, or check [KEY]")
