"""When used quota becomes available again: four window rules, each a small class.

Groq and OpenAI refill continuously (measured in recorded responses), Gemini counts per clock
minute and per Pacific calendar day (its documentation and recorded 429 responses), Mistral
documents no rule and is given a rolling window. No provider here counts in fixed windows from the
first request on, but common rate limiters in front of compatible services do.

Every rule has the same methods. Times are epoch seconds, waits are seconds, amounts are requests or
tokens. These rules share no code with the engine, so that they cannot contain the same mistake.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0, "month": 2_592_000.0}
PACIFIC = ZoneInfo("America/Los_Angeles")


class Bucket:
    """A limit that refills continuously, the whole of it once per window."""

    def __init__(self, limit: int, period: str) -> None:
        self.limit = limit
        self._rate = limit / SECONDS[period]
        self._used = 0.0
        self._at = 0.0

    def used(self, now: float) -> float:
        """The amount that counts at `now`."""
        return max(0.0, self._used - max(0.0, now - self._at) * self._rate)

    def add(self, now: float, amount: float) -> None:
        """Count more from `now` on."""
        self._used, self._at = self.used(now) + amount, max(now, self._at)

    def wait(self, now: float, amount: int) -> float:
        """Seconds until `amount` fits."""
        if amount > self.limit:
            return math.inf
        # Providers print whole numbers and compute their "try again in" from them.
        excess = math.ceil(self.used(now) - 1e-6) + amount - self.limit
        return max(0.0, excess / self._rate)

    def reset(self, now: float) -> float:
        """Seconds until nothing is used."""
        return self.used(now) / self._rate if self._rate else 0.0


class Calendar:
    """A counter that restarts with each clock minute or Pacific calendar day."""

    def __init__(self, limit: int, period: str) -> None:
        self.limit = limit
        self._period = period
        self._used = 0.0
        self._start = self._end = 0.0

    def _turn(self, now: float) -> None:
        if not self._start <= now < self._end:
            self._start, self._end = _period_around(now, self._period)
            self._used = 0.0

    def used(self, now: float) -> float:
        """The amount that counts at `now`."""
        self._turn(now)
        return self._used

    def add(self, now: float, amount: float) -> None:
        """Count more from `now` on."""
        self._turn(now)
        self._used += amount

    def wait(self, now: float, amount: int) -> float:
        """Seconds until `amount` fits."""
        if amount > self.limit:
            return math.inf
        return 0.0 if self.used(now) + amount <= self.limit else self._end - now

    def reset(self, now: float) -> float:
        """Seconds until nothing is used."""
        return self._end - now if self.used(now) else 0.0


def _period_around(now: float, period: str) -> tuple[float, float]:
    """Start and end of the clock or Pacific calendar period that holds `now`."""
    if period not in ("day", "month"):
        length = SECONDS[period]
        start = now // length * length
        return start, start + length
    # Built from dates, not by adding 86,400 s: the day of a clock change has 23 or 25 hours.
    today = datetime.fromtimestamp(now, PACIFIC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "month":
        today = today.replace(day=1)
        following = (today + timedelta(days=32)).replace(day=1)
    else:
        following = today + timedelta(days=1)
    return today.timestamp(), following.timestamp()


class Rolling:
    """A count of the last period. Each amount stops counting when it is one period old."""

    def __init__(self, limit: int, period: str) -> None:
        self.limit = limit
        self._length = SECONDS[period]
        self._entries: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def used(self, now: float) -> float:
        """The amount that counts at `now`."""
        while self._entries and self._entries[0][0] + self._length <= now:
            self._sum -= self._entries.popleft()[1]
        return self._sum

    def add(self, now: float, amount: float) -> None:
        """Count more from `now` on."""
        self._entries.append((now, amount))
        self._sum += amount

    def wait(self, now: float, amount: int) -> float:
        """Seconds until `amount` fits."""
        if amount > self.limit:
            return math.inf
        left = self.used(now) + amount
        if left <= self.limit:
            return 0.0
        for at, used in self._entries:
            left -= used
            if left <= self.limit:
                return at + self._length - now
        return math.inf

    def reset(self, now: float) -> float:
        """Seconds until nothing is used."""
        return self._entries[-1][0] + self._length - now if self.used(now) else 0.0


class Fixed(Calendar):
    """A counter that restarts one period after the first request that it counted."""

    def _turn(self, now: float) -> None:
        if now >= self._end:
            self._used = 0.0

    def add(self, now: float, amount: float) -> None:
        """Count more from `now` on."""
        self._turn(now)
        if now >= self._end:
            self._end = now + SECONDS[self._period]
        self._used += amount


Window = Bucket | Calendar | Rolling | Fixed


def remaining(window: Window, now: float) -> int:
    """What is left of a limit, in requests or tokens, never below 0."""
    # The small term prevents 998.9999999 (a rounding error) from becoming 998.
    return max(0, int(window.limit - window.used(now) + 1e-6))


KINDS: Mapping[str, type[Window]] = {
    "bucket": Bucket, "calendar": Calendar, "fixed": Fixed, "rolling": Rolling,
}  # fmt: skip
OF_PROVIDER = {"groq": "bucket", "mistral": "rolling", "google": "calendar", "openai": "bucket"}
