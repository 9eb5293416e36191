"""When a route opens: its limits, what is closed, and calls under way that must be waited for.

A part of a document is closed by `closed`: {until, reason, since, strikes, remedy?, address?,
tried?}. `address` is the fingerprint of the base URL that gave the reason, absent for the
provider's own: at another address the part is open. Once `until` has passed it is tried: by one
call at a time, until an answer takes the closure away. So is a key or a model that was never
`answered`. Whoever comes meanwhile goes to the next route, or waits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from ..types import Limit, Route
from . import windows

Document = dict[str, Any]
Amounts = dict[str, float]

LIMIT = "WAIT_FOR_LIMIT"
"""Name of the remedy of a limit that is spent."""

MISSING = "CHANGE_MODEL"
"""Name of the remedy of a model that its address does not serve."""

_MAX_DOUBLINGS = 10
_SHORTEST_CLOSE_SECONDS = 0.1
_CLOCK_TOLERANCE_SECONDS = 3600.0
# What has no known moment is asked for again after this.
_SOON_SECONDS = 0.05
# A call that tries a route keeps others off for this long at most: its kernel may have died.
_TRIAL_SECONDS = 10.0
# What only a reply said is asked again after a day, where it turns away all that is asked.
_RECHECK_SECONDS = 86_400.0
_SAME_MOMENT_SECONDS = 1e-3
# A refusal comes within this time; a call that is under way for longer was let in.
_REFUSAL_SECONDS = 0.5


@dataclass(frozen=True)
class RouteState:
    """A route's one number, and why.

    Attributes:
        opens_at: epoch seconds; `now` or earlier means open, inf means not by waiting.
        reason: why it is shut, or "".
        headroom: share of the tightest limit that is left, 0 to 1.
        on_trial: only a call under way, whose outcome is awaited, keeps it shut.
        remedy: name of the `Remedy` that opens it (`WAIT_FOR_LIMIT` for a limit), "" if unknown.
    """

    opens_at: float
    reason: str = ""
    headroom: float = 1.0
    on_trial: bool = False
    remedy: str = ""


@dataclass(frozen=True)
class LimitState:
    """One limit of a route at one moment; times in epoch seconds.

    Attributes:
        opens_at: when a request fits; `now` or earlier means at once, inf means never.
        reason: why it does not fit yet, or "".
        used: units that count against the limit, those on hold included.
    """

    opens_at: float
    reason: str
    used: float


def limit_state(
    limit: Limit, stored: Document, amounts: Amounts, held: Amounts, now: float,
    reserve: float = 0.0,
) -> LimitState:  # fmt: skip
    """When a limit takes a request of these amounts, and what is used of it.

    Both routing and all that is displayed come from here. `stored` is the limit's entry in the
    document, `held` what calls in flight hold; for `reserve` see `route_state`.
    """
    counter = stored.get("counter", {})
    units = held.get(limit.metric, 0.0)
    used = windows.used(limit, counter, now) + units
    if limit.amount <= 0:
        return LimitState(math.inf, f"the plan has no {in_words(limit)}", used)
    need = amounts[limit.metric]
    if limit.metric != "requests":
        too_large = limit.metric != "output_tokens" and amounts["input_tokens"] > limit.amount
        if too_large and not _is_stale(limit, stored, now):
            reason = (
                f"too large: about {amounts['input_tokens']:,.0f} tokens, {in_words(limit)}"
                f" is {limit.amount:,.0f}"
            )
            return LimitState(math.inf, reason, used)
        # An output guess larger than the limit is only a guess: the prompt itself fits.
        need = min(need, limit.amount)
    need = min(need + reserve * limit.amount, max(need, limit.amount))
    moment = windows.opens_at(limit, counter, need, now)
    if moment > now and units:
        # What is on hold will be charged too before there is room for this one.
        moment = windows.opens_at(limit, counter, min(need + units, limit.amount), now)
    left = limit.amount - used
    if moment > now:
        reason = f"{max(0.0, left):,.0f} of {limit.amount:,.0f} {in_words(limit)} left"
        return LimitState(moment, reason, used)
    if need > left + 1e-6:
        # Only unsettled calls are in the way; they settle soon, at no moment known now.
        reason = f"{in_words(limit)} on hold for calls under way"
        return LimitState(now + _SOON_SECONDS, reason, used)
    return LimitState(moment, "", used)


def resets_at(limit: Limit, stored: Document, held: Amounts, now: float) -> float:
    """When all of a limit is back, if calls in flight spend what they hold; epoch seconds."""
    counter = deepcopy(stored.get("counter", {}))
    if units := held.get(limit.metric, 0.0):
        windows.charge(limit, counter, units, now)
    return windows.resets_at(limit, counter, now)


def route_state(
    document: Document, provider: Document, route: Route, limits: Mapping[str, Limit],
    amounts: Amounts, now: float, reserve: float = 0.0,
) -> RouteState:  # fmt: skip
    """When the route takes a request of these amounts, and what keeps it shut until then.

    `reserve` is the share of each limit that must be left after it; where the request alone leaves
    less, the limit must be unspent.
    """
    entry = document.get("models", {}).get(route.model, {})
    held = on_hold(entry, now)
    opens, reason, headroom = now, "", 1.0
    remedy = ""
    if closed := latest_closure(document, provider, route, now):
        opens, reason, remedy = _opens(closed), closed["reason"], closed.get("remedy", "")
    for name, limit in limits.items():
        stored = entry.get("limits", {}).get(name, {})
        state = limit_state(limit, stored, amounts, held, now, reserve)
        if state.opens_at == math.inf:
            return RouteState(math.inf, state.reason, 0.0)
        if state.opens_at > opens:
            opens, reason, remedy = state.opens_at, state.reason, LIMIT
        left = max(0.0, limit.amount - state.used)
        headroom = min(headroom, round(left / limit.amount, 6))
    if opens <= now:
        moment, reason = _kept_off_until(document, provider, route, limits, now)
        if moment > now:
            return RouteState(min(moment, now + _SOON_SECONDS), reason, headroom, on_trial=True)
    return RouteState(opens, reason, headroom, remedy=remedy)


def latest_closure(
    document: Document, provider: Document, route: Route, now: float
) -> Document | None:
    """The longest of the closures that keep the route shut, apart from full windows."""
    latest: Document | None = None
    for place in (
        *_places_of_provider(provider, route),
        document,
        document.get("keys", {}).get(route.key.fingerprint, {}),
        document.get("models", {}).get(route.model, {}),
    ):
        closed = closure_of(place, route.address)
        if closed is None or from_a_wrong_clock(closed["since"], now):
            continue
        if _until(closed) > max(now, _until(latest) if latest else now):
            latest = closed
    return latest


def closed_until(
    document: Document, provider: Document, route: Route, now: float
) -> tuple[float, str]:
    """Until when something but a full window keeps the route shut, and what; 0 if nothing."""
    closed = latest_closure(document, provider, route, now)
    return (_opens(closed), closed["reason"]) if closed else (0.0, "")


def closure_of(place: Document, address: str) -> Document | None:
    """What closes a part of a document for requests to an address, if anything does."""
    closed: Document | None = place.get("closed")
    return closed if closed and closed.get("address", "") == _fingerprint(address) else None


def lacks(provider: Document, route: Route, capability: str, now: float) -> bool:
    """Whether the model refused lately what needs a capability, at this address."""
    noted = provider.get("models", {}).get(route.model, {}).get("lacks", {}).get(capability)
    if noted is None or noted.get("address", "") != _fingerprint(route.address):
        return False
    return bool(0 <= now - noted["at"] < _RECHECK_SECONDS)


def note_lack(provider: Document, route: Route, capability: str, now: float) -> None:
    """Note a capability that the model lacks at the route's address."""
    entry = provider.setdefault("models", {}).setdefault(route.model, {})
    noted = {"at": now} | _named_address(route.address)
    entry.setdefault("lacks", {})[capability] = noted


