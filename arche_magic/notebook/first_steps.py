"""What to say, and when, to somebody who has no key yet."""

from __future__ import annotations

from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import NoKeys

FIRST_STEPS = """no API key is configured.
  Set one or more of GROQ_API_KEY, MISTRAL_API_KEY, GOOGLE_API_KEY, OPENAI_API_KEY
  in the environment or in a file named .env beside the notebook, for example
      GROQ_API_KEY=...        (free keys: https://console.groq.com/keys)
  Several keys of one provider are numbered: GROQ_API_KEY_1, GROQ_API_KEY_2, ...
  For this session only, typed unseen:  %llm_keys add groq
  To try it now without a key, run:  %llm_sandbox"""


def has_keys() -> bool:
    """Whether any key is configured."""
    return bool(get_configuration().keys)


def require_keys(replay: bool = False) -> None:
    """Refuse to go on without any key, unless kept replies can do without."""
    if not has_keys() and not replay and get_configuration().replay == "off":
        raise NoKeys(FIRST_STEPS)
