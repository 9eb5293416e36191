"""How many threads ask: more while that brings more replies per second, fewer when it does not."""

from __future__ import annotations

THREADS, MOST_THREADS = 4, 256
# Until the first reply the number doubles at this interval, up to what a slow service can bear.
_BLIND_SECONDS, _MOST_BLIND = 0.5, 64
# A measurement takes at least this time, this many replies, and half as many as there are threads.
_LOOK_SECONDS, _LOOK_REPLIES = 0.25, 8
_LARGE_STEP, _SMALL_STEP = 4.0, 2.0
# A step up is kept if it brings a tenth more. If it brought nearly all that it could, the next step
# is a large one. A step down is kept if it costs next to nothing.
_GAIN, _NEARLY_ALL, _LOSS = 0.1, 0.7, 0.03
# Measurements to rest after a step that was taken back; each time twice as many.
_REST, _LONGEST_REST = 8, 128


class Growth:
    """The number of workers of a group, by measured gain.

    If each of `n` threads takes `t` seconds for a row, `n / t` rows are answered per second. A step
    up is kept if this grows. If it does not (Python, the network or the service is the bound), the
    step is taken back. Later it tries a step down, then one up again, as conditions change.

    Args:
        now: seconds of a monotonic clock, as in all of its methods.

    Attributes:
        threads: how many there should be.
        pace: threads and rows per second, as measured last; None before.
    """

    def __init__(self, now: float) -> None:
        self.threads = THREADS
        self.pace: tuple[int, float] | None = None
        self._stepped_at = now
        self._seconds, self._replies, self._heard = 0.0, 0, False
        self._step = _LARGE_STEP
        # Threads and rows per second before the last step.
        self._before: tuple[int, float] | None = None
        self._rest, self._next_rest = 0, _REST

    def note_replies(self, count: int, began: float, now: float) -> None:
        """Note that a thread asked `count` rows one after the other, from `began` until now."""
        self._heard = True
        # Rows that began before the last step say nothing about it.
        if began >= self._stepped_at:
            self._replies += count
            self._seconds += now - began

    def note_limit(self, now: float) -> None:
        """Note that a row waits for a limit, or failed: halve the threads, down to a few."""
        self._heard, self._before = True, None
        if now >= self._stepped_at + _LOOK_SECONDS:
            self._go_to(min(self.threads, max(THREADS, self.threads // 2)), now)

    def look(self, now: float) -> None:
        """Take a step, or take one back, once enough replies have come."""
        passed = now - self._stepped_at
        if not self._heard:
            if passed >= _BLIND_SECONDS and self.threads < _MOST_BLIND:
                self._go_to(2 * self.threads, now)
            return
        if passed < _LOOK_SECONDS or self._replies < max(_LOOK_REPLIES, self.threads / 2):
            return
        pace = self.threads * self._replies / max(self._seconds, 1e-9)
        self.pace = self.threads, pace
        if self._rest:
            self._rest -= 1
            self._go_to(self.threads, now)
        elif self._before is None or self._is_kept(pace / self._before[1] - 1):
            self._before = self.pace
            self._go_to(min(MOST_THREADS, max(1, round(self._step * self.threads))), now)
            if self.threads == self._before[0]:
                self._turn()
        else:
            self._go_to(self._before[0], now)
            self._turn()

    def _is_kept(self, gain: float) -> bool:
        """Whether the last step helped enough; sets the size of the next step."""
        if self._step < 1:
            return gain >= -_LOSS
        nearly_all = gain >= _NEARLY_ALL * (self._step - 1)
        self._step = _LARGE_STEP if nearly_all else _SMALL_STEP
        return gain >= _GAIN

    def _turn(self) -> None:
        """The last step brought no gain: rest, then step in the other direction."""
        self._before = None
        self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, _LONGEST_REST)
        self._step = 1 / _SMALL_STEP if self._step > 1 else _SMALL_STEP

    def _go_to(self, threads: int, now: float) -> None:
        self.threads, self._stepped_at = threads, now
        self._seconds, self._replies = 0.0, 0