def _until(closed: Document) -> float:
    return math.inf if closed["until"] is None else float(closed["until"])


def _opens(closed: Document) -> float:
    """When a request that waits would be let in: a model that is missing is not waited for."""
    return math.inf if closed.get("remedy") == MISSING else _until(closed)


def _fingerprint(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:12] if address else ""


def _named_address(address: str) -> Document:
    return {"address": _fingerprint(address)} if address else {}


def note_trial(provider: Document, route: Route, now: float) -> None:
    """Note where a call tries a provider, or a model of it, that was closed.

    In the account's own document the hold itself tells.
    """
    for place in _places_of_provider(provider, route):
        if "closed" in place:
            place["closed"]["tried"] = now


def end_trial(provider: Document, route: Route, began: float) -> None:
    """Let others try what a call that began then tried: it has ended, whatever it told."""
    for place in _places_of_provider(provider, route):
        closed = place.get("closed", {})
        if abs(closed.get("tried", math.inf) - began) < _SAME_MOMENT_SECONDS:
            del closed["tried"]


def note_level(entry: Document, limits: Mapping[str, Limit], now: float) -> None:
    """Note up to which level a rate that is only published was answered."""
    rate = _published_rate(limits)
    stored = entry.get("limits", {}).get(rate.name) if rate else None
    if rate and stored:
        level = math.floor(windows.used(rate, stored["counter"], now))
        stored["proven"] = max(level, stored.get("proven", 1))


