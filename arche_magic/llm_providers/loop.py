"""The one loop: offer a request to the routes in order until one answers.

Rotation between keys and fallback between providers are both this: the next open route.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Generator, Hashable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import NoReturn

from .adapters import Adapter, build_adapter
from .attempts import SESSION, AttemptLog, Tally
from .config import Configuration
from .errors import (
    AttemptFailed,
    ContentFiltered,
    InvalidRequest,
    NoRouteAvailable,
    Remedy,
    SchemaMismatch,
)
from .prices import cost_usd
from .quota.opening import RouteState
from .quota_tracker import Hold, QuotaTracker
from .reply import Attempt, Considered, Discarded, Event, Outcome, Piece, Reply, Waiting
from .routing import Choice, choose
from .schemas import with_correction
from .types import Observation, Request, Route, Usage, in_seconds, utc
from .waiting import WaitingLine, waiting_line

logger = logging.getLogger("arche_magic.attempts")

# A wait is slept in naps, after each of which the ledger is asked again: another kernel may have
# given something back.
_LONGEST_NAP_SECONDS = 0.5
_SHORTEST_NAP_SECONDS = 0.001
_ATTEMPTS_PER_ROUTE = 5
_ROUTES_IN_A_MESSAGE = 4
_REFUSALS = (Remedy.WAIT_FOR_LIMIT, Remedy.TOP_UP_ACCOUNT, Remedy.CHANGE_PLAN)


@dataclass
class RequestRun:
    """One request on its way through the routes."""

    request: Request
    routes: Sequence[Route]
    stream: bool
    preferred_provider: str | None
    quota_tracker: QuotaTracker
    log: AttemptLog
    tally: Tally
    attempts: list[Attempt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._id = os.urandom(6).hex()
        self._clock = self.quota_tracker.configuration.clock
        self._started = self._clock.time()
        self._waited = 0.0
        self._out: set[Route] = set()
        self._mismatch: SchemaMismatch | None = None

    def events(self) -> Generator[Event, None, Reply]:
        """What happens, as it happens; returns the reply.

        Raises:
            NoRouteAvailable: every route is shut or failed, or the time is up.
            InvalidRequest, ContentFiltered: a provider refused the request itself.
            SchemaMismatch: two replies did not fit the schema.
        """
        self._started = self._clock.time()
        with waiting_line(self._line_name(), self) as line:
            try:
                while True:
                    choice = self._choose()
                    if choice.route is None or self._time_left() <= 0:
                        self._note_skipped(choice)
                        self._give_up()
                    shut = choice.opens_at > self._clock.time()
                    if shut or (self._patience_left() > 0 and not line.may_go(self)):
                        line.join(self)
                        yield from self._wait(choice.route, choice.opens_at, line)
                        continue
                    hold = self.quota_tracker.hold(choice.route, self.request)
                    if isinstance(hold, RouteState):
                        # Another thread or kernel was faster; the ledger has changed: look again.
                        continue
                    line.leave(self)
                    self._note_skipped(choice)
                    reply = yield from self._ask(hold, choice)
                    if reply is not None:
                        return reply
            finally:
                self.tally.add(self.attempts)
                self.log.append(self.attempts)

    def _line_name(self) -> Hashable:
        names = frozenset((r.provider, r.key.fingerprint, r.model) for r in self.routes)
        return self.quota_tracker.configuration.store, names

    def _choose(self) -> Choice:
        now = self._clock.time()
        return choose(
            [route for route in self.routes if route not in self._out],
            lambda route: self.quota_tracker.state(route, self.request, now),
            now,
            self._patience_left(),
            self.preferred_provider,
        )

    def _patience_left(self) -> float:
        return max(0.0, min(self.request.patience - self._waited, self._time_left()))

    def _time_left(self) -> float:
        return self._started + self.request.timeout - self._clock.time()

    def _wait(
        self, route: Route, opens_at: float, line: WaitingLine
    ) -> Generator[Event, None, None]:
        before = self._clock.time()
        seconds = max(0.0, opens_at - before)
        yield Waiting(route, seconds)
        if line.may_go(self):
            self._clock.sleep(min(max(seconds, _SHORTEST_NAP_SECONDS), _LONGEST_NAP_SECONDS))
        else:
            longest = max(self._patience_left(), seconds)
            line.await_turn(self, min(longest, _LONGEST_NAP_SECONDS))
        self._waited += self._clock.time() - before

    def _ask(self, hold: Hold, choice: Choice) -> Generator[Event, None, Reply | None]:
        """One attempt on one route: a reply, or None if the next route is to be asked."""
        route = hold.route
        call = _Call()
        adapter = _adapter(route, self.quota_tracker.configuration)
        try:
            answer = adapter.complete(
                self.request, route.model, stream=self.stream, timeout=self._time_left()
            )
            # Left early, for whatever reason, the connection is dropped at once.
            with closing(answer):  # type: ignore[type-var]  # adapters give generators
                for part in answer:
                    call.observations.extend(part.observations)
                    call.usage = part.usage or call.usage
                    call.finish_reason = part.finish_reason or call.finish_reason
                    if part.text:
                        call.add(part.text)
                        yield Piece(part.text, route)
        except AttemptFailed as failure:
            attempt = self._note_failed(hold, failure, call, adapter.account)
            if failure.remedy in (Remedy.FIX_REQUEST, Remedy.CHANGE_PROMPT):
                self._refuse_request(failure, attempt, call.text)
            if call.text:
                yield Discarded(attempt)
            return None
        except (KeyboardInterrupt, GeneratorExit):
            spent = call.usage or _counted(hold, call.text)
            self.quota_tracker.settle(
                hold, spent, call.observations, adapter.account, answered=bool(call.text)
            )
            self._note(route, "interrupted", call, spent, error="interrupted")
            raise
        standing = self.quota_tracker.settle(hold, call.usage, call.observations, adapter.account)
        usage = call.usage or _counted(hold, call.text)
        parsed = None
        if self.request.schema:
            try:
                parsed = self.request.schema.read(call.text)
            except ValueError as misfit:
                yield from self._ask_once_more(route, call, usage, misfit)
                return None
        served = self._note(route, "served", call, usage)
        return Reply(
            call.text,
            provider=route.provider,
            key=route.key.label,
            model=route.model,
            usage=usage,
            attempts=tuple(self.attempts),
            seconds=self._clock.time() - self._started,
            finish_reason=call.finish_reason,
            cost=served.cost_usd,
            standing=standing,
            considered=_considered(choice, hold.at),
            parsed=parsed,
        )

    def _ask_once_more(
        self, route: Route, call: _Call, usage: Usage, misfit: ValueError
    ) -> Generator[Event, None, None]:
        """Turn the request into one that says what did not fit the schema; the second time, fail.

        Raises:
            SchemaMismatch: it was said before, or the reply was cut and would be again.
        """
        name = self.request.schema.name if self.request.schema else ""
        attempt = self._note(route, "failed", call, usage, f"the reply does not fit {name}")
        mismatch = SchemaMismatch(
            f"the reply of {route.provider} ({route.model}) does not fit {name}: {misfit}",
            attempts=self.attempts,
        )
        mismatch.text = call.text
        if call.finish_reason == "length":
            raise mismatch.ended("it was cut at max_tokens", self.attempts) from None
        if self._mismatch:
            raise mismatch.ended("asked twice", self.attempts) from None
        self._mismatch = mismatch
        self.request = with_correction(self.request, call.text, str(misfit))
        yield Discarded(attempt, mismatch)

    def _note_failed(
        self, hold: Hold, failure: AttemptFailed, call: _Call, account: str | None
    ) -> Attempt:
        state = self.quota_tracker.fail(hold, failure, account)
        route = hold.route
        asked = sum(a.is_on(route) and a.outcome in ("refused", "failed") for a in self.attempts)
        if failure.remedy is Remedy.SHORTEN_PROMPT or asked + 1 >= _ATTEMPTS_PER_ROUTE:
            self._out.add(route)
        outcome: Outcome = "refused" if failure.remedy in _REFUSALS else "failed"
        usage = failure.usage or Usage()
        return self._note(route, outcome, call, usage, str(failure), state.opens_at)

    def _note_skipped(self, choice: Choice) -> None:
        """Record once per request each shut route that would have come first."""
        for route, state in choice.passed_over:
            if not any(attempt.is_on(route) for attempt in self.attempts):
                self._note(route, "skipped", None, Usage(), state.reason, state.opens_at)

    def _note(
        self,
        route: Route,
        outcome: Outcome,
        call: _Call | None,
        usage: Usage,
        error: str | None = None,
        opens_at: float | None = None,
    ) -> Attempt:
        first_token = call.first_token_s if call and self.stream else None
        attempt = Attempt(
            provider=route.provider,
            key=route.key.label,
            model=route.model,
            outcome=outcome,
            error=error,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            seconds=round(call.seconds(), 4) if call else 0.0,
            first_token_s=round(first_token, 4) if first_token is not None else None,
            waited_s=round(self._waited, 3),
            # An interrupt returns at once.
            cost_usd=cost_usd(route, usage, load=outcome != "interrupted"),
            at=round(self._clock.time(), 3),
            request=self._id,
            session=SESSION,
            opens_at=opens_at if opens_at is not None and math.isfinite(opens_at) else None,
        )
        self.attempts.append(attempt)
        logger.info("%s", attempt)
        return attempt

    def _refuse_request(self, failure: AttemptFailed, attempt: Attempt, text: str) -> NoReturn:
        where = f"{attempt.provider} ({attempt.model})"
        if failure.remedy is Remedy.FIX_REQUEST:
            raise InvalidRequest(
                f"{where} does not take the request: {failure}", attempts=self.attempts
            ) from None
        error = ContentFiltered(f"{where} refused to answer: {failure}", attempts=self.attempts)
        error.partial = text or failure.text
        raise error from None

    def _give_up(self) -> NoReturn:
        now = self._clock.time()
        states = {r: self.quota_tracker.state(r, self.request, now) for r in self.routes}
        openings = [
            state.opens_at
            for route, state in states.items()
            if route not in self._out and now < state.opens_at < math.inf
        ]
        lines = [self._explain(route, state, now) for route, state in states.items()]
        shown = "; ".join(lines[:_ROUTES_IN_A_MESSAGE])
        if len(lines) > _ROUTES_IN_A_MESSAGE:
            shown += f"; and {len(lines) - _ROUTES_IN_A_MESSAGE} more"
        if self._time_left() <= 0:
            head = f"No reply within {self.request.timeout:g} s"
        elif len(openings) == len(states) and {route.provider for route in states} == {"groq"}:
            head = "All Groq API keys have hit rate limits"
        else:
            head = "No available LLM providers"
        opens_at = utc(min(openings)) if openings else None
        if self._mismatch:
            why = f"not asked once more: {head}: {shown}"
            raise self._mismatch.ended(why, self.attempts, opens_at) from None
        raise NoRouteAvailable(
            f"{head}: {shown}", attempts=self.attempts, next_available_at=opens_at
        )

    def _explain(self, route: Route, state: RouteState, now: float) -> str:
        """One route in the message of an error: when it opens, and why it is shut."""
        errors = [a.error for a in self.attempts if a.is_on(route) and a.error]
        why = state.reason or (errors[-1] if errors else "not asked")
        if route not in self._out and now < state.opens_at < math.inf:
            return f"{route} opens {in_seconds(state.opens_at - now)} ({why})"
        return f"{route}: {why}"


class _Call:
    """What has arrived of one call so far."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._pieces: list[str] = []
        self.first_token_s: float | None = None
        self.usage: Usage | None = None
        self.finish_reason = "stop"
        self.observations: list[Observation] = []

    def add(self, text: str) -> None:
        if self.first_token_s is None:
            self.first_token_s = self.seconds()
        self._pieces.append(text)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def seconds(self) -> float:
        return time.perf_counter() - self._began


_adapters: dict[tuple[str, str, str], Adapter] = {}
_adapters_lock = threading.Lock()


def _adapter(route: Route, configuration: Configuration) -> Adapter:
    """The adapter of a key, built once per process: an SDK client costs about 40 ms."""
    provider = configuration.providers[route.provider]
    identity = (provider.name, route.key.fingerprint, provider.url)
    with _adapters_lock:
        if identity not in _adapters:
            _adapters[identity] = build_adapter(provider.wire, route.key, provider.url)
        return _adapters[identity]


def _considered(choice: Choice, at: float) -> tuple[Considered, ...]:
    return tuple(
        Considered(
            route.provider, route.key.label, route.model,
            state.opens_at, state.reason, state.headroom, at,
        )
        for route, state in choice.considered
    )  # fmt: skip


def _counted(hold: Hold, text: str) -> Usage:
    """Tokens by our own count, where the provider gave none."""
    return Usage(math.ceil(hold.amounts["input_tokens"]), math.ceil(len(text) / 4))
