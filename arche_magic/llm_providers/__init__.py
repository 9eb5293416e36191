"""The engine: one interface to Groq, Mistral, Google Gemini and OpenAI, within their limits.

It knows nothing of notebooks. Start with `get_llm_provider("intelligent").generate("…")`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .config import get_configuration
from .errors import (
    ConfigurationError,
    ContentFiltered,
    IncompleteReply,
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
    NotKept,
    SchemaMismatch,
)
from .types import Usage

if TYPE_CHECKING:
    from .orchestrator import IntelligentLLMOrchestrator, MultiKeyGroqProvider
    from .quota_tracker import get_quota_tracker
    from .reply import Attempt, Reply
    from .reply_stream import ReplyStream

__all__ = [
    "Attempt",
    "ConfigurationError",
    "ContentFiltered",
    "IncompleteReply",
    "IntelligentLLMOrchestrator",
    "InvalidRequest",
    "LLMProviderError",
    "MultiKeyGroqProvider",
    "NoRouteAvailable",
    "NotKept",
    "Reply",
    "ReplyStream",
    "SchemaMismatch",
    "Usage",
    "get_llm_provider",
    "get_quota_tracker",
]

# Imported when first used: a Tab that asks for the names of providers needs none of these.
_LATER = {
    "Attempt": "reply",
    "IntelligentLLMOrchestrator": "orchestrator",
    "MultiKeyGroqProvider": "orchestrator",
    "Reply": "reply",
    "ReplyStream": "reply_stream",
    "get_quota_tracker": "quota_tracker",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATER[name]}", __name__), name)


def get_llm_provider(name: str | None = None) -> IntelligentLLMOrchestrator:
    """The provider of that name, ready to `generate`.

    Args:
        name: `intelligent` for all routes, or one provider (`groq`, `mistral`, `google`,
            `openai`); None takes `ARCHE_LLM_PROVIDER`, else `intelligent`.

    Raises:
        ConfigurationError: the name is unknown.
    """
    from .orchestrator import IntelligentLLMOrchestrator

    configuration = get_configuration()
    name = (name or configuration.default_provider).strip().lower()
    if name == "intelligent":
        return IntelligentLLMOrchestrator(configuration=configuration)
    if name not in configuration.providers:
        from .config import did_you_mean

        known = ["intelligent", *configuration.providers]
        raise ConfigurationError(
            f"unknown provider {name!r}{did_you_mean(name, known)}; known are {', '.join(known)}"
        )
    return IntelligentLLMOrchestrator(providers=[name], configuration=configuration)
