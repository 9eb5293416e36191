"""Learns the limits of a route from responses.

These are functions on typed state, without clock, file or network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from ..types import MOST_UNITS, PERIOD_SECONDS, Limit, Observation, WindowRule
from . import counting, windows
from .opening import on_hold
from .state import LEARNED, Amounts, LimitState, RouteRecord, limit_named

_SPENT_TO_GUESSED = 3.0
# For this long, a header does not replace what an error said about a limit. Headers may be about
# another limit (on Groq tokens per minute, when a request was refused for its input tokens).
_ERROR_HOLDS_SECONDS = 86_400.0
# How far the stated end of a day, and of a minute, may be off: servers round, and replies travel.
_ROUNDED_RESET_SECONDS, _ROUNDED_MINUTE_SECONDS = 5.0, 2.5
# A rolling window resets after about a period, and so does a bucket that is nearly spent. Only an
# earlier reset shows that a limit is a bucket.
_TELLING_SHARE = 0.8
_SHORT_PERIODS = ("second", "minute")


def learn(
    record: RouteRecord, observations: Iterable[Observation], now: float, alone: bool,
    refused: Amounts | None = None,
) -> RouteRecord:  # fmt: skip
    """Correct limits, their windows, and their used amounts according to a response.

    Returns the record with the corrected limits.

    Args:
        record: the record of the route that was asked; its states are changed.
        observations: what the response says.
        now: epoch seconds.
        alone: True if no other call of the model was in progress at any time during this one. Only
            then may a figure lower our own count, because it may not include other calls. Tokens
            are never lowered, because a stream's headers come before its output is counted.
        refused: units of the request, if it was refused. If the provider states a wait, the request
            fits after that wait.
    """
    model, known = record.model, dict(record.limits)
    held = on_hold(model, now)
    for seen in observations:
        limit, before = known.get(seen.name), model.limits.get(seen.name)
        if seen.amount is None:
            amount, evidence = (limit.amount, limit.evidence) if limit else (0.0, seen.evidence)
        else:
            amount, evidence = seen.amount, seen.evidence
        # A limit below one would never open again. Models outside the plan are closed elsewhere.
        if not 1 <= amount <= MOST_UNITS or _is_overruled(seen, before, now):
            continue
        remaining = seen.remaining
        own = limit if counting.is_users_smaller(limit, amount) else None
        usually = limit_named(seen.name, 0.0, *record.usual_window, "published")
        rule = limit or usually
        if own:
            # The user's smaller limit stays, but less may be left of the real limit.
            amount, evidence = own.amount, own.evidence
            remaining = None if remaining is None else min(remaining, amount)
        elif seen.amount is not None:
            infer = rule_by_reset if seen.opens_in is None else _rule_by_wait
            rule = infer(rule, usually, amount, seen, now)
        limit = limit_named(seen.name, amount, rule.window, rule.time_zone, evidence)
        since = before.evidence_at if before and seen.amount is None else now
        known[seen.name] = limit
        if before and before.counts(limit):
            before.evidence_at = since
            state = before
        else:
            state = model.limits[seen.name] = counting.limit_state(limit, now, before, since)
        if seen.amount is not None:
            was_stated = before and before.evidence in LEARNED and not before.inferred
            state.inferred = seen.inferred and not was_stated
        counter = state.counter
        opens = None if own or seen.opens_in is None else now + seen.opens_in
        if remaining is not None and 0 <= remaining <= amount:
            ours = windows.used(limit, counter, now)
            theirs = amount - remaining
            units = held.get(limit.metric, 0.0)
            if limit.metric != "requests":
                # Calls in progress may have used more than was estimated, and are charged when they
                # end. Only the rest was used by another program.
                units *= _SPENT_TO_GUESSED
            if theirs > ours + units:
                first = None if opens is None else opens - PERIOD_SECONDS[limit.period]
                windows.set_used(limit, counter, theirs - units, now, first)
                windows.remember(limit, state, theirs - units - ours, now)
            elif theirs < ours and alone and limit.metric == "requests" and not own:
                windows.set_used(limit, counter, theirs, now)
        if refused and opens is not None:
            windows.open_by(limit, counter, min(refused[limit.metric], amount), opens, now)
    return _with_limits(record, now)


def doubt(record: RouteRecord, now: float, began: float) -> RouteRecord:
    """Drop limits whose period was only inferred, because a call that began then was answered.

    A reply that implies the same period confirms it. Returns the record with the new limits.
    """
    limits = record.model.limits
    doubtful = [
        name for name, state in limits.items() if state.inferred and state.evidence_at < began
    ]
    given = {limit.name for limit in record.defaults}
    for name in doubtful:
        if name in given:
            # The count stays; the size comes from the table or the user again.
            limits[name].evidence, limits[name].inferred = "published", False
        else:
            del limits[name]
    return _with_limits(record, now) if doubtful else record


def _with_limits(record: RouteRecord, now: float) -> RouteRecord:
    """The record after its model has changed, with a count of each limit."""
    limits = counting.limits_of(record.model, record.defaults)
    if limits == record.limits:
        return record
    record.model.limits.update(counting.new_counts(record.model, limits, now))
    return record._replace(limits=limits)


def _is_overruled(seen: Observation, before: LimitState | None, now: float) -> bool:
    """Whether a recent error said something else about the limit, which is better evidence."""
    return (
        before is not None
        and before.evidence == "error"
        and seen.evidence == "header"
        and seen.amount not in (None, before.amount)
        and 0 <= now - before.evidence_at < _ERROR_HOLDS_SECONDS
    )


def rule_by_reset(
    limit: Limit, usual: Limit, amount: float, seen: Observation, now: float
) -> Limit:
    """Infer the window of a limit from its reset time; returns the limit with that window.

    A bucket is full again after used / amount x period, and a calendar day at its end. Any other
    time means a rolling window, or one that begins with its first request. For both, a rolling
    window never allows too much, and is not slower in the long run. Figures are rounded to whole
    units and seconds. A reply that does not reveal the window leaves the rule unchanged.

    `usual` has the provider's usual window for such a limit, and `amount` is the size that the
    reply states.
    """
    if seen.remaining is None or seen.resets_in is None or not 0 <= seen.remaining < amount:
        return limit
    seconds = PERIOD_SECONDS[limit.period]
    refill = (amount - seen.remaining) / amount * seconds
    if abs(seen.resets_in - refill) <= seconds / amount + 1:
        # If buckets are usual but this limit is not one, its window is fixed, as an earlier reply
        # showed. Such a window looks like a bucket for a moment in each period.
        refuted = limit.window != usual.window == "bucket" and limit.period in _SHORT_PERIODS
        is_telling = seen.resets_in <= _TELLING_SHARE * seconds and not refuted
        return _with_window(limit, "bucket") if is_telling else limit
    # For a limit per minute, a match by chance would be too likely.
    if limit.period not in _SHORT_PERIODS and (
        turning := _turning_in(seen.resets_in, limit, usual, now, _ROUNDED_RESET_SECONDS)
    ):
        return turning
    return _with_window(limit, "rolling")


def _rule_by_wait(
    limit: Limit, usual: Limit, amount: float, seen: Observation, now: float
) -> Limit:
    """Like `rule_by_reset`, from how long a refused request must wait.

    In a bucket it waits excess / amount x period, and in a calendar window until the period ends.
    For a short period, a rolling window is good enough.
    """
    wait = seen.opens_in
    if wait is None or wait <= 0:
        return limit
    seconds, short = PERIOD_SECONDS[limit.period], limit.period in _SHORT_PERIODS
    refill = math.inf if seen.excess is None else max(0.0, seen.excess) / amount * seconds
    # The used amount is rounded up to whole units, so the wait may be shorter by one unit.
    fits_bucket = refill - seconds / amount - 1 <= wait <= 1.02 * refill + 1
    if fits_bucket and (limit.window == "bucket" or not short):
        return _with_window(limit, "bucket")
    tolerance = _ROUNDED_MINUTE_SECONDS if short else _ROUNDED_RESET_SECONDS
    if (limit.window == "calendar" or not short) and (
        turning := _turning_in(wait, limit, usual, now, tolerance)
    ):
        return turning
    if seen.excess is None and limit.window == "bucket":
        return limit
    return _with_window(limit, "rolling")


def _with_window(limit: Limit, window: WindowRule) -> Limit:
    return limit if limit.window == window else replace(limit, window=window)


def _turning_in(
    seconds: float, limit: Limit, usual: Limit, now: float, tolerance: float
) -> Limit | None:
    """The limit with a calendar window that ends in `seconds`, or None if there is none."""
    for name in (limit.time_zone, usual.time_zone, "UTC"):
        if abs(seconds - (windows.period_end(limit.period, name, now) - now)) <= tolerance:
            return replace(limit, window="calendar", time_zone=name)
    return None
