"""Counts what the calls of one account may use and have used.

These are functions on typed state, without clock, file or network. Amounts on hold do not become
available before they are settled, so the ledger never counts less than the provider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ..request import Request, text_tokens
from ..types import (
    MOST_UNITS,
    Limit,
    Usage,
)
from . import windows
from .closures import reopen
from .opening import is_expired, note_level
from .state import (
    LEARNED,
    AccountState,
    Amounts,
    Calibration,
    HeldCall,
    LimitState,
    ModelState,
    RouteRecord,
)

_GUESS = Calibration(1.0, 300.0)
_PER_MESSAGE, _PER_REQUEST, _PER_TOOL = 4, 3, 8
# A limit this many times that of the table means that the account is on another plan.
_OTHER_PLAN = 3.0


def estimate(model: ModelState, request: Request) -> Amounts:
    """Estimate the units that a request will spend, per metric, from earlier calls of the model."""
    known = calibration(model)
    tokens = plain_tokens(request) * known.input_ratio
    output = output_tokens(request, known.output_tokens)
    return as_amounts(math.ceil(tokens), math.ceil(output), request.counts_as)


def output_tokens(request: Request, usual: float) -> float:
    """Tokens of all replies to a request; `usual` is what one reply of the model usually has."""
    if request.inputs:  # vectors have no tokens
        return 0
    return (request.expected_tokens or request.max_tokens or usual) * request.reply_count


def calibration(model: ModelState) -> Calibration:
    """How estimates compare with the provider's counts; for a new model a guess."""
    return model.calibration or _GUESS


def plain_tokens(request: Request) -> float:
    """Estimate the input tokens of a request from the length of its messages, tools and schema."""
    # Providers put the schema into the prompt, or count it as if they did.
    schema = request.schema.tokens if request.schema else 0
    tools = request.tool_tokens + _PER_TOOL * len(request.tools)
    turns = sum(_PER_MESSAGE + message.tokens for message in request.messages)
    texts = sum(map(text_tokens, request.inputs))
    return _PER_REQUEST + schema + tools + turns + texts


def as_amounts(input_tokens: float, output_tokens: float, requests: float = 1.0) -> Amounts:
    """Units per metric, at most the largest valid count: a document cannot hold more."""
    return {
        "requests": requests,
        "tokens": float(min(input_tokens + output_tokens, MOST_UNITS)),
        "input_tokens": float(min(input_tokens, MOST_UNITS)),
        "output_tokens": float(min(output_tokens, MOST_UNITS)),
    }


def limits_of(model: ModelState, defaults: Iterable[Limit]) -> dict[str, Limit]:
    """The limits in force for a model: what was learned, over what is configured or published.

    A smaller limit that the user has set stays. If a provider states many times what the table
    says, the account is on another plan, about which the table says nothing.
    """
    limits = {limit.name: limit for limit in defaults}
    learned, has_other_plan = {}, False
    for name, state in model.limits.items():
        # Ignore stored copies of published and configured limits: the settings may be newer.
        if state.evidence not in LEARNED:
            continue
        known = limits.get(name)
        if is_users_smaller(known, state.amount):
            continue
        learned[name] = state.limit(name)
        if known and known.evidence == "published":
            has_other_plan = has_other_plan or state.amount > _OTHER_PLAN * known.amount
    if has_other_plan:
        limits = {name: x for name, x in limits.items() if x.evidence != "published"}
    return limits | learned


def new_counts(model: ModelState, limits: Mapping[str, Limit], now: float) -> dict[str, LimitState]:
    """New counts of those limits that are not counted yet, or had another size or window."""
    return {
        name: limit_state(limit, now, known)
        for name, limit in limits.items()
        if (known := model.limits.get(name)) is None or not known.counts(limit)
    }


def place_hold(
    record: RouteRecord, hold_id: str, amounts: Amounts, now: float, expires: float, by: str
) -> None:
    """Reserve the amounts on every limit of the route's model, for a process of that name.

    A hold with that id is there already if several calls are held together; they are added to it.
    """
    account, route = record.account, record.route
    account.provider = route.provider
    account.key(route.key.fingerprint).label = route.key.label
    # If the model is new, the record has its only state.
    model = account.models.setdefault(route.model, ModelState(holds=record.model.holds))
    holds = model.holds
    if (hold := holds.get(hold_id)) is None:
        holds[hold_id] = HeldCall(now, expires, dict(amounts), route.key.fingerprint, by)
        return
    hold.expires = max(hold.expires, expires)
    for metric, amount in amounts.items():
        hold.amounts[metric] = min(hold.amounts[metric] + amount, MOST_UNITS)


