"""When a route opens: its limits, its closures, what its model lacks, and calls in progress.

One call at a time tries a key or a model that has never answered, and anything that was closed and
may be open again. Meanwhile, other calls use the next route or wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..config import Configuration
from ..provider_failure import Remedy
from ..request import Request
from ..types import Limit
from ..wire_fields import may_be_unsuitable, unsuitable
from . import windows
from .closures import (
    RECHECK_SECONDS,
    closure_of,
    from_a_wrong_clock,
    lacks,
    latest_closure,
    parts_of,
)
from .closures import opens as closure_opens
from .state import LEARNED, Amounts, HeldCall, HeldShare, LimitState, ModelState, RouteRecord

LIMIT = Remedy.WAIT_FOR_LIMIT.name
"""Name of the remedy of a limit that is spent."""

# A request before its tokens are known.
_ONE_REQUEST: Amounts = {
    "requests": 1.0, "tokens": 0.0, "input_tokens": 0.0, "output_tokens": 0.0
}  # fmt: skip
FRESH_SECONDS = 1.0
"""A limit in use refills, so its headroom is computed again after this time."""

# Units; refilling windows count with rounding errors.
_ROUNDING = 1e-3
# If the time of an opening is unknown, check again after this time.
_SOON_SECONDS = 0.05
# A call that tests a route blocks others for at most this time, because its kernel may have died.
_TRIAL_SECONDS = 10.0
# A refusal arrives within this time; a call that runs longer was accepted.
_REFUSAL_SECONDS = 0.5


@dataclass(frozen=True)
class RouteState:
    """When a route opens, and why not earlier.

    Attributes:
        opens_at: epoch seconds; `now` or earlier means open, inf means not by waiting.
        reason: why it is closed, or "".
        headroom: share of the tightest limit that is left, 0 to 1.
        on_trial: it is closed only until the outcome of a call in progress is known.
        remedy: name of the `Remedy` that opens it (`WAIT_FOR_LIMIT` for a limit), "" if unknown.
    """

    opens_at: float
    reason: str = ""
    headroom: float = 1.0
    on_trial: bool = False
    remedy: str = ""

    @property
    def is_unsuitable(self) -> bool:
        """Whether the route cannot take something that the request has, such as images."""
        return self.remedy == Remedy.FIX_REQUEST.name


@dataclass(frozen=True)
class Outlook:
    """The state of a route for all requests whose tokens fit, until its account changes.

    Attributes:
        state: the route's state for such a request.
        at, until: the time in which this is true, epoch seconds.
        tokens, input_tokens, output_tokens: what fits; it only grows with time.
    """

    state: RouteState
    at: float
    until: float
    tokens: float
    input_tokens: float
    output_tokens: float

    def holds_for(self, input_tokens: float, output_tokens: float) -> bool:
        """Whether a request of these tokens finds the route in this state."""
        return (
            input_tokens <= self.input_tokens
            and output_tokens <= self.output_tokens
            and input_tokens + output_tokens <= self.tokens
        )


class Room(NamedTuple):
    """The room of one limit of a route at one moment.

    Attributes:
        opens_at: when a request fits, epoch seconds; `now` or earlier means that it fits now, inf
            that it never fits.
        reason: why it does not fit yet, or "".
        used: units that count against the limit, including those of calls in progress.
    """

    opens_at: float
    reason: str
    used: float


def room_of(
    limit: Limit, state: LimitState, amounts: Amounts, held: Amounts, now: float,
    reserve: float = 0.0,
) -> Room:  # fmt: skip
    """When a request with these amounts fits a limit, and how much of it is used.

    Routing and all displays use this function. `held` are the amounts of calls in progress; for
    `reserve` see `route_state`.
    """
    units = held.get(limit.metric, 0.0)
    used = windows.used(limit, state.counter, now) + units
    if limit.amount <= 0:
        return Room(math.inf, f"the plan has no {in_words(limit)}", used)
    need = amounts[limit.metric]
    if limit.metric != "requests":
        too_large = limit.metric != "output_tokens" and amounts["input_tokens"] > limit.amount
        if too_large and not _is_stale(limit, state, now):
            reason = (
                f"too large: about {amounts['input_tokens']:,.0f} tokens, {in_words(limit)}"
                f" is {limit.amount:,.0f}"
            )
            return Room(math.inf, reason, used)
        # An output guess larger than the limit is only a guess: the prompt itself fits.
        need = min(need, limit.amount)
    if reserve:
        need = min(need + reserve * limit.amount, max(need, limit.amount))
    if used + need <= limit.amount:
        return Room(now, "", used)
    moment = windows.opens_at(limit, state.counter, need, now)
    if moment > now and units:
        # Amounts on hold will also be charged before this request fits.
        moment = windows.opens_at(limit, state.counter, min(need + units, limit.amount), now)
    left = limit.amount - used
    if moment > now:
        # Rounded down, as in the tables of `Standing`.
        whole = max(0, math.floor(left + _ROUNDING))
        reason = f"{whole:,} of {limit.amount:,.0f} {in_words(limit)} left"
        return Room(moment, reason, used)
    if need > left + 1e-6:
        # Only unsettled calls use the room. They will be settled soon, at an unknown time.
        reason = f"{in_words(limit)} reserved for calls in progress"
        return Room(now + _SOON_SECONDS, reason, used)
    return Room(moment, "", used)


def route_state(
    record: RouteRecord, amounts: Amounts, now: float, reserve: float = 0.0
) -> RouteState:
    """When the route can take a request with these amounts, and what closes it until then.

    `reserve` is the share of each limit that must be left afterwards. If the request alone leaves
    less than that, the limit must be unused.
    """
    held = on_hold(record.model, now)
    opens, reason, remedy, headroom = now, "", "", 1.0
    if closed := latest_closure(record, now):
        opens, reason, remedy = closure_opens(closed), closed.reason, closed.remedy
    for name, limit in record.limits.items():
        room = room_of(limit, record.model.limits[name], amounts, held, now, reserve)
        if room.opens_at == math.inf:
            remedy = Remedy.SHORTEN_PROMPT.name if limit.amount > 0 else ""
            return RouteState(math.inf, room.reason, 0.0, remedy=remedy)
        if room.opens_at > opens:
            opens, reason, remedy = room.opens_at, room.reason, LIMIT
        left = limit.amount - room.used
        # Less than one request or token is nothing.
        headroom = min(headroom, left / limit.amount if left > 1 - _ROUNDING else 0.0)
    headroom = round(headroom, 6)
    if opens <= now:
        moment, reason = _kept_off_until(record, now)
        if moment > now:
            return RouteState(min(moment, now + _SOON_SECONDS), reason, headroom, on_trial=True)
    return RouteState(opens, reason, headroom, remedy=remedy)


def lacking(
    record: RouteRecord, request: Request, configuration: Configuration, now: float
) -> RouteState | None:
    """A state that says what the route cannot take of the request; None if nothing is known."""
    if not may_be_unsuitable(request):
        return None
    route = record.route
    reason = unsuitable(configuration.providers[route.provider].wire, request)
    if request.images and (not configuration.takes_images(route) or lacks(record, "images", now)):
        reason = "takes no images"
    if request.uses_tools and lacks(record, "tools", now):
        reason = "takes no tools"
    if request.inputs and lacks(record, "embeddings", now):
        reason = "makes no embeddings"
    if not reason:
        return None
    return RouteState(math.inf, reason, 0.0, remedy=Remedy.FIX_REQUEST.name)


def outlook(record: RouteRecord, now: float) -> Outlook | None:
    """A state of the route for many requests; None while it depends on calls in progress."""
    model, provider = record.model, record.provider
    if any(each.holds for each in record.account.models.values()):
        return None
    closed = latest_closure(record, now)
    if any(part.closed.since > now for part in parts_of(record) if part.closed):
        return None
    if closed is None and (provider.closed or record.model_at_provider.closed):
        # A call of another account may be trying them.
        return None
    state = route_state(record, _ONE_REQUEST, now)
    left = {"tokens": math.inf, "input_tokens": math.inf, "output_tokens": math.inf}
    for name, limit in record.limits.items():
        if limit.metric != "requests":
            used = windows.used(limit, model.limits[name].counter, now)
            left[limit.metric] = min(left[limit.metric], limit.amount - used)
    if state.opens_at > now:
        # A missing model is tried again when its closure ends, but no request waits for that.
        until = min(state.opens_at, closed.ends if closed else math.inf)
    else:
        until = math.inf if state.headroom == 1.0 else now + FRESH_SECONDS
    return Outlook(state, now, until, **left)


def note_level(record: RouteRecord, now: float) -> None:
    """Note the level up to which requests at a published rate were answered."""
    rate = _published_rate(record)
    if rate and (state := record.model.limits.get(rate.name)):
        level = float(math.floor(windows.used(rate, state.counter, now)))
        state.proven = max(level, state.proven)


def forget_level(model: ModelState) -> None:
    """Drop the levels that were answered before, because a rate was refused."""
    for state in model.limits.values():
        state.proven = 1.0


def in_words(limit: Limit) -> str:
    """`requests per minute`."""
    return limit.name.replace("_", " ")


def on_hold(model: ModelState, now: float) -> Amounts:
    """The units per metric reserved for calls in progress."""
    total: Amounts = {}
    # A job with many threads has many holds, so the common case is decided without a function call.
    for hold in model.holds.values():
        if hold.at <= now < hold.expires or not is_expired(hold, now):
            for metric, amount in hold.amounts.items():
                total[metric] = total.get(metric, 0.0) + amount
    return total


def is_expired(hold: HeldCall | HeldShare, now: float) -> bool:
    """Whether the kernel that made a hold must have died."""
    return hold.expires <= now or from_a_wrong_clock(hold.at, now)


def _is_stale(limit: Limit, state: LimitState, now: float) -> bool:
    """Whether a reply stated the limit so long ago that requests should try again."""
    return limit.evidence in LEARNED and now - state.evidence_at > RECHECK_SECONDS


def _kept_off_until(record: RouteRecord, now: float) -> tuple[float, str]:
    """The latest time until which another call's outcome must be awaited, and why; 0 if none."""
    address = record.route.address
    shared = (closure_of(part, address) for part in (record.provider, record.model_at_provider))
    tried = [closed.tried for closed in shared if closed and closed.tried is not None]
    every = [hold for model in record.account.models.values() for hold in model.holds.values()]
    if not (tried or every):
        return 0.0, ""
    holds = list(record.model.holds.values())
    of_key = [hold for hold in every if hold.key == record.route.key.fingerprint]
    for part, calls, was_answered in (
        (record.account, every, True),
        (record.key, of_key, record.key.answered),
        (record.model, holds, record.model.answered),
    ):
        closed = closure_of(part, address)
        if closed or not was_answered:
            since = closed.since if closed else -math.inf
            tried.extend(hold.at for hold in calls if hold.at > since)
    if latest := _latest(tried, now, _TRIAL_SECONDS):
        return latest, "another call is testing it"
    if holds and _is_beyond_what_was_answered(record, now):
        latest = _latest([hold.at for hold in holds], now, _REFUSAL_SECONDS)
        return latest, "its rate is not known yet; calls start one at a time"
    return 0.0, ""


