"""One attempt on one route, from its hold until it is settled: adapter, answer, cost, outcome."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import network
from .adapters import build_adapter
from .config import Configuration
from .events import Event, Piece, Started
from .prices import load_soon
from .processes import new_lock
from .provider_failure import AttemptFailed, ProviderFailure, Remedy
from .quota.booking import Settlement
from .reply import Attempt, Outcome
from .tools import ToolCall
from .types import Completion, Observation, Route, Usage, Vectors

if TYPE_CHECKING:
    from .adapters.adapter import Adapter
    from .quota_tracker import Hold
    from .request import Request
    from .request_progress import RequestProgress

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
_REFUSALS = (Remedy.WAIT_FOR_LIMIT, Remedy.TOP_UP_ACCOUNT, Remedy.CHANGE_PLAN)
# How services refuse to embed texts with a chat model, and to chat with an embedding model.
_OTHER_USE = (Remedy.CHANGE_MODEL, Remedy.CHANGE_PLAN, Remedy.CHECK_ADDRESS)


def adapter_of(route: Route, configuration: Configuration) -> Adapter:
    """The adapter of a key, built once per process: an SDK client costs about 40 ms."""
    provider = configuration.providers[route.provider]
    periods = provider.header_periods
    identity = (
        provider.name, route.key.fingerprint, provider.url, provider.token_limit,
        # A variable that is set in a notebook takes effect without a new kernel.
        network.variables(), *periods.items(),
    )  # fmt: skip
    # Read without the lock, so that an existing adapter is returned while another SDK is loading.
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
        longest_reply = expected_reply = min(window, _LONGEST_REPLY_TOKENS)
        if request.max_tokens:
            at_most = _TIMES_MAX_TOKENS * request.max_tokens + _MORE_THAN_MAX_TOKENS
            expected_reply = min(longest_reply, at_most)
        self._most = min(window, long_prompt), expected_reply * request.reply_count
        self._longest = longest_reply * request.reply_count
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
        route = self.route
        if (route.provider, route.model) not in _warned_of:
            _warned_of.add((route.provider, route.model))
            logger.warning(
                "%s (%s) reported an impossible number of tokens, so they are estimated",
                route.provider, route.model,
            )  # fmt: skip
        estimate = self._estimate()
        return Usage(
            counted.input_tokens if input_fits else estimate.input_tokens,
            counted.output_tokens if output_fits else estimate.output_tokens,
        )

    def _estimate(self) -> Usage:
        expected_input = math.ceil(self._hold.amounts["input_tokens"])
        calls = sum(len(call.name) + len(call.arguments) for call in self.tool_calls)
        # A server may send text without end.
        output = min(math.ceil((len(self.text) + calls) / 4), math.floor(self._longest))
        return Usage(expected_input, output)

    def spent_at_most(self, at_least: Usage | None) -> Usage:
        """Its tokens if it broke off: the provider may have generated more than what arrived."""
        counts = [self.spent(), self.believed(at_least or Usage())]
        expected = Usage(0, math.ceil(self._hold.amounts["output_tokens"]))
        return Usage(
            max(count.input_tokens for count in counts),
            max(count.output_tokens for count in (*counts, expected)),
        )


@dataclass(frozen=True)
class Result:
    """How an attempt ended.

    Attributes:
        attempt: its record.
        answer: what arrived.
        failure: why the call has no reply, or None.
        is_booked: False if the ledger took too long to record the failure.
        misfit: how the reply does not fit the schema, or "".
        parsed: the value of a reply that fits its schema, or None without a schema.
        left: what is left of the route's tightest limit, in words.
    """

    attempt: Attempt
    answer: Answer
    failure: ProviderFailure | None = None
    is_booked: bool = True
    misfit: str = ""
    parsed: Any = None
    left: str = ""


class RouteAttempt:
    """One attempt on one route.

    Args:
        hold: what was reserved for it, and on which route.
        progress: the request's; the attempt is added to it.
    """

    def __init__(self, hold: Hold, progress: RequestProgress) -> None:
        self._hold, self._progress = hold, progress
        route, providers = hold.route, progress.configuration.providers
        window = providers[route.provider].context_windows.get(route.model, math.inf)
        self._answer = Answer(hold, progress.request, window)

    def events(self) -> Generator[Event, None, Result]:
        """Make the call and count it; yields its start, and the pieces of a streamed text."""
        progress, answer, route = self._progress, self._answer, self._hold.route
        load_soon(route)
        yield Started(route)
        adapter = adapter_of(route, progress.configuration)
        try:
            progress.call_has_begun = True
            parts = adapter.complete(
                progress.request,
                route.model,
                stream=progress.stream,
                timeouts=progress.timeouts(),
            )
            # If the reader stops early, for whatever reason, the connection is dropped immediately.
            with closing(parts):  # type: ignore[type-var]  # adapters give generators
                for part in parts:
                    answer.take(part)
                    if part.text and progress.stream:
                        yield from progress.hand_over(Piece(part.text, route))
        except AttemptFailed as error:
            return self._failed(error.failure, adapter.account)
        except (KeyboardInterrupt, GeneratorExit):
            if progress.is_ours():
                self._interrupted(adapter.account)
            raise
        return self._answered(adapter.account)

    def _answered(self, account: str | None) -> Result:
        answer, route, usage = self._answer, self._hold.route, self._answer.spent()
        schema, parsed = self._progress.request.schema, None
        # A reply that calls a tool is not the one that must fit the schema.
        if schema and not answer.tool_calls:
            try:
                parsed = schema.read(answer.text)
            except ValueError as misfit:
                self._settle(usage, account)
                error = f"the reply does not fit {schema.name}"
                attempt = self._progress.note(route, "failed", answer, usage, error)
                return Result(attempt, answer, misfit=str(misfit))
        attempt = self._progress.note(route, "served", answer, usage)
        left = self._settle(usage, account)
        return Result(attempt, answer, parsed=parsed, left=left)

    def _failed(self, failure: ProviderFailure, account: str | None) -> Result:
        answer, route = self._answer, self._hold.route
        if failure.remedy in _OTHER_USE:
            failure = self._for_other_use(failure)
        if failure.usage is not None:
            failure = replace(failure, usage=answer.believed(failure.usage))
        elif failure.may_have_answered:
            spent = answer.spent_at_most(failure.at_least)
            failure = replace(failure, usage=spent, usage_is_known=False)
        state = self._progress.fail(self._hold, failure, account)
        outcome: Outcome = "refused" if failure.remedy in _REFUSALS else "failed"
        opens_at = state.opens_at if state else None
        attempt = self._progress.note(route, outcome, answer, failure.usage, failure, opens_at)
        return Result(attempt, answer, failure, is_booked=state is not None)

    def _for_other_use(self, failure: ProviderFailure) -> ProviderFailure:
        """Return a failure that closes nothing if the model is known only for other requests.

        Its route can still answer those.
        """
        route, is_embedding = self._hold.route, bool(self._progress.request.inputs)
        provider = self._progress.configuration.providers[route.provider]
        makes_embeddings = route.model in provider.embedding_models
        if makes_embeddings == is_embedding or (
            makes_embeddings and route.model in provider.known_models
        ):
            return failure
        _, bracket, answer = failure.summary.partition(" (")
        what = "makes no embeddings" if is_embedding else "takes no prompts"
        return replace(
            failure,
            summary=f"{what}{bracket}{answer}",
            remedy=Remedy.FIX_REQUEST,
            lacks="embeddings" if is_embedding else "",
            option="model",
        )

    def _interrupted(self, account: str | None) -> None:
        answer, streamed = self._answer, self._progress.stream
        # A reply in one piece may have been generated and charged before it arrived.
        spent = answer.spent() if streamed else answer.spent_at_most(None)
        self._progress.note(self._hold.route, "interrupted", answer, spent, "interrupted")
        self._settle(spent if streamed else None, account, is_whole=False)

    def _settle(self, usage: Usage | None, account: str | None, *, is_whole: bool = True) -> str:
        """Settle the call and return what is left, in words."""
        seen = self._answer.observations
        # A call that ended before anything arrived proves nothing about the route.
        answered = self._answer.answered
        call = Settlement(self._hold, usage, seen, account, answered, is_whole)
        return self._progress.settle(call)
