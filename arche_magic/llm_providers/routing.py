"""Which route answers: a pure function of the routes, their states and the clock.

A `Decision` records the inputs of one choice, so that it can be explained and repeated.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Generic, TypeVar

from .quota.opening import RouteState
from .reply import without_defaults
from .request import Request
from .types import Route, RouteId, Usage, without_vendor

_MOMENT_SECONDS = 0.05


# A choice is made among routes, and repeated among those of a record.
R = TypeVar("R", Route, "Considered")
T = TypeVar("T")


class Routes(tuple[Route, ...]):
    """Routes in the configured order, which are grouped once for all requests.

    Attributes:
        ids: identify the set of routes, whatever their order.
        groups: how `choose` has grouped them, by the preferred provider.
    """

    def __init__(self, *_: object) -> None:
        self.ids: frozenset[tuple[RouteId, str]] = frozenset(
            (route.id, route.key.fingerprint) for route in self
        )
        self.groups: dict[str | None, list[list[Route]]] = {}


class _Deferred(Sequence[T]):
    """A tuple that is built when it is first read, because few decisions are ever explained."""

    # Class attributes, so that the repr in a traceback works if an interrupt came before
    # `__init__`.
    _build: Callable[[], tuple[T, ...]] | None = None
    _built: tuple[T, ...] = ()

    def __init__(self, build: Callable[[], tuple[T, ...]]) -> None:
        self._build = build

    def _values(self) -> tuple[T, ...]:
        if build := self._build:
            self._built, self._build = build(), None
        return self._built

    def __len__(self) -> int:
        return len(self._values())

    def __getitem__(self, index: Any) -> Any:
        return self._values()[index]

    def __eq__(self, other: object) -> bool:
        return self._values() == (other._values() if isinstance(other, _Deferred) else other)

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return repr(self._values())

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (self._values(),)


@dataclass(frozen=True)
class RouteChoice(Generic[R]):
    """What to do with a request now: the route to ask or to wait for.

    Attributes:
        route: the route to ask, or to wait for; None if waiting does not help.
        opens_at: epoch seconds; a time in the future means wait. Without a route: when the first
            one opens, or inf.
        skipped: closed routes that come before the chosen one in the order.
        groups: all routes, in order.
        states: of the routes that were evaluated, in the same order.
    """

    route: R | None
    opens_at: float
    skipped: Sequence[tuple[R, RouteState]]
    groups: Sequence[Sequence[R]]
    states: Sequence[RouteState]

    @property
    def considered(self) -> tuple[tuple[R, RouteState], ...]:
        """Every route that was evaluated, in order, with its state at that time."""
        return tuple(zip(chain.from_iterable(self.groups), self.states, strict=False))

    @property
    def later(self) -> tuple[R, ...]:
        """The routes after those, which were not evaluated."""
        return tuple(islice(chain.from_iterable(self.groups), len(self.states), None))


@dataclass(frozen=True)
class Preview:
    """The expected outcome of a request; nothing was sent or reserved.

    Attributes:
        request: what would be sent, word for word.
        route: the one that would answer, after `wait`; None if none opens within the request's
            patience.
        wait: seconds until a route opens (0 if one is open); inf if waiting does not help.
        usage: the tokens it would probably use on that route.
        cost: USD for them; 0 on a free route, None if the price is not known.
        closed: the closed routes that come before `route`: when each opens (epoch seconds), and
            why.
        room: the largest input that one of its routes accepts, in tokens; inf if unknown.
    """

    request: Request
    route: Route | None
    wait: float
    usage: Usage
    cost: float | None
    closed: tuple[tuple[Route, float, str], ...]
    room: float


@dataclass(frozen=True)
class Considered:
    """A route with its state when a request was offered to it; `key` is the label."""

    provider: str
    key: str
    model: str
    state: RouteState
    paid: bool = False

    @property
    def name(self) -> RouteId:
        """Provider, key and model."""
        return RouteId(self.provider, self.key, self.model)

    def opened(self, at: float) -> Considered:
        """The same route, as if it had been open at that time with all its limits unused."""
        return replace(self, state=RouteState(at))


@dataclass(frozen=True)
class Decision:
    """Everything that a choice was based on.

    Attributes:
        at: when it was made, epoch seconds.
        patience: seconds that the request would still wait.
        preferred: the provider to ask first, if any.
        considered: the routes that were examined, in order.
        later: the others, in order.
        private: only routes that the user has marked as private were offered.
        same_model: only routes to the model of the first route were offered.
    """

    at: float
    patience: float
    preferred: str | None
    considered: Sequence[Considered]
    later: Sequence[RouteId] = ()
    private: bool = False
    same_model: bool = False

    @classmethod
    def of(
        cls,
        choice: RouteChoice[Route],
        at: float,
        patience: float,
        preferred: str | None,
        request: Request,
    ) -> Decision:
        """The record of a choice."""

        def considered() -> tuple[Considered, ...]:
            return tuple(Considered(*r.id, state, r.paid) for r, state in choice.considered)

        def later() -> tuple[RouteId, ...]:
            return tuple(route.id for route in choice.later)

        deferred = _Deferred(considered), _Deferred(later)
        return cls(at, patience, preferred, *deferred, request.private, request.same_model)

    def choice(self) -> RouteChoice[Considered]:
        """The same choice, made again from the record."""
        return choose(
            self.considered, lambda route: route.state, self.at, self.patience, self.preferred
        )

    def to_dict(self) -> dict[str, Any]:
        """The decision as plain JSON values; null for a time that never comes."""
        values = without_defaults(self) | {"patience": _finite(self.patience), "considered": []}
        if self.later:
            values["later"] = list(self.later)
        for entry in self.considered:
            state = without_defaults(entry.state) | {"opens_at": _finite(entry.state.opens_at)}
            values["considered"].append(without_defaults(entry) | {"state": state})
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decision:
        """The decision that `to_dict` turned into these values.

        Raises:
            KeyError, TypeError, ValueError: the values are not those of a decision.
        """
        considered = []
        for entry in values["considered"]:
            state = {**entry["state"], "opens_at": _or_never(entry["state"]["opens_at"])}
            considered.append(Considered(**{**entry, "state": RouteState(**state)}))
        later = [RouteId(*map(str, name)) for name in values.get("later", ())]
        at, patience = float(values["at"]), _or_never(values["patience"])
        only = (bool(values.get(name, False)) for name in ("private", "same_model"))
        return cls(at, patience, values["preferred"], tuple(considered), tuple(later), *only)


def of_one_model(routes: Sequence[R], preferred: str | None = None) -> list[R]:
    """The routes to the same model as the first route, whether they are open or not.

    Services name one model with its vendor or without: `openai/gpt-oss-120b`, `gpt-oss-120b`.
    """
    names = (without_vendor(group[0].model) for group in _groups(routes, preferred))
    name = next(names, None)
    return [route for route in routes if without_vendor(route.model) == name]


def choose(
    routes: Sequence[R],
    state_of: Callable[[R], RouteState],
    now: float,
    patience: float,
    preferred: str | None = None,
) -> RouteChoice[R]:
    """Offer a request to the routes in order, the first open one first.

    Order: the preferred provider, then free before paid, then the order of `routes`; within one
    provider and model the route with the most headroom. If only a paid route that was not requested
    is open, and a free or preferred one opens within `patience` seconds, wait for that. If no route
    is open, wait up to `patience` seconds for the first to open, and for a paid one only if no free
    one opens in time. If no other route is open, a route that is closed only until a call in
    progress ends is awaited, whatever the patience is.

    `state_of` is called only for the routes that the choice needs.
    """
    # Even with infinite patience, do not wait for a route that never opens.
    latest = min(now + patience, sys.float_info.max)
    closed: list[tuple[R, RouteState]] = []
    groups = _groups(routes, preferred)
    states: list[RouteState] = []

    def choice(route: R | None, opens_at: float) -> RouteChoice[R]:
        return RouteChoice(route, opens_at, closed, groups, states)

    for group in groups:
        best: R | None = None
        passed: list[tuple[R, RouteState]] = []
        most, before_best = -1.0, 0
        for route in group:
            state = state_of(route)
            states.append(state)
            if state.opens_at > now:
                passed.append((route, state))
            elif state.headroom > most:
                best, most, before_best = route, state.headroom, len(passed)
                if most >= 1.0:
                    # No other route can have more left.
                    break
        if best is None:
            closed.extend(passed)
            continue
        if _costs_extra(group[0], preferred):
            soonest = _soonest(closed, preferred)
            if soonest and soonest[1].opens_at <= latest:
                return choice(soonest[0], soonest[1].opens_at)
        closed.extend(passed[:before_best])
        return choice(best, now)
    first = min(closed, key=lambda pair: pair[1].opens_at, default=None)
    for soonest in (_soonest(closed, preferred), first):
        if soonest and soonest[1].opens_at <= latest:
            return choice(soonest[0], soonest[1].opens_at)
    # Waiting for the outcome of a call in progress is not waiting for quota.
    tried = next((route for route, state in closed if state.on_trial), None)
    if tried is not None:
        return choice(tried, now + _MOMENT_SECONDS)
    return choice(None, first[1].opens_at if first else math.inf)


def _costs_extra(route: Route | Considered, preferred: str | None) -> bool:
    """Whether the route costs money and was not explicitly preferred."""
    return route.paid and route.provider != preferred


def _groups(routes: Sequence[R], preferred: str | None) -> list[list[R]]:
    """The routes grouped by provider and model, in the order in which they are asked."""
    known = routes.groups if isinstance(routes, Routes) else {}
    if preferred not in known:
        groups: dict[tuple[str, str], list[R]] = {}
        for route in routes:
            groups.setdefault((route.provider, route.model), []).append(route)
        known[preferred] = sorted(
            groups.values(), key=lambda group: (group[0].provider != preferred, group[0].paid)
        )
    return known[preferred]


def _soonest(
    closed: Sequence[tuple[R, RouteState]], preferred: str | None
) -> tuple[R, RouteState] | None:
    """The closed route that opens first, of those that cost nothing extra."""
    cheap = [pair for pair in closed if not _costs_extra(pair[0], preferred)]
    return min(cheap, key=lambda pair: pair[1].opens_at, default=None)


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None


def _or_never(seconds: float | None) -> float:
    return math.inf if seconds is None else float(seconds)
