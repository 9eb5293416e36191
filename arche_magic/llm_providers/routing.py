"""Which route answers: a pure function of the routes, their states and the clock.

A `Decision` records the inputs of one choice, so that it can be explained and repeated.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Generic, Protocol, TypeVar, cast

from .quota.opening import RouteState
from .reply import without_defaults
from .request import Request
from .types import Route, RouteId, without_vendor

_MOMENT_SECONDS = 0.05


class _Offered(Protocol):
    """The inputs of a choice, besides the states of routes."""

    @property
    def provider(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def paid(self) -> bool: ...


R = TypeVar("R", bound=_Offered)
T = TypeVar("T")


class Routes(tuple[Route, ...]):
    """Routes in the configured order, which are grouped once for all requests."""

    def __init__(self, *_: object) -> None:
        self._groups: dict[str | None, list[list[Route]]] = {}
        self.ids = frozenset((route.id, route.key.fingerprint) for route in self)

    def groups(self, preferred: str | None) -> list[list[Route]]:
        """The routes grouped by provider and model, in the order in which they are asked."""
        if preferred not in self._groups:
            self._groups[preferred] = _grouped(self, preferred)
        return self._groups[preferred]


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
        considered: every route that was evaluated, in order, with its state at that time.
        later: the routes after those, which were not evaluated.
    """

    route: R | None
    opens_at: float
    skipped: tuple[tuple[R, RouteState], ...] = ()
    considered: Sequence[tuple[R, RouteState]] = ()
    later: Sequence[R] = ()


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
            pairs = choice.considered
            return tuple(Considered(*route.id, state, route.paid) for route, state in pairs)

        def later() -> tuple[RouteId, ...]:
            return tuple(route.id for route in choice.later)

        return cls(
            at,
            patience,
            preferred,
            _Deferred(considered),
            _Deferred(later),
            request.private,
            request.same_model,
        )

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
    first = next(iter(_groups(routes, preferred)), None)
    if first is None:
        return []
    name = without_vendor(first[0].model)
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
    # The states of the examined routes, in the order of the groups.
    states: list[RouteState] = []

    def considered() -> tuple[tuple[R, RouteState], ...]:
        return tuple(zip(chain.from_iterable(groups), states, strict=False))

    def later() -> tuple[R, ...]:
        return tuple(islice(chain.from_iterable(groups), len(states), None))

    def choice(route: R | None, opens_at: float) -> RouteChoice[R]:
        return RouteChoice(route, opens_at, tuple(closed), _Deferred(considered), _Deferred(later))

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


def _costs_extra(route: _Offered, preferred: str | None) -> bool:
    """Whether the route costs money and was not explicitly preferred."""
    return route.paid and route.provider != preferred


def _groups(routes: Sequence[R], preferred: str | None) -> list[list[R]]:
    if isinstance(routes, Routes):
        return cast("list[list[R]]", routes.groups(preferred))
    return _grouped(routes, preferred)


def _grouped(routes: Sequence[R], preferred: str | None) -> list[list[R]]:
    """The routes grouped by provider and model, in the order in which they are asked."""
    groups: dict[tuple[str, str], list[R]] = {}
    for route in routes:
        groups.setdefault((route.provider, route.model), []).append(route)
    return sorted(
        groups.values(), key=lambda group: (group[0].provider != preferred, group[0].paid)
    )


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
