"""The ledger's rules: pure functions on one account's document, without clock, file or network.

An account's document (`document_name` is its name in the storage):

    provider      "groq"
    keys          fingerprint -> {label, closed?}
    closed        the whole account is shut: {until, reason, since, strikes}
    models        model -> {limits, closed?, holds, calibration, charged, last_charged}
      charged     metric -> all that was ever charged here; never falls
      limits      limit name -> {amount, window, time_zone, evidence, evidence_at, counter, recent}
        recent    of a bucket: slot -> units charged, see `windows.remember`
      holds       hold id -> {at, expires, amounts: {metric: units}}
      calibration {input_ratio, output_tokens}: how estimates compare with the provider's counts

`until` is epoch seconds, or null for "until the user acts". Amounts on hold do not flow back into
a window before they are settled, so the ledger is never ahead of the provider's own count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..types import Limit, Observation, Request, Route, Usage
from . import windows

Document = dict[str, Any]
Amounts = dict[str, float]

_OUTPUT_GUESS = 300.0
_SPENT_TO_GUESSED = 3.0
_PER_MESSAGE, _PER_REQUEST = 4, 3
_MAX_DOUBLINGS = 10
_SHORTEST_CLOSE_SECONDS = 0.1
_CLOCK_TOLERANCE_SECONDS = 3600.0


@dataclass(frozen=True)
class RouteState:
    """A route's one number, and why.

    Attributes:
        opens_at: epoch seconds; `now` or earlier means open, inf means not by waiting.
        reason: why it is shut, or "".
        headroom: share of the tightest limit that is left, 0 to 1.
    """

    opens_at: float
    reason: str = ""
    headroom: float = 1.0


def document_name(route: Route) -> str:
    """The storage's name for the document of a route's account."""
    return f"{route.provider}:{route.key.account}"


def estimate(document: Document, model: str, request: Request) -> Amounts:
    """Units a request will probably spend, per metric.

    The model's own ratio corrects the guess by length.
    """
    calibration = document.get("models", {}).get(model, {}).get("calibration", {})
    tokens = plain_tokens(request) * calibration.get("input_ratio", 1.0)
    output = request.max_tokens or calibration.get("output_tokens", _OUTPUT_GUESS)
    return as_amounts(math.ceil(tokens), math.ceil(output))


def plain_tokens(request: Request) -> float:
    """Input tokens of a request by the length of its messages and of its schema alone."""
    # Providers put the schema into the prompt, or count it as if they did.
    schema = request.schema.tokens if request.schema else 0
    turns = sum(_PER_MESSAGE + message.tokens for message in request.messages)
    return _PER_REQUEST + schema + turns


def as_amounts(input_tokens: float, output_tokens: float, requests: float = 1.0) -> Amounts:
    """Units per metric."""
    return {
        "requests": requests,
        "tokens": float(input_tokens + output_tokens),
        "input_tokens": float(input_tokens),
        "output_tokens": float(output_tokens),
    }


def limits_of(document: Document, model: str, defaults: Iterable[Limit]) -> dict[str, Limit]:
    """The limits in force for a model: what was learned, over what is configured or published."""
    limits = {limit.name: limit for limit in defaults}
    for name, entry in document.get("models", {}).get(model, {}).get("limits", {}).items():
        learned = limit_of(name, entry)
        # A stored copy of a published or configured limit is no evidence: the file may be newer.
        if learned.evidence in ("header", "error"):
            limits[name] = learned
    return limits


def route_state(
    document: Document, provider: Document, route: Route, defaults: Iterable[Limit],
    amounts: Amounts, now: float,
) -> RouteState:  # fmt: skip
    """When the route takes a request of these amounts, and what keeps it shut until then."""
    entry = document.get("models", {}).get(route.model, {})
    held = _held(entry, now)
    opens, reason, headroom = now, "", 1.0
    until, why = closed_until(document, provider, route, now)
    if until > now:
        opens, reason = until, why
    for name, limit in limits_of(document, route.model, defaults).items():
        if limit.amount <= 0:
            return RouteState(math.inf, f"the plan has no {in_words(limit)}", 0.0)
        need = amounts[limit.metric]
        counter = entry.get("limits", {}).get(name, {}).get("counter", {})
        if limit.metric != "requests":
            if limit.metric != "output_tokens" and amounts["input_tokens"] > limit.amount:
                return RouteState(
                    math.inf,
                    f"too large: about {amounts['input_tokens']:,.0f} tokens, {in_words(limit)}"
                    f" is {limit.amount:,.0f}",
                    0.0,
                )
            # An output guess larger than the limit is only a guess: the prompt itself fits.
            need = min(need, limit.amount)
        on_hold = held.get(limit.metric, 0.0)
        moment = windows.opens_at(limit, counter, need, now)
        if moment > now and on_hold:
            # What is on hold will be charged too before there is room for this one.
            moment = windows.opens_at(limit, counter, min(need + on_hold, limit.amount), now)
        left = limit.amount - windows.used(limit, counter, now) - on_hold
        if moment > opens:
            opens = moment
            reason = f"{max(0.0, left):,.0f} of {limit.amount:,.0f} {in_words(limit)} left"
        elif need > left + 1e-6 and opens <= now:
            # Only unsettled calls are in the way; they settle soon, at no moment known now.
            opens, reason = now + 0.05, f"{in_words(limit)} on hold for calls under way"
        headroom = min(headroom, max(0.0, left) / limit.amount)
    return RouteState(opens, reason, headroom)


def closed_until(
    document: Document, provider: Document, route: Route, now: float
) -> tuple[float, str]:
    """Until when something but a full window keeps the route shut, and what; 0 if nothing."""
    latest, reason = 0.0, ""
    for place in (
        provider,
        provider.get("models", {}).get(route.model, {}),
        document,
        document.get("keys", {}).get(route.key.fingerprint, {}),
        document.get("models", {}).get(route.model, {}),
    ):
        closed = place.get("closed")
        if closed and not _from_a_wrong_clock(closed["since"], now):
            until = math.inf if closed["until"] is None else float(closed["until"])
            if until > latest:
                latest, reason = until, str(closed["reason"])
    return latest, reason


def place_hold(
    document: Document, route: Route, defaults: Iterable[Limit], hold_id: str,
    amounts: Amounts, now: float, expires: float,
) -> None:  # fmt: skip
    """Reserve the amounts on every limit of the route's model."""
    document["provider"] = route.provider
    document.setdefault("keys", {}).setdefault(route.key.fingerprint, {})["label"] = route.key.label
    entry = document.setdefault("models", {}).setdefault(route.model, {})
    stored = entry.setdefault("limits", {})
    for name, limit in limits_of(document, route.model, defaults).items():
        known = stored.get(name)
        if known is None or limit_of(name, known) != limit:
            stored[name] = stored_limit(limit, now, known)
    entry.setdefault("holds", {})[hold_id] = {"at": now, "expires": expires, "amounts": amounts}


