"""One call on its way: whose adapter makes it, what has arrived of it, and what it has cost."""

from __future__ import annotations

import math
import os
import time

from . import machine
from .adapters import Adapter, build_adapter
from .config import Configuration
from .forks import new_lock
from .quota_tracker import Hold
from .types import Completion, Observation, Route, Usage

_adapters: dict[tuple[object, ...], Adapter] = {}
_adapters_lock = new_lock()
# A kernel whose keys or sandboxes come and go all day keeps no connection to those long gone.
_MOST_ADAPTERS = 256


def adapter_of(route: Route, configuration: Configuration) -> Adapter:
    """The adapter of a key, built once per process: an SDK client costs about 40 ms."""
    provider = configuration.providers[route.provider]
    periods = provider.header_periods
    identity = (
        provider.name, route.key.fingerprint, provider.url, provider.token_limit,
        # Whoever sets one of them in a notebook needs no new kernel.
        machine.variables(), *periods.items(),
    )  # fmt: skip
    # Whoever's adapter is there does not wait until another one's SDK is loaded.
    adapter = _adapters.get(identity)
    if adapter is None:
        with _adapters_lock:
            adapter = _adapters.get(identity)
            if adapter is None:
                adapter = build_adapter(
                    provider.wire, route.key, provider.url, periods, provider.token_limit
                )
                if len(_adapters) >= _MOST_ADAPTERS:
                    del _adapters[next(iter(_adapters))]
                _adapters[identity] = adapter
    return adapter


if hasattr(os, "register_at_fork"):
    # Its connections are the parent's.
    os.register_at_fork(after_in_child=_adapters.clear)


class Call:
    """What has arrived of one call so far.

    Attributes:
        first_token_s: seconds until the first text, or None.
        usage: the provider's count, or None.
        finish_reason: `stop` or `length`.
        observations: what the answer said of limits.
    """

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._began = time.perf_counter()
        self._pieces: list[str] = []
        self.first_token_s: float | None = None
        self.usage: Usage | None = None
        self.finish_reason = "stop"
        self.observations: list[Observation] = []

    def take(self, part: Completion) -> None:
        """Note what one part of the answer brought."""
        self.observations.extend(part.observations)
        self.usage = part.usage or self.usage
        self.finish_reason = part.finish_reason or self.finish_reason
        if part.text:
            if self.first_token_s is None:
                self.first_token_s = self.seconds()
            self._pieces.append(part.text)

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._pieces)

    @property
    def answered(self) -> bool:
        """Whether anything came at all."""
        return bool(self._pieces) or self.usage is not None

    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._began

    def spent(self) -> Usage:
        """Its tokens by the provider's count, or else by our own of what arrived."""
        if self.usage:
            return self.usage
        expected_input = math.ceil(self._hold.amounts["input_tokens"])
        return Usage(expected_input, math.ceil(len(self.text) / 4))

    def spent_at_most(self, at_least: Usage | None) -> Usage:
        """Its tokens if it broke off: the provider may have gone on after what arrived."""
        counts = [self.spent(), at_least or Usage()]
        expected = Usage(0, math.ceil(self._hold.amounts["output_tokens"]))
        return Usage(
            max(count.input_tokens for count in counts),
            max(count.output_tokens for count in (*counts, expected)),
        )