def _latest(moments: Iterable[float], now: float, seconds: float) -> float:
    """The time until which the latest call that began within `seconds` is awaited; 0 for none."""
    # A call that began after now comes from another clock.
    return max((m + seconds for m in moments if abs(now - m) < seconds), default=0.0)


def _is_beyond_what_was_answered(record: RouteRecord, now: float) -> bool:
    """Whether one more call would exceed the highest rate so far, if no reply has stated the rate.

    If the table is out of date, many concurrent calls would be refused together.
    """
    stated = [limit for limit in record.limits.values() if limit.evidence != "published"]
    if len(stated) == len(record.limits) or any(map(_is_rate, stated)):
        return False
    rate = _published_rate(record)
    if rate is None:
        return True
    state = record.model.limits[rate.name]
    if rate.window == "bucket":
        # If the rate is lower than published, the bucket refills more slowly, too.
        slow = replace(rate, amount=state.proven)
        level = windows.most_used(slow, state.recent, now)
    else:
        level = windows.used(rate, state.counter, now)
    return level + on_hold(record.model, now).get("requests", 0.0) + 1 > state.proven


def _published_rate(record: RouteRecord) -> Limit | None:
    rates = (limit for limit in record.limits.values() if _is_rate(limit))
    return next((limit for limit in rates if limit.evidence == "published"), None)


def _is_rate(limit: Limit) -> bool:
    return limit.metric == "requests" and limit.period in ("second", "minute")