def forget_level(entry: Document) -> None:
    """A rate was refused: nothing is proven by what was answered before."""
    for stored in entry.get("limits", {}).values():
        stored.pop("proven", None)


def close(
    place: Document, reason: str, now: float, seconds: float | None, began: float,
    remedy: str = "", address: str = "",
) -> None:  # fmt: skip
    """Shut a part of a document for `seconds`, or with None until the user acts.

    `began` is when the failed call began. Calls under way together fail together: that is one
    strike, and of their closures the longest stays. `remedy` is the name of what opens it, and
    `address` the base URL that gave the reason, "" for the provider's own.
    """
    # Never at once: a provider that says "retry after 0" is not asked in a tight loop.
    until = None if seconds is None else now + max(seconds, _SHORTEST_CLOSE_SECONDS)
    before = closure_of(place, address)
    count = strikes(place, began) + 1
    if before and began <= before["since"] <= now:
        count = int(before["strikes"])
        if before["until"] is None or (until is not None and before["until"] >= until):
            return
    closed = {"until": until, "reason": reason, "since": now, "strikes": count}
    place["closed"] = closed | ({"remedy": remedy} if remedy else {}) | _named_address(address)


def strikes(place: Document, began: float) -> int:
    """How often in a row a part was shut before a call that began then, for waits that double."""
    closed = place.get("closed")
    if not closed:
        return 0
    earlier = int(closed["strikes"]) - int(began <= closed["since"])
    return min(max(0, earlier), _MAX_DOUBLINGS)


def reopen(place: Document, began: float) -> bool:
    """Forget a closure because a call that began at `began` was answered; True if there was one.

    An answer to a call that began before the closure says nothing about it.
    """
    closed = place.get("closed")
    if closed and closed["since"] < began:
        del place["closed"]
        return True
    return False


def in_words(limit: Limit) -> str:
    """`requests per minute`."""
    return limit.name.replace("_", " ")


def on_hold(entry: Document, now: float) -> Amounts:
    """Units per metric that calls under way may spend."""
    total: Amounts = {}
    # As `is_expired` has it; a job of many threads has many holds.
    latest = now + _CLOCK_TOLERANCE_SECONDS
    for hold in entry.get("holds", {}).values():
        if hold["expires"] > now and hold["at"] <= latest:
            for metric, amount in hold["amounts"].items():
                total[metric] = total.get(metric, 0.0) + amount
    return total


