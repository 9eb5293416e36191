"""The loop: offer a request to its routes in order until one answers.

Rotation between keys and fallback between providers are the same: try the next open route. Threads
that wait for the same routes continue in the order in which they arrived.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NoReturn
from weakref import WeakValueDictionary

from .attempt import Result, RouteAttempt
from .attempt_log import Tally
from .events import Discarded, Event, Waiting
from .processes import new_lock
from .quota.opening import RouteState
from .quota_tracker import Hold
from .remaining import Remaining
from .reply import Reply, total_cost
from .request import Request
from .request_progress import RequestProgress
from .routing import Decision, RouteChoice, Routes, choose
from .stopping import raise_if_stopped
from .timed_ledger import LedgerTimeout, TimedLedger
from .types import Route

# A wait is divided into naps. After each nap the ledger is read again, because another kernel may
# have returned quota.
_LONGEST_NAP_SECONDS = 0.5
_SHORTEST_NAP_SECONDS = 0.001
# If a route is open when it is chosen but closed when it is held, it is not tried again for this
# long.
_CONTENDED_SECONDS = 0.05
# A line is dropped when no request uses it, because the bounds of a job are part of its name.
_lines: WeakValueDictionary[Hashable, WaitingLine] = WeakValueDictionary()
_lines_lock = new_lock()


class RequestRun:
    """One request, offered to one route after another.

    Args:
        request: the request to send.
        routes: the routes that it may take, in order.
        stream: whether the reply is streamed.
        preferred_provider: the provider to ask first, if any.
        ledger: the ledger, and where its attempts are recorded.
        tally: the counts of the provider object that sends the request.
    """

    def __init__(
        self,
        request: Request,
        routes: Sequence[Route],
        stream: bool,
        preferred_provider: str | None,
        ledger: TimedLedger,
        tally: Tally,
    ) -> None:
        self._routes, self._preferred_provider = routes, preferred_provider
        self._ledger, self._tally = ledger, tally
        self._tracker, configuration = ledger.tracker, ledger.tracker.configuration
        self._clock = configuration.clock
        self._progress = RequestProgress(request, stream, configuration, ledger)
        self._decisions = self._progress.decisions
        self._remaining = Remaining(routes, self._progress)
        self._refused: dict[Route, RouteState] = {}
        self._seen: dict[Route, RouteState] = {}
        # The route of the last choice, and whether the request must wait for it. Each wait is
        # recorded once.
        self._aim: tuple[Route | None, bool] | None = None

    def events(self) -> Generator[Event, None, Reply]:
        """Yield events as they happen; returns the reply.

        Raises:
            NoRouteAvailable: every route is closed or failed, or the time is up.
            InvalidRequest: every route refused the request itself.
            ContentFiltered: a provider filtered the prompt or its reply.
            IncompleteReply: the models that are open used all their tokens for reasoning.
            ConfigurationError: proxy or certificate settings of this machine close all routes.
            SchemaMismatch: two replies did not fit the schema.
        """
        progress = self._progress
        progress.start()
        with waiting_line(self._line_name(), self) as line:
            try:
                while True:
                    raise_if_stopped()
                    progress.check_process()
                    try:
                        choice, hold = self._ledger.offer(partial(self._offer, line))
                    except LedgerTimeout:
                        self._give_up("the ledger does not answer")
                    if hold is not None:
                        line.leave(self)
                        self._note_skipped(choice)
                        result = yield from self._ask(hold)
                        if result.attempt.outcome == "served":
                            return self._reply(result)
                        error = self._remaining.judge(result)
                        if result.answer.text:
                            yield Discarded(result.attempt, error)
                    elif (
                        choice.route is None
                        or progress.time_left() <= 0
                        or self._remaining.needs_tokens
                    ):
                        self._note_skipped(choice)
                        self._give_up()
                    else:
                        line.join(self)
                        yield from self._wait(choice, line)
            finally:
                if progress.is_ours():
                    self._ledger.release()
                    self._tally.add(progress.attempts)
                    self._ledger.append(progress.attempts, self._decisions)

    def _line_name(self) -> Hashable:
        names = self._routes.ids if isinstance(self._routes, Routes) else frozenset(self._routes)
        # A request that waits because of the bounds of its job must not delay other requests.
        return self._tracker.configuration.store, names, self._tracker.job

    def _offer(self, line: WaitingLine) -> tuple[RouteChoice[Route], Hold | None]:
        """Choose a route, and hold it if it is open and no other request is first in line."""
        while True:
            choice, now = self._choose(), self._clock.time()
            if choice.route is None or choice.opens_at > now or self._progress.time_left() <= 0:
                return choice, None
            if self._progress.patience_left() > 0 and not line.may_go(self):
                return choice, None
            hold = self._tracker.hold(choice.route, self._progress.request)
            if isinstance(hold, Hold):
                return choice, hold
            # Another thread or kernel was faster. The request tries other routes now.
            later = max(hold.opens_at, now + _CONTENDED_SECONDS)
            self._refused[choice.route] = replace(hold, opens_at=later)

    def _choose(self) -> RouteChoice[Route]:
        now, patience = self._clock.time(), self._progress.patience_left()

        of_ledger = self._tracker.states_for(self._progress.request, now)

        def state_of(route: Route) -> RouteState:
            state = of_ledger(route)
            refused = self._refused.get(route)
            return refused if refused and state.opens_at <= now < refused.opens_at else state

        choice = choose(
            self._remaining.routes(),
            state_of if self._refused else of_ledger,
            now,
            patience,
            self._preferred_provider,
        )
        is_open = choice.route is not None and choice.opens_at <= now
        self._seen.update(choice.skipped if is_open else choice.considered)
        aim = choice.route, choice.opens_at > now
        if aim == self._aim and not aim[1]:
            self._decisions.pop()
        if aim != self._aim or not aim[1]:
            self._decisions.append(
                Decision.of(choice, now, patience, self._preferred_provider, self._progress.request)
            )
        self._aim = aim
        return choice

    def _wait(self, choice: RouteChoice[Route], line: WaitingLine) -> Generator[Event, None, None]:
        before = self._clock.time()
        seconds = max(0.0, choice.opens_at - before)
        if choice.route is not None:
            # If the route is open, the request only waits for earlier requests.
            state = self._seen.get(choice.route) if seconds else None
            yield Waiting(choice.route, seconds, state.reason if state else "")
        if line.may_go(self):
            nap = min(seconds, self._progress.time_left(), _LONGEST_NAP_SECONDS)
            self._clock.sleep(max(nap, _SHORTEST_NAP_SECONDS))
        else:
            longest = max(self._progress.patience_left(), seconds)
            line.await_turn(self, min(longest, _LONGEST_NAP_SECONDS))
        self._progress.waited += self._clock.time() - before

    def _ask(self, hold: Hold) -> Generator[Event, None, Result]:
        self._aim = None
        self._remaining.note_call(hold.route)
        return (yield from RouteAttempt(hold, self._progress, self._ledger).events())

    def _reply(self, result: Result) -> Reply:
        answer, attempt = result.answer, result.attempt
        return Reply(
            answer.text,
            provider=attempt.provider,
            key=attempt.key,
            model=attempt.model,
            usage=answer.spent(),
            attempts=tuple(self._progress.attempts),
            seconds=self._progress.seconds(),
            finish_reason=answer.finish_reason,
            cost=total_cost(self._progress.attempts),
            standing=result.left,
            decisions=tuple(self._decisions),
            parsed=result.parsed,
            request=self._progress.id,
            tool_calls=answer.tool_calls,
            choices=answer.choices,
            vectors=answer.vectors,
        )

    def _note_skipped(self, choice: RouteChoice[Route]) -> None:
        """Note each closed route that would have come first, once per request."""
        noted = {attempt.route for attempt in self._progress.attempts}
        for route, state in choice.skipped:
            if route.id not in noted:
                self._progress.note(route, "skipped", error=state.reason, opens_at=state.opens_at)

    def _give_up(self, cause: str = "") -> NoReturn:
        now = self._clock.time()
        states = self._ledger.states(self._routes, self._progress.request, now) or {
            route: self._seen.get(route, RouteState(now)) for route in self._routes
        }
        raise self._remaining.error(states, now, cause) from None


class WaitingLine:
    """The requests of this process that wait for one set of routes."""

    def __init__(self) -> None:
        # The key is the identity of the ticket; its event is set when it is first in line.
        self._turns: dict[int, threading.Event] = {}
        self._lock = new_lock()

    def may_go(self, ticket: object) -> bool:
        """Return whether the line is empty, or the ticket is first in it."""
        with self._lock:
            return next(iter(self._turns), id(ticket)) == id(ticket)

    def join(self, ticket: object) -> None:
        """Take a place at the end of the line; no effect if the ticket already has a place."""
        with self._lock:
            self._turns.setdefault(id(ticket), threading.Event())
            self._call_first()

    def leave(self, ticket: object) -> None:
        """Leave the line."""
        with self._lock:
            self._turns.pop(id(ticket), None)
            self._call_first()

    def await_turn(self, ticket: object, seconds: float) -> None:
        """Sleep until the ticket is first in line, for at most `seconds`."""
        with self._lock:
            turn = self._turns.get(id(ticket))
        if turn:
            turn.wait(seconds)

    def _call_first(self) -> None:
        for turn in self._turns.values():
            turn.set()
            return


@contextmanager
def waiting_line(routes: Hashable, ticket: object) -> Iterator[WaitingLine]:
    """The line of a set of routes; the ticket leaves it at the end of the `with`."""
    with _lines_lock:
        if (line := _lines.get(routes)) is None:
            line = _lines[routes] = WaitingLine()
    try:
        yield line
    finally:
        line.leave(ticket)


if hasattr(os, "register_at_fork"):
    # The waiting threads exist only in the parent process.
    os.register_at_fork(after_in_child=_lines.clear)
