"""What paid routes may cost per day and per month, for all kernels of one ledger together.

Days and months are those of UTC. A call holds what it will probably cost, and what it did cost
takes its place; a call that never ended counts as it was held. The document:

    spent   the current day and month (`2026-11-25`, `2026-11`) -> USD
    held    hold -> {usd, expires}
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from ..storage import Document, Storage
from ..types import Budget, utc
from .opening import RouteState

DOCUMENT = "budget of all providers"
_SOON_SECONDS = 0.05
_ROUNDING = 1e-9


@dataclass(frozen=True)
class BudgetUse:
    """One budget at one moment, in USD; what is on hold for calls under way counts as spent."""

    period: Literal["day", "month"]
    amount: float
    spent: float

    def __str__(self) -> str:
        when = "today" if self.period == "day" else "this month"
        return f"{self.spent:.2f} of {self.amount:.2f} USD spent {when}"

    @property
    def left(self) -> str:
        """What is left of it, in words."""
        when = "today" if self.period == "day" else "this month"
        return f"{max(0.0, self.amount - self.spent):.2f} of {self.amount:.2f} USD left {when}"


class Purse:
    """Holds and settles what calls cost.

    Args:
        storage: where the document lives.
        budget: the amounts.
    """

    def __init__(self, storage: Storage, budget: Budget) -> None:
        self._storage, self._budget = storage, budget

    def uses(self, now: float) -> list[BudgetUse]:
        """Each budget that is set."""
        return self._uses(self._storage.read(DOCUMENT), now)

    def state(self, cost: float | None, now: float) -> RouteState | None:
        """Until when a call of that cost keeps a route shut; None if it may be made.

        A `cost` of None is a price that nobody knows.
        """
        return self._state(self._storage.read(DOCUMENT), cost, now)

    def hold(self, cost: float | None, now: float, expires: float) -> str | RouteState:
        """Hold what a call will probably cost; returns the hold, or why the route is shut."""

        def change(document: Document) -> str | RouteState:
            _turn(document, now)
            state = self._state(document, cost, now)
            if state:
                return state
            name = os.urandom(6).hex()
            document.setdefault("held", {})[name] = {"usd": cost, "expires": expires}
            return name

        return self._storage.update(DOCUMENT, change)

    def settle(self, hold: str, cost: float | None, now: float) -> None:
        """Put what a call did cost in the place of its hold; None leaves the guess."""

        def change(document: Document) -> None:
            held = document.get("held", {}).pop(hold, None)
            _turn(document, now)
            if held is not None:
                _charge(document, held["usd"] if cost is None else cost, now)

        self._storage.update(DOCUMENT, change)

    def _uses(self, document: Document, now: float) -> list[BudgetUse]:
        held = sum(entry["usd"] for entry in document.get("held", {}).values())
        spent = document.get("spent", {})
        day, month = _names(now)
        uses = []
        if self._budget.per_day is not None:
            uses.append(BudgetUse("day", self._budget.per_day, spent.get(day, 0.0) + held))
        if self._budget.per_month is not None:
            uses.append(BudgetUse("month", self._budget.per_month, spent.get(month, 0.0) + held))
        return uses

    def _state(self, document: Document, cost: float | None, now: float) -> RouteState | None:
        if cost is None:
            return RouteState(math.inf, "there is a budget, and its price is not known", 0.0)
        held = sum(entry["usd"] for entry in document.get("held", {}).values())
        states = []
        for use in self._uses(document, now):
            if use.spent + cost <= use.amount + _ROUNDING:
                continue
            if cost > use.amount:
                budget = f"the budget of {use.amount:.2f} a {use.period}"
                why = f"about {cost:.4f} USD is more than {budget}"
                states.append(RouteState(math.inf, why, 0.0))
            elif use.spent - held + cost <= use.amount + _ROUNDING:
                why = "the budget is on hold for calls under way"
                states.append(RouteState(now + _SOON_SECONDS, why, 0.0))
            else:
                states.append(RouteState(_turns_at(use.period, now), f"the budget: {use}", 0.0))
        return max(states, key=lambda state: state.opens_at, default=None)


def merge_budget(before: Document, ours: Document, theirs: Document) -> None:
    """Add to `theirs` what was spent between `before` and `ours`; holds are their own kernels'."""
    spent = theirs.setdefault("spent", {})
    for name, usd in ours.get("spent", {}).items():
        spent[name] = spent.get(name, 0.0) + max(0.0, usd - before.get("spent", {}).get(name, 0.0))
    for hold in before.get("held", {}):
        if hold not in ours.get("held", {}):
            theirs.get("held", {}).pop(hold, None)


def _names(now: float) -> tuple[str, str]:
    return f"{utc(now):%Y-%m-%d}", f"{utc(now):%Y-%m}"


def _turns_at(period: Literal["day", "month"], now: float) -> float:
    today = utc(now).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return (today + timedelta(days=1)).timestamp()
    later: datetime = today.replace(day=1) + timedelta(days=32)
    return later.replace(day=1).timestamp()


def _turn(document: Document, now: float) -> None:
    """Forget earlier days and months, and charge calls that never ended."""
    names = _names(now)
    spent = document.setdefault("spent", {})
    document["spent"] = {name: usd for name, usd in spent.items() if name in names}
    held = document.get("held", {})
    for name in [name for name, entry in held.items() if entry["expires"] <= now]:
        _charge(document, held.pop(name)["usd"], now)


def _charge(document: Document, usd: float, now: float) -> None:
    spent = document["spent"]
    for name in _names(now):
        spent[name] = spent.get(name, 0.0) + usd