def is_expired(hold: Document, now: float) -> bool:
    """Whether the kernel that made a hold must have died."""
    return hold["expires"] <= now or from_a_wrong_clock(hold["at"], now)


def from_a_wrong_clock(moment: float, now: float) -> bool:
    """Whether a past moment lies so far ahead that the clock must have been wrong then."""
    return moment > now + _CLOCK_TOLERANCE_SECONDS


def _is_stale(limit: Limit, stored: Document, now: float) -> bool:
    """Whether a reply said so too long ago to turn requests away for ever."""
    since = stored.get("evidence_at", now)
    return limit.evidence in ("header", "error") and now - since > _RECHECK_SECONDS


def _places_of_provider(provider: Document, route: Route) -> tuple[Document, Document]:
    return provider, provider.get("models", {}).get(route.model, {})


def _kept_off_until(
    document: Document, provider: Document, route: Route, limits: Mapping[str, Limit], now: float
) -> tuple[float, str]:
    """Until when the outcome of another call must be awaited at most, and why; 0 if it need not."""
    tried = [
        place["closed"]["tried"]
        for place in _places_of_provider(provider, route)
        if "tried" in place.get("closed", {})
    ]
    models = document.get("models", {})
    entry = models.get(route.model, {})
    key = document.get("keys", {}).get(route.key.fingerprint, {})
    holds = list(entry.get("holds", {}).values())
    every = [hold for other in models.values() for hold in other.get("holds", {}).values()]
    for place, calls, was_answered in (
        (document, every, True),
        (key, [h for h in every if h.get("key") == route.key.fingerprint], key.get("answered")),
        (entry, holds, entry.get("answered")),
    ):
        if "closed" in place or not was_answered:
            since = place.get("closed", {}).get("since", -math.inf)
            tried.extend(hold["at"] for hold in calls if hold["at"] > since)
    if latest := _latest(tried, now, _TRIAL_SECONDS):
        return latest, "another call is trying it"
    if holds and _is_beyond_what_was_answered(entry, limits, now):
        latest = _latest([hold["at"] for hold in holds], now, _REFUSAL_SECONDS)
        return latest, "its rate is not known yet; calls start one after the other"
    return 0.0, ""


def _latest(moments: Iterable[float], now: float, seconds: float) -> float:
    """Until when the latest of these calls, begun within `seconds`, is awaited; 0 for none."""
    # One that began ahead of now comes from another clock.
    return max((m + seconds for m in moments if abs(now - m) < seconds), default=0.0)


def _is_beyond_what_was_answered(entry: Document, limits: Mapping[str, Limit], now: float) -> bool:
    """Whether one more call takes a rate higher than it ever was, and nobody told how high it may.

    A table can be out of date, and then many calls at once would be refused together.
    """
    told = [limit for limit in limits.values() if limit.evidence != "published"]
    if len(told) == len(limits) or any(map(_is_rate, told)):
        return False
    rate = _published_rate(limits)
    if rate is None:
        return True
    stored = entry.get("limits", {}).get(rate.name, {})
    proven = float(stored.get("proven", 1))
    if rate.window == "bucket":
        # If the rate is lower than published, the bucket refills more slowly, too.
        slow = replace(rate, amount=proven)
        level = windows.most_used(slow, stored.get("recent", {}), now)
    else:
        level = windows.used(rate, stored.get("counter", {}), now)
    return level + on_hold(entry, now).get("requests", 0.0) + 1 > proven


def _published_rate(limits: Mapping[str, Limit]) -> Limit | None:
    rates = (limit for limit in limits.values() if _is_rate(limit))
    return next((limit for limit in rates if limit.evidence == "published"), None)


def _is_rate(limit: Limit) -> bool:
    return limit.metric == "requests" and limit.period in ("second", "minute")