def expire_holds(document: Document, now: float) -> None:
    """Charge the holds of calls that never ended: their kernel died, and they may have counted."""
    for entry in document.get("models", {}).values():
        holds = entry.get("holds", {})
        for old in [key for key, hold in holds.items() if _expired(hold, now)]:
            _charge(entry, holds.pop(old)["amounts"], now)
            entry["last_charged"] = now


def has_expired_holds(document: Document, now: float) -> bool:
    """Whether `expire_holds` has something to charge."""
    return any(
        _expired(hold, now)
        for entry in document.get("models", {}).values()
        for hold in entry.get("holds", {}).values()
    )


def settle(
    document: Document, model: str, hold_id: str, spent: Amounts, now: float, began: float
) -> bool:
    """Replace a hold by what was really spent; True if no other call was under way since `began`.

    A hold that is not there any more has expired and was charged then, or was forgotten on
    purpose together with everything else.
    """
    entry = document.setdefault("models", {}).setdefault(model, {})
    holds = entry.get("holds", {})
    hold = holds.pop(hold_id, None)
    if hold is not None:
        _charge(entry, spent, now)
    alone = hold is not None and not holds and entry.get("last_charged", -math.inf) < began
    entry["last_charged"] = now
    return alone


def release(document: Document, model: str, hold_id: str) -> Document | None:
    """Take a hold back, nothing charged; None if it is not there."""
    holds = document.get("models", {}).get(model, {}).get("holds", {})
    hold: Document | None = holds.pop(hold_id, None)
    return hold


def calibrate(document: Document, model: str, plain: float, usage: Usage) -> None:
    """Let a settled call correct the model's estimates, each counting for a fifth."""
    if not usage.input_tokens or plain <= 0:
        return
    entry = document.setdefault("models", {}).setdefault(model, {})
    calibration = entry.setdefault("calibration", {})
    ratio = min(4.0, max(0.25, usage.input_tokens / plain))
    old_ratio = calibration.get("input_ratio", 1.0)
    old_output = calibration.get("output_tokens", _OUTPUT_GUESS)
    calibration["input_ratio"] = round(0.8 * old_ratio + 0.2 * ratio, 4)
    calibration["output_tokens"] = round(0.8 * old_output + 0.2 * usage.output_tokens, 1)


