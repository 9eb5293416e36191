"""The engine: one interface to Groq, Mistral, Gemini, OpenAI and others, within their limits.

It does not depend on notebooks. Start with `get_llm_provider("intelligent").generate("…")`.

The names below are for everybody. Other parts of this package also use `types`, `request`,
`options`, `reply`, `events` and `errors`; `config` and `doctor`; `quota_tracker`, `prices`,
`attempt_log`, `reply_cache` and `embeddings`; and helpers such as `text` and `files`.
tests/engine/test_architecture.py has the whole list; everything else is internal.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .bounded import library
from .config import get_configuration
from .errors import (
    ConfigurationError,
    ContentFiltered,
    IncompleteReply,
    InvalidRequest,
    LLMProviderError,
    NoKeys,
    NoRouteAvailable,
    NotKept,
    SchemaMismatch,
)
from .secrets import without_locals
from .types import Usage

if TYPE_CHECKING:
    from .events import Pending, PendingReply, ReplyStream
    from .functions import Function
    from .orchestrator import IntelligentLLMOrchestrator, MultiKeyGroqProvider
    from .quota_tracker import get_quota_tracker
    from .reply import Attempt, Reply
    from .routing import Considered, Decision, Preview
    from .tools import Tool, ToolCall, ToolRun

__all__ = [
    "Attempt",
    "ConfigurationError",
    "Considered",
    "ContentFiltered",
    "Decision",
    "Function",
    "IncompleteReply",
    "IntelligentLLMOrchestrator",
    "InvalidRequest",
    "LLMProviderError",
    "MultiKeyGroqProvider",
    "NoKeys",
    "NoRouteAvailable",
    "NotKept",
    "Pending",
    "PendingReply",
    "Preview",
    "Reply",
    "ReplyStream",
    "SchemaMismatch",
    "Tool",
    "ToolCall",
    "ToolRun",
    "Usage",
    "get_llm_provider",
    "get_model_for_provider",
    "get_quota_tracker",
]

# Imported when first used: completing the name of a provider needs none of these.
_LATER = {
    "Attempt": "reply",
    "Considered": "routing",
    "Decision": "routing",
    "Function": "functions",
    "IntelligentLLMOrchestrator": "orchestrator",
    "MultiKeyGroqProvider": "orchestrator",
    "Pending": "events",
    "PendingReply": "events",
    "Preview": "routing",
    "Reply": "reply",
    "ReplyStream": "events",
    "Tool": "tools",
    "ToolCall": "tools",
    "ToolRun": "tools",
    "get_quota_tracker": "quota_tracker",
}


if not TYPE_CHECKING:  # type checkers read the imports above, and report wrong names

    def __getattr__(name):
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_LATER[name]}", __name__), name)


@without_locals
def get_llm_provider(
    name: str | None = None, api_key: str | None = None
) -> IntelligentLLMOrchestrator:
    """Return a provider object, ready to `generate`.

    Args:
        name: `intelligent` for all routes (`orchestrator` means the same), or one provider (`groq`,
            `mistral`, `google`, `openai`, or one added in the settings). Default:
            `ARCHE_LLM_PROVIDER`, or else `intelligent`.
        api_key: the only key to use for one provider, instead of the configured ones.

    Raises:
        ConfigurationError: the name is unknown, the key is blank, or a key is given for all
            providers at once.
    """
    if "orchestrator" not in globals():  # the first call
        library(f"{__name__}.orchestrator")
    from . import orchestrator
    from .config.keys import with_keys
    from .config.providers import ALL_PROVIDERS, unknown_provider

    configuration = get_configuration()
    if not isinstance(name, str | None):
        raise ConfigurationError(unknown_provider(name, ()))
    # The settings file is checked when it is read, so a wrong default comes from the variable.
    where = "" if name else f"{configuration.set_by.get('default_provider', 'default_provider')}: "
    given = (name or configuration.default_provider).strip()
    name = given.lower()
    if name in ALL_PROVIDERS:
        if api_key is not None:
            raise ConfigurationError(f"api_key belongs to one provider; {name!r} asks all of them")
        return orchestrator.IntelligentLLMOrchestrator(configuration=configuration)
    if name not in configuration.providers:
        known = ["intelligent", *configuration.providers]
        raise configuration.unknown(f"{where}{unknown_provider(given, known)}")
    if api_key is not None:
        configuration = with_keys(configuration, name, [api_key])
    return orchestrator.IntelligentLLMOrchestrator(providers=[name], configuration=configuration)


def get_model_for_provider(name: str) -> str:
    """Return the model that a provider is asked for by default.

    Raises:
        ConfigurationError: the name is unknown, or the provider has only embedding models.
    """
    provider = get_configuration().provider(name.strip().lower())
    if not provider.models:
        raise ConfigurationError(f"{provider.name} has only embedding models")
    return provider.models[0]
