"""The first steps for a user without a key."""

from __future__ import annotations

from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import NoKeys

FIRST_STEPS = """no API key is configured.
  Set one or more of GROQ_API_KEY, MISTRAL_API_KEY, GOOGLE_API_KEY, OPENAI_API_KEY
  in the environment or in a file named .env beside the notebook, for example
      GROQ_API_KEY=...        (free keys: https://console.groq.com/keys)
  Several keys of one provider are numbered: GROQ_API_KEY_1, GROQ_API_KEY_2, ...
  For this session only, typed at a hidden prompt:  %llm_keys add groq
  To try it now without a key, run:  %llm_sandbox"""


def has_keys() -> bool:
    """Whether any key is configured."""
    return bool(get_configuration().keys)


def require_keys(replay: bool = False) -> None:
    """Raise NoKeys if no key is configured and no kept reply may answer either."""
    if not has_keys() and not replay and get_configuration().replay == "off":
        raise NoKeys(FIRST_STEPS)
