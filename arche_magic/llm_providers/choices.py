"""What the user chose for this session: order, patience, and what is off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Configuration


@dataclass(frozen=True)
class Choices:
    """Choices of one session, which take precedence over files and variables.

    They stay while files and variables change, and end with the process.

    Attributes:
        order: providers, the first to ask first; the others follow in their configured order.
        off: key labels (`groq_key_2`) and models (`groq/openai/gpt-oss-120b`) that are not asked.
        patience: seconds a request waits for a route rather than fail or pay.
        preferred_provider: asked before all others, paid or not.
    """

    order: tuple[str, ...] = ()
    off: frozenset[str] = frozenset()
    patience: float | None = None
    preferred_provider: str | None = None

    def switched(self, name: str, on: bool) -> Choices:
        """These choices with a key or a model switched on or off."""
        return replace(self, off=self.off - {name} if on else self.off | {name})

    def applied(self, configuration: Configuration) -> Configuration:
        """The configuration with these choices; names that it does not have are ignored."""
        if self == Choices():
            return configuration
        known = configuration.providers
        order = dict.fromkeys([*(name for name in self.order if name in known), *known])
        preferred = self.preferred_provider if self.preferred_provider in known else None
        return replace(
            configuration,
            providers={name: known[name] for name in order},
            off=self.off,
            patience=configuration.patience if self.patience is None else self.patience,
            preferred_provider=preferred or configuration.preferred_provider,
        )
