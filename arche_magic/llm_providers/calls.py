"""The call of one attempt: its adapter, its answer so far, and its cost."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import network
from .adapters import build_adapter
from .config import Configuration
from .processes import new_lock
from .quota_tracker import Hold
from .request import Request
from .tools import ToolCall
from .types import Completion, Observation, Route, Usage, Vectors

if TYPE_CHECKING:
    from .adapters.base import Adapter

logger = logging.getLogger("arche_magic.attempts")

_adapters: dict[tuple[object, ...], Adapter] = {}
_adapters_lock = new_lock()
# Limits the open connections of a kernel whose keys or sandboxes change often.
_MOST_ADAPTERS = 1024
# Counts above these are not believed. An estimate by length can be far too low where a service adds
# documents or counts an image as many tokens; no model writes longer replies, reasoning included
# (2026-10).
_TIMES_THE_ESTIMATE, _LONG_PROMPT_TOKENS, _LONGEST_REPLY_TOKENS = 100, 100_000, 200_000
# Some services count a little more than max_tokens.
_TIMES_MAX_TOKENS, _MORE_THAN_MAX_TOKENS = 2, 100
_warned_of: set[tuple[str, str]] = set()


def adapter_of(route: Route, configuration: Configuration) -> Adapter:
    """The adapter of a key, built once per process: an SDK client costs about 40 ms."""
    provider = configuration.providers[route.provider]
    periods = provider.header_periods
    identity = (
        provider.name, route.key.fingerprint, provider.url, provider.token_limit,
        # A variable that is set in a notebook takes effect without a new kernel.
        network.variables(), *periods.items(),
    )  # fmt: skip
    # Without the lock, so that an adapter that exists does not wait while another SDK is loaded.
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
    # A child process must not use its parent's connections.
    os.register_at_fork(after_in_child=_adapters.clear)


class Answer:
    """The answer to one call so far.

    Args:
        hold: what was reserved for it.
        request: what was asked.
        window: the model's context window in tokens; inf if unknown.

    Attributes:
        route: the route that answers.
        first_token_s: seconds until the first text, or None.
        finish_reason: `stop`, `length` or `tool_calls`.
        tool_calls: what the model asks to run.
        choices, vectors: as in `Reply`.
        observations: what the answer says about limits.
    """

    def __init__(self, hold: Hold, request: Request, window: float = math.inf) -> None:
        self._hold, self.route = hold, hold.route
        expected = hold.amounts["input_tokens"]
        long_prompt = max(_TIMES_THE_ESTIMATE * expected, _LONG_PROMPT_TOKENS)
        longest_reply: float = _LONGEST_REPLY_TOKENS
        if request.max_tokens:
            longest_reply = _TIMES_MAX_TOKENS * request.max_tokens + _MORE_THAN_MAX_TOKENS
        longest_reply = min(window, longest_reply) * request.reply_count
        self._most = min(window, long_prompt), longest_reply
        self._began = time.perf_counter()
        self._pieces: list[str] = []
        self.first_token_s: float | None = None
        self._counted: Usage | None = None
        self.finish_reason = "stop"
        self.observations: list[Observation] = []
        self.tool_calls: tuple[ToolCall, ...] = ()
        self.choices: tuple[Mapping[str, Any], ...] = ()
        self.vectors: Vectors = ()

    def take(self, part: Completion) -> None:
        """Add one part of the answer."""
        self.observations.extend(part.observations)
        self._counted = part.usage or self._counted
        self.finish_reason = part.finish_reason or self.finish_reason
        self.tool_calls = part.tool_calls or self.tool_calls
        self.choices = part.choices or self.choices
        self.vectors = part.vectors or self.vectors
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
        """Whether anything arrived."""
        arrived = self._pieces or self.tool_calls or self.vectors
        return bool(arrived) or self._counted is not None

    @property
    def usage(self) -> Usage | None:
        """The provider's count, with impossible figures replaced by estimates, or None."""
        return self._counted and self.believed(self._counted)

    def seconds(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._began

    def spent(self) -> Usage:
        """Its tokens by the provider's count, or else estimated from what arrived."""
        return self.usage or self._estimate()

    def believed(self, counted: Usage) -> Usage:
        """A provider's count, with impossible figures replaced by estimates.

        If it were believed, an absurd count would close a key for years. Warns once per model.
        """
        most_input, most_output = self._most
        input_fits = 0 <= counted.input_tokens <= most_input
        output_fits = 0 <= counted.output_tokens <= most_output
        if input_fits and output_fits:
            return counted
        self._warn()
        estimate = self._estimate()
        return Usage(
            counted.input_tokens if input_fits else estimate.input_tokens,
            counted.output_tokens if output_fits else estimate.output_tokens,
        )

    def _estimate(self) -> Usage:
        expected_input = math.ceil(self._hold.amounts["input_tokens"])
        calls = sum(len(call.name) + len(call.arguments) for call in self.tool_calls)
        return Usage(expected_input, math.ceil((len(self.text) + calls) / 4))

    def _warn(self) -> None:
        route = self.route
        if (route.provider, route.model) not in _warned_of:
            _warned_of.add((route.provider, route.model))
            logger.warning(
                "%s (%s) reported an impossible number of tokens, so they are estimated",
                route.provider, route.model,
            )  # fmt: skip

    def spent_at_most(self, at_least: Usage | None) -> Usage:
        """Its tokens if it broke off: the provider may have generated more than has arrived."""
        counts = [self.spent(), self.believed(at_least or Usage())]
        expected = Usage(0, math.ceil(self._hold.amounts["output_tokens"]))
        return Usage(
            max(count.input_tokens for count in counts),
            max(count.output_tokens for count in (*counts, expected)),
        )
