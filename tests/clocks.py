"""Clocks for the package and the sandbox: one that a test moves, and one that is fast."""

from __future__ import annotations

import time

# Noon UTC on a Monday, on a full minute, far from midnight in Los Angeles.
NOON = 1_763_380_800.0


class Clock:
    """A clock that moves only while somebody sleeps on it."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now
        self.naps: list[float] = []

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds

    @property
    def slept(self) -> float:
        return sum(self.naps)


class FastClock:
    """Real time, sped up, for threads that wait at the same time."""

    def __init__(self, speed: float, now: float = NOON) -> None:
        self._speed = speed
        self._then, self._began = now, time.monotonic()

    def time(self) -> float:
        return self._then + (time.monotonic() - self._began) * self._speed

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / self._speed)