def learn(
    document: Document, model: str, defaults: Iterable[Limit], window_of: Any,
    observations: Iterable[Observation], now: float, alone: bool,
) -> None:  # fmt: skip
    """Let a response correct limits and what is used of them.

    `alone` says that no other call of the model was under way at any time during this one: only
    then may a figure lower our own count, since other calls may not be in it. Tokens are never
    lowered: a stream's headers come before its output is counted. `window_of(name)` gives the
    provider's window rule for a limit that was not known.
    """
    entry = document.setdefault("models", {}).setdefault(model, {})
    stored = entry.setdefault("limits", {})
    known = limits_of(document, model, defaults)
    held = _held(entry, now)
    for seen in observations:
        limit = known.get(seen.name)
        if limit is None and seen.amount is None:
            continue
        amount = seen.amount if seen.amount is not None else limit.amount if limit else 0.0
        # A limit of 0 would never open again; what is not in the plan is closed by its remedy.
        if not math.isfinite(amount) or amount <= 0:
            continue
        shape = limit or window_of(seen.name)
        limit = Limit(
            shape.metric, shape.period, amount, shape.window, shape.time_zone, seen.evidence
        )
        stored[seen.name] = stored_limit(limit, now, stored.get(seen.name))
        if seen.remaining is None or not 0 <= seen.remaining <= amount:
            continue
        counter = stored[seen.name]["counter"]
        ours = windows.used(limit, counter, now)
        theirs = amount - seen.remaining
        on_hold = held.get(limit.metric, 0.0)
        if limit.metric != "requests":
            # Calls under way may have spent more than was guessed, and are charged when they end:
            # what they can explain was not spent by somebody else.
            on_hold *= _SPENT_TO_GUESSED
        if theirs > ours + on_hold:
            windows.set_used(limit, counter, theirs - on_hold, now)
            windows.remember(limit, stored[seen.name], theirs - on_hold - ours, now)
        elif theirs < ours and alone and limit.metric == "requests":
            windows.set_used(limit, counter, theirs, now)


def close(place: Document, reason: str, now: float, seconds: float | None, began: float) -> None:
    """Shut a part of a document for `seconds`, or with None until the user acts.

    `began` is when the failed call began. Calls under way together fail together: that is one
    strike, and of their closures the longest stays.
    """
    # Never at once: a provider that says "retry after 0" is not asked in a tight loop.
    until = None if seconds is None else now + max(seconds, _SHORTEST_CLOSE_SECONDS)
    before = place.get("closed")
    count = strikes(place, began) + 1
    if before and began <= before["since"] <= now:
        count = int(before["strikes"])
        if before["until"] is None or (until is not None and before["until"] >= until):
            return
    place["closed"] = {"until": until, "reason": reason, "since": now, "strikes": count}


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


def forget(document: Document) -> None:
    """Forget all that was spent and shut; the totals stay, as other copies are compared by them."""
    models = document.get("models", {}).items()
    totals = {model: {"charged": entry["charged"]} for model, entry in models if "charged" in entry}
    absorbed = document.get("absorbed")
    document.clear()
    if totals:
        document["models"] = totals
    if absorbed:
        document["absorbed"] = absorbed


def _charge(entry: Document, amounts: Amounts, now: float) -> None:
    charged = entry.setdefault("charged", {})
    for metric, amount in amounts.items():
        charged[metric] = charged.get(metric, 0.0) + amount
    for name, stored in entry.get("limits", {}).items():
        limit = limit_of(name, stored)
        if amounts.get(limit.metric):
            windows.charge(limit, stored["counter"], amounts[limit.metric], now)
            windows.remember(limit, stored, amounts[limit.metric], now)


def _held(entry: Document, now: float) -> Amounts:
    total: Amounts = {}
    for hold in entry.get("holds", {}).values():
        if _expired(hold, now):
            continue
        for metric, amount in hold["amounts"].items():
            total[metric] = total.get(metric, 0.0) + amount
    return total


def _expired(hold: Document, now: float) -> bool:
    return hold["expires"] <= now or _from_a_wrong_clock(hold["at"], now)


def _from_a_wrong_clock(moment: float, now: float) -> bool:
    """Whether a past moment lies so far ahead that the clock must have been wrong then."""
    return moment > now + _CLOCK_TOLERANCE_SECONDS


def limit_of(name: str, entry: Document) -> Limit:
    """A limit from its entry in a document."""
    metric, _, period = name.partition("_per_")
    return Limit(
        metric,  # type: ignore[arg-type]  # written by us, from a Limit
        period,  # type: ignore[arg-type]  # as above
        float(entry["amount"]),
        entry["window"],
        entry["time_zone"],
        entry["evidence"],
    )


def stored_limit(limit: Limit, now: float, known: Document | None = None) -> Document:
    """A limit as the document keeps it, with the counter it had before, if any."""
    counter: windows.Counter = (known or {}).get("counter", {})
    if known:
        before = limit_of(limit.name, known)
        if (before.window, before.time_zone) != (limit.window, limit.time_zone):
            level = windows.used(before, counter, now)
            counter = {}
            windows.set_used(limit, counter, level, now)
        elif limit.window == "bucket" and before.amount != limit.amount:
            # The rate of refill changes with the amount; fix today's level first.
            windows.set_used(limit, counter, windows.used(before, counter, now), now)
    return {
        "amount": limit.amount,
        "window": limit.window,
        "time_zone": limit.time_zone,
        "evidence": limit.evidence,
        "evidence_at": now,
        "counter": counter,
        "recent": (known or {}).get("recent", {}),
    }