def lost_holds(
    account: AccountState, now: float, is_dead: Callable[[str], bool]
) -> dict[str, list[str]]:
    """Find the holds of calls that never ended because their kernel died, by model."""
    names = {hold.by for model in account.models.values() for hold in model.holds.values()}
    dead = {name for name in names if is_dead(name)}
    found = {
        name: [
            hold_id
            for hold_id, hold in model.holds.items()
            if hold.by in dead or (not hold.at <= now < hold.expires and is_expired(hold, now))
        ]
        for name, model in account.models.items()
        if model.holds
    }
    return {name: holds for name, holds in found.items() if holds}


def charge_holds(
    model: ModelState, holds: Iterable[str], limits: Mapping[str, Limit], now: float
) -> None:
    """Replace these holds by charges of what they reserved."""
    model.limits.update(new_counts(model, limits, now))
    for hold_id in holds:
        _charge(model, model.holds.pop(hold_id).amounts, now)
    _note_charge(model, now)


def settle(
    model: ModelState, hold_id: str, held: Amounts, spent: Amounts, now: float, began: float
) -> bool:
    """Replace a call's hold by its usage; True if no other call was in progress since `began`.

    A hold that no longer exists has expired and was charged then, or was forgotten on purpose
    together with everything else.
    """
    is_held = _release(model, hold_id, held)
    if is_held:
        _charge(model, spent, now)
    last = -math.inf if model.last_charged is None else model.last_charged
    alone = is_held and not model.holds and last < began
    _note_charge(model, now)
    return alone


def _note_charge(model: ModelState, now: float) -> None:
    """Note the time of a charge, so that no call in progress counts as alone."""
    # A call may have begun later than now, by a clock that was set back since.
    model.last_charged = max([now, *(hold.at for hold in model.holds.values())])


def _release(model: ModelState, hold_id: str, held: Amounts) -> bool:
    """Remove a call from its hold, and the hold with its last call; whether it was there."""
    hold = model.holds.get(hold_id)
    if hold is None:
        return False
    for metric, amount in held.items():
        hold.amounts[metric] = max(0.0, hold.amounts.get(metric, 0.0) - amount)
    if not hold.amounts.get("requests"):
        del model.holds[hold_id]
    return True


def note_answer(record: RouteRecord, now: float, began: float) -> None:
    """Note that a call that began at `began` was answered: reopen what was closed before that."""
    route, model = record.route, record.model
    key = record.account.key(route.key.fingerprint, route.key.label)
    key.answered = model.answered = True
    note_level(record, now)
    reopen(record.account, began, now)
    reopen(key, began, now)
    reopen(model, began, now)
    reopen(record.provider, began, now)
    reopen(record.model_at_provider, began, now)


def calibrate(model: ModelState, plain: float, usage: Usage) -> None:
    """Correct the model's estimates by a settled call, with a weight of a fifth."""
    if not usage.input_tokens or plain <= 0:
        return
    old = calibration(model)
    ratio = min(4.0, max(0.25, usage.input_tokens / plain))
    model.calibration = Calibration(
        round(0.8 * old.input_ratio + 0.2 * ratio, 4),
        round(0.8 * old.output_tokens + 0.2 * usage.output_tokens, 1),
    )


def forget(account: AccountState) -> None:
    """Forget all counts and closures, but not the totals, which are used to compare copies."""
    account.provider, account.keys, account.closed, account.moved = "", {}, None, None
    account.models = {
        name: ModelState(charged=model.charged)
        for name, model in account.models.items()
        if model.charged
    }


def limit_state(
    limit: Limit, now: float, known: LimitState | None = None, since: float | None = None
) -> LimitState:
    """The state of a limit, known `since` then, with what was counted of it before."""
    state = LimitState(
        limit.amount, limit.window, limit.time_zone, limit.evidence, now if since is None else since
    )
    if known is None:
        return state
    before, state.counter = known.limit(limit.name), replace(known.counter)
    if (before.window, before.time_zone) != (limit.window, limit.time_zone):
        state.counter = windows.converted(before, limit, known, now)
    elif limit.window == "bucket" and before.amount != limit.amount:
        # The rate of refill changes with the amount, so note today's level first. A bucket cannot
        # hold more than its amount.
        level = min(windows.used(before, state.counter, now), limit.amount)
        windows.set_used(limit, state.counter, level, now)
    state.recent, state.proven, state.inferred = dict(known.recent), known.proven, known.inferred
    return state


def is_users_smaller(limit: Limit | None, stated: float) -> bool:
    """Whether the user's limit is smaller than the provider's."""
    return limit is not None and limit.evidence == "configured" and limit.amount < stated


def _charge(model: ModelState, amounts: Amounts, now: float) -> None:
    for metric, amount in amounts.items():
        model.charged[metric] = min(model.charged.get(metric, 0.0) + amount, MOST_UNITS)
    for name, state in model.limits.items():
        limit = state.limit(name)
        if units := amounts.get(limit.metric):
            windows.charge(limit, state.counter, units, now)
            windows.remember(limit, state, units, now)
