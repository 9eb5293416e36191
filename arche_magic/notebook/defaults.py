"""Defaults of every prompt, which `%config ArcheMagics` shows and sets."""

from __future__ import annotations

import re
from typing import Any

from traitlets import Bool, Enum, Float, Integer, TraitError, Unicode, validate
from traitlets.config import Config, Configurable

# The formats of replies, each with the sentence that it adds to the system prompt.
FORMATS = {
    "markdown": "",
    "text": "Answer in plain text, without Markdown.",
    "code": "Answer with source code only, in one fenced code block.",
    "json": "Answer with JSON only.",
    "html-source": "Answer with the source of an HTML document or fragment only.",
    "math": "Answer with LaTeX formulas only, without a document around them.",
}
CHAT_NAME = re.compile(r"[\w.-]+")
CHAT_NAME_RULE = "a name can have letters, digits, and . _ -"


class Defaults(Configurable):
    """The values for options that a cell does not set."""

    provider = Unicode("", help="Use only this provider; empty: all, in order.").tag(config=True)
    model = Unicode("", help="Model; empty: each provider's default.").tag(config=True)
    system = Unicode("", help="System prompt of every cell.").tag(config=True)
    temperature = Float(
        None, allow_none=True, min=0, max=2, help="0 to 2; None: the provider's default."
    ).tag(config=True)
    max_tokens = Integer(
        None, allow_none=True, min=1, help="Maximum length of a reply, in tokens."
    ).tag(config=True)
    patience = Float(
        None,
        allow_none=True,
        min=0,
        help="Seconds to wait for a route instead of failing or paying; None: as in the settings.",
    ).tag(config=True)
    keep = Bool(
        None, allow_none=True, help="Answer repeated prompts with the kept reply; keep new replies."
    ).tag(config=True)
    chat = Unicode("", help="Make every cell a turn of this conversation.").tag(config=True)
    private = Bool(
        None, allow_none=True, help="Use only routes that are marked under [private]."
    ).tag(config=True)
    format = Enum(tuple(FORMATS), "markdown", help="How replies are shown.").tag(config=True)
    budget = Integer(2000, min=1, help="Maximum tokens of each table or list in a prompt.").tag(
        config=True
    )

    def update_config(self, config: Config) -> None:
        """Set defaults, for `%config`; an error about a value does not show a key."""
        try:
            super().update_config(config)
        except TraitError as error:
            from .own_keys import without_keys

            raise TraitError(without_keys(str(error))) from None

    @validate("chat")
    def _name_of_chat(self, proposal: dict[str, Any]) -> str:
        name: str = proposal["value"]
        if name and not CHAT_NAME.fullmatch(name):
            raise TraitError(f"chat {name!r}: {CHAT_NAME_RULE}")
        return name

    # While the extension loads, the engine is not imported: the first request checks the name.
    _checks_provider = False

    @validate("provider")
    def _known_provider(self, proposal: dict[str, Any]) -> str:
        name: str = proposal["value"]
        if name and self._checks_provider:
            from arche_magic.llm_providers.config import get_configuration
            from arche_magic.llm_providers.errors import LLMProviderError

            try:
                get_configuration().provider(name)
            except LLMProviderError as error:
                raise TraitError(str(error)) from None
        return name
