"""Bounds on the cost of calls: the budget of paid routes, and the bounds of one job."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial

from ..bounded import TookTooLong, within
from ..config import Configuration
from ..prices import cost_usd
from ..request import Request
from ..storage import Storage
from ..types import MOST_UNITS, Route, Usage
from . import counting
from .budget import BudgetUse, Expected, SpendingBounds
from .opening import RouteState
from .state import Amounts

# A request that was not sent waits this long for a locked ledger.
_GIVING_BACK_SECONDS = 0.1

Shares = tuple[tuple[SpendingBounds, str], ...]
"""The holds of one call in spending bounds: the bounds, and the name of the hold in each."""

BoundOf = Callable[[Route, Amounts], "RouteState | None"]
"""Returns what prevents a request with these units from being sent to the route, or None."""


class Spending:
    """The budget of paid routes, and the bounds of `job`, if these calls belong to one."""

    def __init__(self, storage: Storage, configuration: Configuration) -> None:
        self.job: SpendingBounds | None = None
        self._configuration = configuration
        budget = configuration.budget
        self._budget = SpendingBounds(storage, budget) if budget else None

    def bounds(self, route: Route) -> bool:
        """Whether a budget or a job limits the cost of calls on the route."""
        return bool(self._applicable(route))

    def bound_of(self, request: Request, now: float) -> BoundOf | None:
        """A function from a route to the bounds' state for a request; None if there are no bounds.

        Each document is read once, when it is first needed.
        """
        if self._budget is None and self.job is None:
            return None
        states = cache(lambda bounds: bounds.states(now))

        def bound(route: Route, amounts: Amounts) -> RouteState | None:
            if not (applicable := self._applicable(route)):
                return None
            expected = self._expected(route, request, amounts)
            found = [states(bounds)(expected) for bounds in applicable]
            return max(filter(None, found), key=lambda state: state.opens_at, default=None)

        return bound

    def refusal(self, route: Route, request: Request, amounts: Amounts, now: float) -> str:
        """The bound of the job that permanently excludes the request from the route, or ""."""
        if self.job is None:
            return ""
        return self.job.refusal(self._expected(route, request, amounts), now)

    def hold(
        self, route: Route, request: Request, amounts: Amounts, now: float, expires: float
    ) -> Shares | RouteState:
        """Hold the request's share of every bound, or return why it cannot be sent."""
        expected = self._expected(route, request, amounts)
        shares: list[tuple[SpendingBounds, str]] = []
        applicable = self._applicable(route)
        try:
            for bounds in applicable:
                taken = bounds.hold(expected, now, expires)
                if isinstance(taken, RouteState):
                    return taken
                shares.append((bounds, taken))
        finally:
            if len(shares) < len(applicable):
                self.give_back(shares, now)
        return tuple(shares)

    def give_back(self, shares: Sequence[tuple[SpendingBounds, str]], now: float) -> None:
        """Release the amounts reserved for a request that was not sent."""

        def give_back() -> None:
            for bounds, hold in shares:
                bounds.settle(hold, Usage(), 0.0, now)

        if shares:
            # In a helper thread, because this thread's deadline for locks may have passed. If the
            # ledger is locked for longer, the helper waits alone.
            with suppress(TookTooLong):
                within(_GIVING_BACK_SECONDS, give_back)

    def pay(
        self, route: Route, shares: Shares, spent: Amounts, now: float, *, counted: bool
    ) -> list[BudgetUse]:
        """Replace a call's shares with its cost; returns what is left of the budget.

        `counted` says that `spent` is known, not guessed.
        """
        tokens = (math.ceil(spent.get(name, 0.0)) for name in ("input_tokens", "output_tokens"))
        usage = Usage(*tokens)
        usd = cost_usd(route, usage) if shares else None
        for bounds, share in shares:
            bounds.settle(share, usage, usd, now, counted=counted)
        return self.uses(now) if any(bounds is self._budget for bounds, _ in shares) else []

    def uses(self, now: float) -> list[BudgetUse]:
        """The cost of paid routes for each budget; [] without a budget."""
        return self._budget.uses(now) if self._budget else []

    def _applicable(self, route: Route) -> list[SpendingBounds]:
        found = [self._budget if route.paid else None, self.job]
        return [bounds for bounds in found if bounds is not None]

    def _expected(self, route: Route, request: Request, amounts: Amounts) -> Expected:
        """The expected usage of a request there."""
        packed = " packed" if request.expected_tokens else ""
        images = " with images" if request.images else ""
        tools = " with tools" if request.uses_tools else ""
        windows = self._configuration.providers[route.provider].context_windows
        longest = request.max_tokens and request.max_tokens * request.reply_count
        return Expected(
            kind=f"{route.provider}/{route.model}{packed}{images}{tools}",
            usual=Usage(math.ceil(amounts["input_tokens"]), math.ceil(amounts["output_tokens"])),
            plain=counting.plain_tokens(request),
            longest_reply=0 if request.inputs else longest,
            window=windows.get(route.model, math.inf),
            scale=float(min((request.expected_tokens or 1) * request.reply_count, MOST_UNITS)),
            price=partial(cost_usd, route),
        )


def later_of(state: RouteState, bound: RouteState | None) -> RouteState:
    """The later of the state by limits and the state by the bounds of cost."""
    return bound if bound and bound.opens_at > state.opens_at else state
