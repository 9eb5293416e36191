"""The routes that a request may still be offered to, and why it has left the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .endings import no_route, refused_by_all, wrong_setup
from .errors import LLMProviderError, ProviderFailure, Remedy
from .quota.opening import RouteState
from .reply import Attempt
from .types import Request, Route

_CALLS_PER_ROUTE, _CALLS_PER_REQUEST = 6, 100
"""Most calls that one request sends, to one route and in all, whatever the answers are."""


class Remaining:
    """What one request has left of its routes.

    Args:
        routes: all that it may take.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes
        self._calls: Counter[Route] = Counter()
        # Routes that cannot answer this request, whenever they open; of these, the ones that
        # refused the request itself, and the ones that this machine's settings keep it from.
        self._left: set[Route] = set()
        self._unfit: set[Route] = set()
        self._unreachable: set[Route] = set()
        self._setup: dict[str, None] = {}

    def routes(self) -> list[Route]:
        """Those that may be asked, in order; none once the request has sent all its calls."""
        if self._calls.total() >= _CALLS_PER_REQUEST:
            return []
        return [
            route
            for route in self._routes
            if route not in self._left and self._calls[route] < _CALLS_PER_ROUTE
        ]

    def note_call(self, route: Route) -> None:
        """Count a call, whatever becomes of it."""
        self._calls[route] += 1

    def leave(self, route: Route) -> None:
        """Ask a route no more."""
        self._left.add(route)

    def leave_model(self, attempt: Attempt) -> set[Route]:
        """Ask no key for the model of an attempt any more: each would answer alike."""
        same = (attempt.provider, attempt.model)
        left = {route for route in self._routes if (route.provider, route.model) == same}
        self._left |= left
        return left

    def note_failure(self, failure: ProviderFailure, attempt: Attempt) -> None:
        """Leave the routes that would fail in the same way."""
        if failure.remedy is Remedy.FIX_REQUEST:
            self._unfit |= self.leave_model(attempt)
        elif failure.remedy is Remedy.CHECK_SETUP:
            self._setup[failure.summary] = None
            self._unreachable.update(r for r in self._routes if r.provider == attempt.provider)
            self._left |= self._unreachable

    def error(
        self, states: Mapping[Route, RouteState], attempts: Sequence[Attempt], now: float,
        timeout: float | None, cause: str, request: Request,
    ) -> LLMProviderError:  # fmt: skip
        """The error of a request that no route answered; see `endings.no_route`."""
        refused = Remedy.FIX_REQUEST.name
        unfit = self._unfit | {r for r, state in states.items() if state.remedy == refused}
        if unfit.issuperset(self._routes):
            return refused_by_all(attempts)
        if self._unreachable and self._left.issuperset(self._routes):
            return wrong_setup(self._setup, attempts)
        causes = [cause] if cause else []
        if self._calls.total() >= _CALLS_PER_REQUEST:
            causes.append(f"{_CALLS_PER_REQUEST} calls were sent")
        # What this machine's settings are to blame for is said once, and of no provider.
        others = {r: state for r, state in states.items() if r not in self._unreachable}
        causes += self._setup
        return no_route(others, self._left, attempts, now, timeout, "; ".join(causes), request)
