"""Bounded amounts of money and tokens: the budget of all kernels, and the bounds of one job.

Before a call is sent, it holds what it may cost. Afterwards, the real cost replaces the hold. A
call may be sent if its usual cost fits into what is left in the worst case, when every call in
progress costs the most that it can. So all calls together exceed a bound by at most one reply,
however many threads, processes and machines send them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from ..processes import is_dead, this_process
from ..storage import Document, Storage
from ..types import MOST_UNITS, Budget, Usage, utc
from . import codec
from .opening import RouteState, is_expired
from .state import BudgetState, HeldShare, Highest, JobsState
from .windows import period_end

T = TypeVar("T")
Unit = Literal["usd", "tokens"]

_UNITS: tuple[Unit, Unit] = ("usd", "tokens")
_SOON_SECONDS = 0.05
_ROUNDING = 1e-9
# A later reply can be longer than all earlier ones, so room for such a reply is kept.
_TIMES_THE_LONGEST, _LONG_REPLY_TOKENS = 2, 8192
# A text has at most one token per byte, and our guess by length is at least a quarter of that.
_TIMES_THE_INPUT = 4.0
# A job that changed nothing for a week is over.
_JOB_SECONDS = 7 * 86_400.0


@dataclass(frozen=True)
class BudgetUse:
    """One budget at one moment, in USD; the usual cost of calls in progress counts as spent."""

    period: Literal["day", "month"]
    amount: float
    spent: float

    def __str__(self) -> str:
        return f"{self.spent:.2f} of {self.amount:.2f} USD spent {self._when}"

    @property
    def left(self) -> str:
        """The amount left, in words."""
        return (
            f"{max(0.0, self.amount - self.spent):.2f} of {self.amount:.2f} USD left {self._when}"
        )

    @property
    def _when(self) -> str:
        return "today" if self.period == "day" else "this month"


@dataclass(frozen=True)
class Expected:
    """The expected cost of one request on one route.

    Attributes:
        kind: requests of one kind have replies of similar length: those to one model, alone or
            packed, with or without images.
        usual: its tokens by the ledger's estimate.
        plain: its input tokens by length alone.
        longest_reply: `max_tokens`; None without; 0 if vectors are asked for.
        window: the model's maximum number of tokens for a request and its reply together; inf if
            unknown.
        scale: the length that replies are compared with: 1, or the length that is expected for
            this request.
        price: returns the price of a usage in USD, or None if it is not known.
    """

    kind: str
    usual: Usage
    plain: float
    longest_reply: int | None
    window: float
    scale: float
    price: Callable[[Usage], float | None]


@dataclass(frozen=True)
class _Amounts:
    """The usual and the highest usage of a request (inf: unknown), per unit."""

    usual: Mapping[Unit, float]
    most: Mapping[Unit, float]
    has_price: bool
    is_guess: bool


@dataclass(frozen=True)
class _Bound:
    """An amount of one unit that one counter must not exceed."""

    unit: Unit
    amount: float
    counter: str
    period: Literal["day", "month"] | None = None


class SpendingBounds:
    """Holds and settles what calls spend, within a budget or the bounds of one job.

    Args:
        storage: where the document is stored.
        budget: USD per day and month, for all kernels that share the storage.
        max_cost, max_tokens: USD and tokens of one job; inf without a bound.
        job: the name of the job; "" for the budget, and for a job that shares its bounds with no
            other process.
    """

    def __init__(
        self,
        storage: Storage,
        budget: Budget | None = None,
        *,
        max_cost: float = math.inf,
        max_tokens: float = math.inf,
        job: str = "",
    ) -> None:
        self._storage, self._budget, self._job = storage, budget, job
        self._document = codec.JOBS if job else codec.BUDGET
        bounds = (_Bound("usd", max_cost, "usd"), _Bound("tokens", max_tokens, "tokens"))
        self._bounds_of_job = tuple(bound for bound in bounds if bound.amount < math.inf)

    def uses(self, now: float) -> list[BudgetUse]:
        """Each budget that is set."""
        _, state = self._load(self._storage.read(self._document), now)
        held = sum(share.usd for share in state.held.values())
        return [
            BudgetUse(bound.period, bound.amount, state.spent.get(bound.counter, 0.0) + held)
            for bound in self._bounds(now)
            if bound.period
        ]

    def states(self, now: float) -> Callable[[Expected], RouteState | None]:
        """A function that returns until when the bounds prevent a request, or None if they do not.

        The storage is read once.
        """
        _, state = self._load(self._storage.read(self._document), now)
        return lambda expected: self._state(state, expected, now)

    def refusal(self, expected: Expected, now: float) -> str:
        """The bound that the request would exceed even if no call were in progress, or ""."""
        state = self.states(now)(expected)
        return state.reason if state and not state.on_trial else ""

    def hold(self, expected: Expected, now: float, expires: float) -> str | RouteState:
        """Hold what a request may cost; returns the hold, or why it cannot be sent now."""
        name = os.urandom(6).hex()

        def change(state: BudgetState) -> str | RouteState:
            # Redis may have made this change already, and the answer may be lost.
            state.held.pop(name, None)
            closed = self._state(state, expected, now)
            if closed:
                return closed
            amounts = _amounts(state, expected)
            state.held[name] = HeldShare(
                at=now,
                expires=expires,
                usd=min(amounts.usual["usd"], MOST_UNITS),
                tokens=min(amounts.usual["tokens"], MOST_UNITS),
                most_usd=_or_none(amounts.most["usd"]),
                most_tokens=_or_none(amounts.most["tokens"]),
                kind=expected.kind,
                plain=expected.plain,
                scale=expected.scale,
                by=this_process(),
            )
            return name

        return self._change(change, now)

    def settle(
        self, hold: str, spent: Usage, usd: float | None, now: float, *, counted: bool = True
    ) -> None:
        """Replace a hold by what the call cost: its tokens and `usd` (None: the usual cost).

        If the tokens are not `counted` but a guess, the call counts at least as a usual one.
        """

        def change(state: BudgetState) -> None:
            share = state.held.pop(hold, None)
            if share is None:
                return
            took = {"usd": share.usd if usd is None else usd, "tokens": spent.total_tokens}
            if not counted and spent.total_tokens:
                least = {"usd": share.usd, "tokens": share.tokens}
                took = {unit: max(took[unit], least[unit]) for unit in _UNITS}
            self._charge(state, took, now)
            if counted and spent.total_tokens:
                _see(state, share, spent)

        self._change(change, now)

    def _bounds(self, now: float) -> tuple[_Bound, ...]:
        if self._budget is None:
            return self._bounds_of_job
        amounts = zip(("day", "month"), (self._budget.per_day, self._budget.per_month), strict=True)
        return tuple(
            _Bound("usd", amount, counter, period)  # type: ignore[arg-type]  # one of the two
            for counter, (period, amount) in zip(_days(now), amounts, strict=True)
            if amount is not None
        )

    def _state(self, state: BudgetState, expected: Expected, now: float) -> RouteState | None:
        amounts, bounds = _amounts(state, expected), self._bounds(now)
        what = "a budget" if self._budget else "a max_cost"
        if not amounts.has_price and any(bound.unit == "usd" for bound in bounds):
            return RouteState(math.inf, f"its price is unknown, and there is {what}", 0.0)
        found = [self._state_of(bound, state, amounts, now) for bound in bounds]
        closed = [route_state for route_state in found if route_state is not None]
        return max(closed, key=lambda route_state: route_state.opens_at, default=None)

    def _state_of(
        self, bound: _Bound, state: BudgetState, amounts: _Amounts, now: float
    ) -> RouteState | None:
        spent, usual = state.spent.get(bound.counter, 0.0), amounts.usual[bound.unit]
        most = bound.amount + _ROUNDING
        under_way = sum(_most(share, bound.unit) for share in state.held.values())
        if not usual or spent + under_way + usual <= most:
            return None
        if spent + usual <= most:
            whose = "the budget" if bound.period else _name(bound)
            why = f"{whose} is reserved for calls in progress"
            return RouteState(now + _SOON_SECONDS, why, 0.0, on_trial=True)
        if bound.period is None:
            why = f"{_name(bound)} of {bound.amount:,.6g}: {spent:,.6g} spent"
            return RouteState(math.inf, why, 0.0)
        if usual > bound.amount and not amounts.is_guess:
            budget = f"the budget of {bound.amount:.2f} a {bound.period}"
            return RouteState(math.inf, f"about {usual:.4f} USD is more than {budget}", 0.0)
        use = BudgetUse(bound.period, bound.amount, spent)
        return RouteState(period_end(bound.period, "UTC", now), f"the budget: {use}", 0.0)

    def _load(self, document: Document, now: float) -> tuple[BudgetState | JobsState, BudgetState]:
        """The state in the document, and the part that belongs to these bounds, as of now."""
        whole: BudgetState | JobsState
        if self._job:
            whole = codec.read(JobsState, document)
            state = whole.jobs.setdefault(self._job, BudgetState())
        else:
            whole = state = codec.read(BudgetState, document)
        self._turn(state, now)
        return whole, state

    def _change(self, change: Callable[[BudgetState], T], now: float) -> T:
        def change_document(document: Document) -> T:
            whole, state = self._load(document, now)
            if isinstance(whole, JobsState):
                state.at = now
                jobs = whole.jobs.items()
                whole.jobs = {name: job for name, job in jobs if job.at >= now - _JOB_SECONDS}
            result = change(state)
            codec.put(document, whole)
            return result

        return self._storage.update(self._document, change_document)

    def _turn(self, state: BudgetState, now: float) -> None:
        """Drop earlier days and months, and charge calls that never ended."""
        if self._budget is not None:
            today = _days(now)
            if today[0] not in state.spent:
                # A long reply of yesterday must not block today's requests.
                state.seen = {}
                # The clock of another machine may show the day before or after.
                near = {name for days in (-1, 0, 1) for name in _days(now + days * 86_400)}
                state.spent = {name: usd for name, usd in state.spent.items() if name in near}
            for name in today:
                state.spent.setdefault(name, 0.0)
        for name, share in list(state.held.items()):
            if is_expired(share, now) or is_dead(share.by):
                del state.held[name]
                self._charge(state, {"usd": share.usd, "tokens": share.tokens}, now)

    def _charge(self, state: BudgetState, took: Mapping[str, float], now: float) -> None:
        if self._budget is not None:
            for name in _days(now):
                state.spent[name] = min(state.spent[name] + took["usd"], MOST_UNITS)
        else:
            for unit in _UNITS:
                state.spent[unit] = min(state.spent.get(unit, 0.0) + took[unit], MOST_UNITS)


def _amounts(state: BudgetState, expected: Expected) -> _Amounts:
    """The usual usage of a request, and the highest possible one.

    Without `max_tokens`, the usual reply is the longest one so far. Before the first reply, the
    highest possible usage is the model's whole context window.
    """
    seen = state.seen.get(expected.kind)
    usual, window = expected.usual, expected.window
    output = usual.output_tokens
    most_input = most_output = window
    if seen:
        input_tokens = math.ceil(max(usual.input_tokens, seen.input * expected.plain))
        usual = Usage(input_tokens, usual.output_tokens)
        most_input = math.ceil(_TIMES_THE_INPUT * expected.plain)
    is_guess = expected.longest_reply is None and seen is not None and seen.output > 0
    if expected.longest_reply is not None:
        output = most_output = expected.longest_reply
    elif seen and is_guess:
        output = math.ceil(seen.output * expected.scale)
        most_output = max(_TIMES_THE_LONGEST * output, _LONG_REPLY_TOKENS)
    usual = Usage(usual.input_tokens, output)
    most_output = max(output, min(most_output, window))
    most_input = max(usual.input_tokens, min(most_input, window))
    usd = expected.price(usual)
    most_usd: float | None = math.inf if usd else 0.0
    if max(most_input, most_output) < math.inf:
        most_usd = expected.price(Usage(math.ceil(most_input), math.ceil(most_output)))
    return _Amounts(
        {"usd": usd or 0.0, "tokens": usual.total_tokens},
        {"usd": most_usd or 0.0, "tokens": most_input + most_output},
        has_price=usd is not None,
        is_guess=is_guess,
    )


def _see(state: BudgetState, share: HeldShare, spent: Usage) -> None:
    """Note the highest counts of a kind of request."""
    if not share.kind:
        return
    known = state.seen.setdefault(share.kind, Highest())
    ratio = spent.input_tokens / max(1.0, share.plain)
    known.input = max(known.input, round(ratio, 4))
    known.output = max(known.output, round(spent.output_tokens / share.scale, 4))


def _most(share: HeldShare, unit: Unit) -> float:
    most = share.most_usd if unit == "usd" else share.most_tokens
    return math.inf if most is None else most


def _or_none(amount: float) -> float | None:
    """None for an amount that is too large for a document: it counts as unknown."""
    return amount if amount <= MOST_UNITS else None


def _name(bound: _Bound) -> str:
    return "max_cost (USD)" if bound.unit == "usd" else "max_tokens_total"


def _days(now: float) -> tuple[str, str]:
    return f"{utc(now):%Y-%m-%d}", f"{utc(now):%Y-%m}"
