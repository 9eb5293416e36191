"""How many threads ask: more while more of them bring more replies, fewer where they do not."""

from __future__ import annotations

THREADS, MOST_THREADS = 4, 256
# While no reply has come the number doubles this often, up to what a slow service can bear.
_BLIND_SECONDS, _MOST_BLIND = 0.5, 64
# A figure rests on this time and this many replies at least, and on half as many as threads.
_LOOK_SECONDS, _LOOK_REPLIES = 0.25, 8
_LARGE_STEP, _SMALL_STEP = 4.0, 2.0
# A step up is kept if it brings a tenth more; after one that brought nearly all that it could, the
# next is a large one. A step down is kept if it costs next to nothing.
_GAIN, _NEARLY_ALL, _LOSS = 0.1, 0.7, 0.03
# How many figures pass after a step that was taken back; each time twice as many.
_REST, _LONGEST_REST = 8, 128


class Growth:
    """The number of threads of a lane, by measured gain.

    Where `n` threads take `t` seconds for a row each, `n / t` rows come back in a second. A step up
    is kept if this grows. If it does not (Python, the network or the service gives no more), the
    step is taken back. Later a step down is tried, then one up again: conditions change.

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
        """A thread began then to ask so many rows, one after the other, and they are answered."""
        self._heard = True
        # What began before the last step says nothing about it.
        if began >= self._stepped_at:
            self._replies += count
            self._seconds += now - began

    def note_limit(self, now: float) -> None:
        """A row waits for a limit, or failed: more threads than a few make nothing better."""
        self._heard, self._before = True, None
        if now >= self._stepped_at + _LOOK_SECONDS:
            self._go_to(min(self.threads, max(THREADS, self.threads // 2)), now)

    def look(self, now: float) -> None:
        """Take a step, or take one back, once there are enough replies to tell."""
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
        """Whether the last step was worth it; chooses the size of the next one."""
        if self._step < 1:
            return gain >= -_LOSS
        nearly_all = gain >= _NEARLY_ALL * (self._step - 1)
        self._step = _LARGE_STEP if nearly_all else _SMALL_STEP
        return gain >= _GAIN

    def _turn(self) -> None:
        """There is no more to be had this way: rest, then try the other one."""
        self._before = None
        self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, _LONGEST_REST)
        self._step = 1 / _SMALL_STEP if self._step > 1 else _SMALL_STEP

    def _go_to(self, threads: int, now: float) -> None:
        self.threads, self._stepped_at = threads, now
        self._seconds, self._replies = 0.0, 0
