"""The number of threads of a job, which grows as long as it increases replies per second."""

from __future__ import annotations

THREADS, MOST_THREADS = 4, 256
# Threads for each model that gets packed requests; their number does not grow.
PACKING_THREADS = 4
# Before the first reply, the number doubles at this interval, up to a maximum.
_BLIND_SECONDS, _MOST_BLIND = 0.3, 64
# A measurement takes at least this time, this many replies, and one reply per thread, because the
# first replies come from the fastest rows. After a large step, half as many are enough.
_LOOK_SECONDS, _LOOK_REPLIES, _LARGE_STEP_REPLIES = 0.3, 16, 0.5
# The number is multiplied by the first factor while each step brings nearly the largest possible
# gain, and later by the other factors.
_FIRST_STEP, _UP, _DOWN = 4.0, 2.0, 0.75
# No step up goes to more threads than would keep this many processors busy.
_BUSY = 1.3
# Shares of the largest possible gain of a step up. Above the first one, a step of the same size
# follows; above the second one, a small step.
_NEARLY_ALL, _SOME = 0.7, 0.25
# Use this factor more threads than the pace needs without waiting, because some threads always
# wait.
_SPARE = 1.2
# A step down is kept if it costs no more than this share.
_LOSS = 0.03
# Number of measurements without a step; it doubles after each step that is reverted.
_SHORT_REST, _REST, _LONGEST_REST = 1, 4, 64


class Growth:
    """Adapts the number of workers of a group to the measured gain.

    If each of `n` threads takes `t` seconds for a row, `n / t` rows are answered per second. If a
    step multiplies the threads by a factor, it should multiply the rows per second by the same
    factor. If the gain is smaller (because Python, the network or the service is the bottleneck),
    only as many threads stay as are needed for that pace without waiting. Later, it tries a step
    down and then a step up again, because conditions change.

    Its methods take `now`, in seconds of a monotonic clock, and `worked`, the seconds that this
    process has computed so far.

    Attributes:
        threads: the number of workers to run.
        pace: the last measurement, as threads and rows per second, or None.
        is_limited: a row has waited for a limit, or failed, since then.
    """

    def __init__(self, now: float, worked: float) -> None:
        self.threads = THREADS
        self.pace: tuple[int, float] | None = None
        self.is_limited = False
        self._stepped_at = now
        self._seconds, self._replies, self._heard = 0.0, 0, False
        self._step = _FIRST_STEP
        # The threads, and the rows per second, before the last step.
        self._before: tuple[int, float] | None = None
        self._rest, self._next_rest = 0, _REST
        # The number of processors that this process keeps busy, and the time and the CPU seconds of
        # the last measurement.
        self._busy, self._measured = 0.0, (now, worked)

    def note_reply(self, began: float, now: float) -> None:
        """Note that a thread asked a row, from `began` until now."""
        if not self._heard and self.threads == THREADS:
            # Rows are short: the first ones took longer, because libraries were loaded and
            # connections opened.
            self._stepped_at = now
        self._heard = True
        # Rows that began before the last step do not count for it.
        if began >= self._stepped_at:
            self._replies += 1
            self._seconds += now - began

    def note_limit(self, now: float) -> None:
        """Note that a row waits for a limit or failed: halve the threads, but keep a few."""
        self._heard = self.is_limited = True
        self._before = None
        if now >= self._stepped_at + _LOOK_SECONDS:
            self._go_to(min(self.threads, max(THREADS, self.threads // 2)), now)

    def adjust(self, now: float, worked: float) -> None:
        """Take a step or correct the last one, if enough replies have arrived."""
        passed = now - self._stepped_at
        if not self._heard:
            self._measured = now, worked
            if passed >= _BLIND_SECONDS and self.threads < _MOST_BLIND:
                self._go_to(2 * self.threads, now)
            return
        share = _LARGE_STEP_REPLIES if self._step == _FIRST_STEP else 1.0
        if passed < _LOOK_SECONDS or self._replies < max(_LOOK_REPLIES, share * self.threads):
            return
        pace = self.threads * self._replies / max(self._seconds, 1e-9)
        self.pace, self.is_limited = (self.threads, pace), False
        before, worked_before = self._measured
        self._busy = (worked - worked_before) / (now - before)
        self._measured = now, worked
        if self._before is not None:
            self._correct(*self._before, pace, now)
        elif self._rest:
            self._rest -= 1
            self._go_to(self.threads, now)
        else:
            self._take_step(now)

    def _take_step(self, now: float) -> None:
        self._before = self.pace
        threads = round(self._step * self.threads)
        if self._step > 1:
            # Python computes in one thread at a time. This many threads keep it busy.
            enough = _BUSY * self.threads / max(self._busy, 1e-9)
            threads = min(MOST_THREADS, max(self.threads + 1, min(threads, round(enough))))
        self._go_to(max(1, threads), now)
        if self._before and self.threads == self._before[0]:
            self._turn()

    def _correct(self, threads: int, pace: float, new_pace: float, now: float) -> None:
        """Keep all or part of the last step, which started from these threads and this pace."""
        gain = new_pace / pace
        if self._step < 1:
            if gain >= 1 - _LOSS:
                self._take_step(now)
            else:
                self._go_to(threads, now)
                self._turn()
            return
        # The gain as a share of the largest possible gain.
        share = (gain - 1) / (self.threads / threads - 1)
        if share >= _NEARLY_ALL:
            self._take_step(now)
            return
        # The number of threads that this pace needs if none has to wait.
        needed = threads * max(1.0, gain)
        if share >= _SOME:
            self._go_to(min(self.threads, round(_SPARE * needed)), now)
            self._step, self._rest, self._before = _UP, _SHORT_REST, None
        else:
            self._go_to(round(needed), now)
            self._turn()

    def _turn(self) -> None:
        """After a step that brought little: pause, then step in the other direction."""
        self._before = None
        self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, _LONGEST_REST)
        self._step = _DOWN if self._step > 1 else _UP

    def _go_to(self, threads: int, now: float) -> None:
        self.threads, self._stepped_at = threads, now
        self._seconds, self._replies = 0.0, 0
