"""The loop: offer a request to its routes in order until one answers.

Rotation between keys and fallback between providers are the same: try the next open route. Threads
that wait for the same routes continue in the order in which they arrived.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Hashable
from dataclasses import replace
from typing import NoReturn, Self
from weakref import WeakKeyDictionary

from .attempt import Result, RouteAttempt
from .attempt_log import Tally
from .bounded import TookTooLong
from .events import Discarded, Event, Waiting
from .processes import new_rlock
from .quota.opening import RouteState
from .quota_tracker import Hold
from .remaining import Remaining
from .reply import Reply, total_cost
from .request_progress import RequestProgress
from .routing import Decision, RouteChoice, Routes, choose
from .stopping import raise_if_stopped
from .storage import StorageTimeout
from .types import Route, Usage

# A wait is divided into naps. After each nap the ledger is read again, because another kernel may
# have returned quota.
_LONGEST_NAP_SECONDS = 0.5
_SHORTEST_NAP_SECONDS = 0.001
# If a route is open when it is chosen but closed when it is held, it is not tried again for this
# long.
_CONTENDED_SECONDS = 0.05
# The requests of this process that wait, in the order in which they came. The event of each is set
# when it becomes the first. The references are weak, because an interrupt may keep a request from
# leaving its line.
_lines: dict[Hashable, WeakKeyDictionary[PlaceInLine, threading.Event]] = {}
# Reentrant, because garbage collection can end an abandoned stream at any moment.
_lines_lock = new_rlock()


class RequestRun:
    """One request, offered to one route after another.

    Args:
        progress: the request, and what it has done so far.
        routes: the routes that it may take, in order.
        preferred_provider: the provider to ask first, if any.
        tally: the counts of the provider object that sends the request.
    """

    def __init__(
        self,
        progress: RequestProgress,
        routes: Routes,
        preferred_provider: str | None,
        tally: Tally,
    ) -> None:
        self._progress, self._ledger = progress, progress.ledger
        self._routes, self._preferred_provider = routes, preferred_provider
        self._tally = tally
        self._clock = progress.configuration.clock
        self._decisions = progress.decisions
        self._remaining = Remaining(routes, progress)
        # A request that waits because of the bounds of its job must not delay other requests.
        line = progress.configuration.store, routes.ids, self._ledger.job
        self._place = PlaceInLine(line)
        self._refused: dict[Route, RouteState] = {}
        self._seen: dict[Route, RouteState] = {}
        # The route of the last choice, and whether it was open. Each wait is recorded once.
        self._aim: tuple[Route | None, bool] | None = None

    def events(self) -> Generator[Event, None, Reply]:
        """Yield events as they happen; returns the reply, or raises what `generate` raises."""
        progress = self._progress
        progress.start()
        with self._place as place:
            try:
                while True:
                    raise_if_stopped()
                    progress.check_process()
                    try:
                        choice, hold = progress.offer(self._offer)
                    except (TookTooLong, StorageTimeout):
                        self._give_up("the ledger does not answer")
                    if hold is not None:
                        place.leave()
                        self._note_skipped(choice)
                        self._aim = None
                        self._remaining.note_call(hold.route)
                        result = yield from RouteAttempt(hold, progress).events()
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
                        place.join()
                        yield from self._wait(choice)
            finally:
                if progress.is_ours():
                    # First, because a second interrupt may come at any line.
                    progress.release()
                    self._tally.add(progress.attempts)
                    progress.record()

    def _offer(self) -> tuple[RouteChoice[Route], Hold | None]:
        """Choose a route, and hold it if it is open and no other request is first in line."""
        progress = self._progress
        while True:
            now = self._clock.time()
            choice = self._choose(now)
            if choice.route is None or choice.opens_at > now or progress.time_left() <= 0:
                return choice, None
            if not self._place.may_go() and progress.patience_left() > 0:
                return choice, None
            hold = self._ledger.hold(choice.route, progress.request)
            if isinstance(hold, Hold):
                return choice, hold
            # Another thread or kernel was faster. The request tries other routes now.
            later = max(hold.opens_at, now + _CONTENDED_SECONDS)
            self._refused[choice.route] = replace(hold, opens_at=later)

    def _choose(self, now: float) -> RouteChoice[Route]:
        request, patience = self._progress.request, self._progress.patience_left()
        of_ledger = self._ledger.states_for(request, now)

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
        aim = choice.route, is_open
        if aim != self._aim or is_open:
            if aim == self._aim:
                self._decisions.pop()
            self._decisions.append(
                Decision.of(choice, now, patience, self._preferred_provider, request)
            )
        self._aim = aim
        return choice

    def _wait(self, choice: RouteChoice[Route]) -> Generator[Event, None, None]:
        before = self._clock.time()
        seconds = max(0.0, choice.opens_at - before)
        if choice.route is not None:
            # If the route is open, the request only waits for earlier requests.
            state = self._seen.get(choice.route) if seconds else None
            yield Waiting(choice.route, seconds, state.reason if state else "")
        if self._place.may_go():
            nap = min(seconds, self._progress.time_left(), _LONGEST_NAP_SECONDS)
            self._clock.sleep(max(nap, _SHORTEST_NAP_SECONDS))
        else:
            longest = max(self._progress.patience_left(), seconds)
            self._place.await_turn(min(longest, _LONGEST_NAP_SECONDS))
        self._progress.waited += self._clock.time() - before

    def _reply(self, result: Result) -> Reply:
        answer, attempt = result.answer, result.attempt
        return Reply(
            answer.text,
            provider=attempt.provider,
            key=attempt.key,
            model=attempt.model,
            usage=Usage(attempt.input_tokens, attempt.output_tokens),
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
        states = self._progress.states(self._routes, now) or {
            route: self._seen.get(route, RouteState(now)) for route in self._routes
        }
        raise self._remaining.error(states, now, cause) from None


class PlaceInLine:
    """A request's place among those of this process that wait for the same routes.

    The end of the `with` block leaves the line.

    Args:
        line: names the line.
    """

    def __init__(self, line: Hashable) -> None:
        self._line = line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def may_go(self) -> bool:
        """Return whether the line is empty, or this request is first in it."""
        with _lines_lock:
            line = _lines.get(self._line)
            return line is None or next(line.keys(), self) is self

    def join(self) -> None:
        """Take a place at the end of the line; no effect if the request already has one."""
        with _lines_lock:
            _lines.setdefault(self._line, WeakKeyDictionary()).setdefault(self, threading.Event())

    def leave(self) -> None:
        """Leave the line, and wake the request that is first in it now."""
        with _lines_lock:
            line = _lines.get(self._line)
            if line is None:
                return
            line.pop(self, None)
            if turn := next(line.values(), None):
                turn.set()
            else:
                # Each job with bounds has lines of its own.
                _lines.pop(self._line, None)

    def await_turn(self, seconds: float) -> None:
        """Sleep until this request is first in line, for at most `seconds`."""
        with _lines_lock:
            line = _lines.get(self._line)
            turn = line.get(self) if line else None
        if turn:
            turn.wait(seconds)


if hasattr(os, "register_at_fork"):
    # The waiting threads exist only in the parent process.
    os.register_at_fork(after_in_child=_lines.clear)
