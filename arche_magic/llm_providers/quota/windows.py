"""Window arithmetic: what a limit has used now, when it has room, when it is full again.

These are functions on a `Counter`. It has the level at one moment for `bucket` and `calendar`
windows. For `rolling` windows it has the amounts per sixtieth of the period, so that it stays small
however many calls there are.

Times are epoch seconds. If clocks or rounding leave a choice, the later time is used: a call that
is slightly late costs nothing, but one that is too early is refused.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from ..types import MOST_UNITS, PERIOD_SECONDS, Limit, Period
from .state import Counter, LimitState

_SLOTS = 60
_RECENT_SLOTS = 24
_TOLERANCE = 1e-6
# `codec.write` adds a millionth to each slot at most; this much covers all of them.
_SLOTS_ROUNDING = 1e-3
# Calls in progress can fill a bucket beyond its amount, but not to a thousand times. Such a level
# comes from an absurd count, and must not close a route for years: the bucket counts as full.
_ABSURD_LEVEL = 1000.0
# Epoch seconds as a float are exact to 0.24 µs only, so a computed moment is moved this much later.
_ROUNDING_SECONDS = 1e-6


def used(limit: Limit, counter: Counter, now: float) -> float:
    """Units (requests or tokens) that count against the limit now."""
    if limit.window == "rolling":
        return float(sum(_live_slots(limit, counter, now).values()))
    at = counter.at
    # As in `_anchor`, without a function call.
    if at is None or at > now + PERIOD_SECONDS[limit.period]:
        return 0.0
    level = counter.used
    if limit.window == "bucket":
        if level > _ABSURD_LEVEL * limit.amount > 0:
            level = limit.amount
        return max(0.0, level - max(0.0, now - at) * limit.amount / PERIOD_SECONDS[limit.period])
    return 0.0 if now >= period_end(limit.period, limit.time_zone, at) else level


def charge(limit: Limit, counter: Counter, amount: float, now: float) -> None:
    """Charge `amount` units at `now`."""
    if limit.window == "rolling":
        _spread(limit, counter, amount, now, now)
        return
    level = used(limit, counter, now) + amount
    # After a clock was set back, a window must neither begin again nor refill twice.
    _set_level(counter, level, _anchor(limit, counter, now))


def set_used(
    limit: Limit, counter: Counter, target: float, now: float, since: float | None = None
) -> None:
    """Set the counter to `target` units at `now`, because the provider knows better.

    In a rolling window, what others spent is spread evenly from `since` to `now`. Without `since`
    it counts at `now`.
    """
    if limit.window != "rolling":
        _set_level(counter, max(0.0, target), now)
        return
    excess = used(limit, counter, now) - max(0.0, target)
    if excess < 0:
        first = now if since is None else max(since, now - PERIOD_SECONDS[limit.period])
        _spread(limit, counter, -excess, first, now)
        return
    slots = _live_slots(limit, counter, now)
    for index in sorted(slots):
        taken = min(excess, slots[index])
        slots[index] -= taken
        excess -= taken
    _set_slots(counter, slots)


def open_by(limit: Limit, counter: Counter, amount: float, moment: float, now: float) -> None:
    """Make room for `amount` units at `moment`, when the provider will accept them.

    A calendar window is not changed, because it opens when its period ends.
    """
    room = max(0.0, limit.amount - amount)
    if limit.window == "bucket":
        refill = max(0.0, moment - now) * limit.amount / PERIOD_SECONDS[limit.period]
        if used(limit, counter, now) > room + refill:
            set_used(limit, counter, room + refill, now)
    elif limit.window == "rolling":
        room = max(0.0, room - _SLOTS_ROUNDING)
        slots = _live_slots(limit, counter, now)
        left = sum(value for index, value in slots.items() if _slot_expiry(limit, index) > moment)
        # The last slot that no longer counts at that time.
        gone = math.floor((moment - PERIOD_SECONDS[limit.period]) / _slot_seconds(limit)) - 1
        for index in sorted(slots):
            if left <= room:
                break
            if index > gone:
                moved = min(left - room, slots[index])
                slots[index] -= moved
                slots[gone] = slots.get(gone, 0.0) + moved
                left -= moved
        _set_slots(counter, slots)


def converted(before: Limit, limit: Limit, state: LimitState, now: float) -> Counter:
    """Convert the counter of a limit from the window rule of `before` to that of `limit`."""
    level = used(before, state.counter, now)
    new = Counter()
    if limit.window == "rolling" and before.window == "bucket":
        # Amounts that a bucket has refilled still count in a rolling window.
        for index, units in sorted(_still_recent(before, state.recent, now).items()):
            moment = min((index + 1) * _recent_slot_seconds(before), now)
            if moment > now - PERIOD_SECONDS[limit.period]:
                charge(limit, new, units, moment)
        level = min(max(level, used(limit, new, now)), max(level, limit.amount))
    set_used(limit, new, level, now)
    return new


def opens_at(limit: Limit, counter: Counter, amount: float, now: float) -> float:
    """When `amount` more units fit; `inf` if they never can."""
    if amount > limit.amount + _TOLERANCE:
        return math.inf
    room = max(0.0, limit.amount - amount) + _TOLERANCE
    level = used(limit, counter, now)
    if level <= room:
        return now
    if limit.amount <= 0:
        return math.inf
    if limit.window == "bucket":
        refill = (level - room) * PERIOD_SECONDS[limit.period] / limit.amount
        return _anchor(limit, counter, now) + refill + _ROUNDING_SECONDS
    if limit.window == "calendar":
        return period_end(limit.period, limit.time_zone, _anchor(limit, counter, now))
    opens = now
    for index, value in sorted(_live_slots(limit, counter, now).items()):
        level -= value
        opens = _slot_expiry(limit, index)
        if level <= room:
            break
    return opens


def resets_at(limit: Limit, counter: Counter, now: float, held: float = 0.0) -> float:
    """When the limit is back to its full amount, if calls in progress use what they hold."""
    if held:
        counter = replace(counter)
        charge(limit, counter, held, now)
    if limit.window == "bucket":
        level = used(limit, counter, now)
        if not level or limit.amount <= 0:
            return now
        refill = level / limit.amount * PERIOD_SECONDS[limit.period]
        return _anchor(limit, counter, now) + refill
    if limit.window == "calendar":
        return period_end(limit.period, limit.time_zone, _anchor(limit, counter, now))
    slots = _live_slots(limit, counter, now)
    return _slot_expiry(limit, max(slots)) if slots else now


def remember(limit: Limit, state: LimitState, amount: float, now: float) -> None:
    """Note when a bucket was charged, for `most_used`. Its level alone does not show that.

    Two periods are kept, in slots.
    """
    if limit.window == "bucket":
        slot = int(now // _recent_slot_seconds(limit))
        recent = _still_recent(limit, state.recent, now)
        recent[slot] = min(recent.get(slot, 0.0) + amount, MOST_UNITS)
        state.recent = recent


def _still_recent(limit: Limit, recent: dict[int, float], now: float) -> dict[int, float]:
    """The charges that were noted in the last two periods."""
    oldest = int(now // _recent_slot_seconds(limit)) - _RECENT_SLOTS
    return {slot: units for slot, units in recent.items() if slot > oldest}


def most_used(limit: Limit, recent: dict[int, float], now: float) -> float:
    """The highest level a bucket can have after these charges, each at the end of its slot.

    Two periods ago it was at most full, because the provider refuses more.
    """
    if limit.amount <= 0 or not recent:
        return 0.0
    slot, rate = _recent_slot_seconds(limit), limit.amount / PERIOD_SECONDS[limit.period]
    oldest = int(now // slot) - _RECENT_SLOTS + 1
    level, at = limit.amount, oldest * slot
    for index in sorted(index for index in recent if index >= oldest):
        moment = min((index + 1) * slot, now)
        level = max(0.0, level - (moment - at) * rate) + recent[index]
        at = moment
    return max(0.0, level - (now - at) * rate)


def period_end(period: Period, time_zone: str, at: float) -> float:
    """The first moment after the calendar period that holds `at`.

    Days and months follow the zone's calendar, days of 23 and 25 hours included.
    """
    if period in ("day", "month"):
        moment = datetime.fromtimestamp(at, ZoneInfo(time_zone))
        first = moment.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        if period == "day":
            turn = first + timedelta(days=1)
        else:
            turn = (first.replace(day=1) + timedelta(days=32)).replace(day=1)
        return turn.timestamp()
    seconds = PERIOD_SECONDS[period]
    return (math.floor(at / seconds) + 1) * seconds


def _anchor(limit: Limit, counter: Counter, now: float) -> float:
    """The moment of the counter, or `now` if it is earlier or cannot be right.

    If a clock was set back by less than a period, requests only wait. A moment further in the
    future comes from a wrong clock. Waiting for it could take years, so the count starts over.
    """
    at = counter.at
    return now if at is None or at > now + PERIOD_SECONDS[limit.period] else max(now, at)


def _recent_slot_seconds(limit: Limit) -> float:
    return 2 * PERIOD_SECONDS[limit.period] / _RECENT_SLOTS


def _slot_seconds(limit: Limit) -> float:
    return PERIOD_SECONDS[limit.period] / _SLOTS


def _spread(limit: Limit, counter: Counter, units: float, first: float, now: float) -> None:
    """Charge `units` of a rolling window, spread evenly from `first` to `now`."""
    slots, slot = _live_slots(limit, counter, now), _slot_seconds(limit)
    steps = max(1, math.ceil((now - first) / slot))
    for step in range(steps):
        index = int(min(first + step * slot, now) // slot)
        slots[index] = slots.get(index, 0.0) + units / steps
    _set_slots(counter, slots)


def _set_level(counter: Counter, used: float, at: float) -> None:
    counter.used, counter.at, counter.slots = min(used, MOST_UNITS), at, {}


def _set_slots(counter: Counter, slots: dict[int, float]) -> None:
    counter.used, counter.at = 0.0, None
    counter.slots = {i: min(units, MOST_UNITS) for i, units in slots.items() if units > 0}


def _slot_expiry(limit: Limit, index: int) -> float:
    return (index + 1) * _slot_seconds(limit) + PERIOD_SECONDS[limit.period]


def _live_slots(limit: Limit, counter: Counter, now: float) -> dict[int, float]:
    """The slots that count now, as a new dict."""
    period, slot = PERIOD_SECONDS[limit.period], _slot_seconds(limit)
    # As in `_anchor`, a time more than a period ahead comes from a wrong clock.
    latest = (now + period) // slot
    return {
        index: units
        for index, units in counter.slots.items()
        # As in `_slot_expiry`, without a function call.
        if (index + 1) * slot + period > now and index <= latest
    }
