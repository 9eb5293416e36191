"""What the user chose for this session, over files and variables: order, what is off, patience."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Configuration


@dataclass(frozen=True)
class Choices:
    """Choices of one session; one that is not made leaves the configuration as it is.

    They stay while files and variables change, and end with the process.

    Attributes:
        order: providers, first asked first; those not named follow in their configured order.
        off: keys by label (`groq_key_2`) and models (`groq/openai/gpt-oss-120b`) not to be asked.
        patience: seconds a request waits for a route rather than fail or pay.
        preferred_provider: asked before all others, paid or not.
    """

    order: tuple[str, ...] = ()
    off: frozenset[str] = frozenset()
    patience: float | None = None
    preferred_provider: str | None = None

    def switched(self, name: str, on: bool) -> Choices:
        """The same with a key or a model on or off."""
        return replace(self, off=self.off - {name} if on else self.off | {name})

    def applied(self, configuration: Configuration) -> Configuration:
        """The configuration with these choices in it; names it does not have are passed over."""
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
