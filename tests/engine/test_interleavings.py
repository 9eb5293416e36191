"""Random interleavings of calls, crashes and waits, against a server that counts exactly."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from engine_parts import (
    NOON,
    Clock,
    LedgerServer,
    a_route,
    ask,
    custom_configuration,
    proven,
    set_by_user,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arche_magic.llm_providers.provider_failure import ProviderFailure, Remedy
from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker, Settlement
from arche_magic.llm_providers.storage import JsonFileStorage, MemoryStorage, Storage
from arche_magic.llm_providers.types import (
    PERIOD_SECONDS,
    Limit,
    Observation,
    Usage,
)


def turn(limit: Limit, at: float) -> object:
    """The number of the calendar minute, hour, day or month that contains a time."""
    local = datetime.fromtimestamp(at, ZoneInfo(limit.time_zone))
    if limit.period == "month":
        return local.year, local.month
    return local.date() if limit.period == "day" else at // PERIOD_SECONDS[limit.period]


class ExactServer:
    """A provider that counts every request and token exactly."""

    def __init__(self, limits: list[Limit]) -> None:
        self.limits = limits
        self.log: list[tuple[float, dict[str, float]]] = []

    def used(self, limit: Limit, now: float) -> float:
        seconds = PERIOD_SECONDS[limit.period]
        entries = [(at, amounts[limit.metric]) for at, amounts in self.log]
        if limit.window == "rolling":
            return sum(amount for at, amount in entries if now - at < seconds)
        if limit.window == "calendar":
            return sum(amount for at, amount in entries if turn(limit, at) == turn(limit, now))
        level, last = 0.0, 0.0
        for at, amount in [*entries, (now, 0.0)]:
            level = max(0.0, level - (at - last) * limit.amount / seconds) + amount
            last = at
        return level

    def take(self, amounts: dict[str, float], now: float) -> list[Observation]:
        """Serve a call; the ledger must have kept it within every limit."""
        self.log.append((now, amounts))
        for limit in self.limits:
            assert self.used(limit, now) <= limit.amount + 1e-3, f"{limit.name} was oversold"
        return [
            Observation(x.name, x.amount, max(0.0, x.amount - self.used(x, now)))
            for x in self.limits
        ]


class Call:
    def __init__(self, hold: Hold, tracker: QuotaTracker, now: float) -> None:
        self.hold, self.tracker, self.began = hold, tracker, now
        self.spent: Usage | None = None
        self.seen: list[Observation] = []
        self.crashed = False


class LedgerAgainstServer(RuleBasedStateMachine):
    """Two kernels share a ledger, and must never ask the server for more than its limits."""

    window = "bucket"
    kernels = 2
    starts = NOON + 7.3
    longest_wait = 3700.0

    def limits(self) -> list[Limit]:
        return [
            Limit("requests", "minute", 4, self.window),  # type: ignore[arg-type]
            Limit("tokens", "minute", 300, self.window),  # type: ignore[arg-type]
            Limit("requests", "hour", 25, self.window),  # type: ignore[arg-type]
        ]

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(self.starts)
        # How far the server's clock is ahead, in seconds.
        self.set_back_by = 0.0
        limits = list(map(set_by_user, self.limits()))
        self.server = ExactServer(limits)
        self.configuration = custom_configuration(limits, clock=self.clock)
        self.route = a_route(self.configuration)
        self.trackers = [QuotaTracker(s, self.configuration) for s in self.storages()]
        proven(self.trackers[0])
        self.calls: list[Call] = []
        self.short = ask(timeout=20.0)
        self.last_hold_ends = 0.0

    @property
    def true_time(self) -> float:
        return self.clock.now + self.set_back_by

    def begin(self, hold: Hold, tracker: QuotaTracker) -> None:
        self.calls.append(Call(hold, tracker, self.true_time))
        # After the clock was set back, an earlier call may end later.
        self.last_hold_ends = max(self.last_hold_ends, self.clock.now + 51.0)

    def storages(self) -> list[Storage]:
        return [MemoryStorage()] * self.kernels

    def open_calls(self, *, arrived: bool | None = None, crashed: bool = False) -> list[Call]:
        return [
            call
            for call in self.calls
            if call.crashed == crashed and arrived in (None, call.spent is not None)
        ]

    @rule(
        kernels=st.lists(st.integers(0, 1), min_size=1, max_size=5),
        max_tokens=st.sampled_from([1, 40, 150]),
        words=st.sampled_from([1, 40]),
    )
    def hold(self, kernels: list[int], max_tokens: int, words: int) -> None:
        request = ask("word " * words, max_tokens, timeout=20.0)
        for kernel in kernels:
            hold = self.trackers[kernel].hold(self.route, request)
            if isinstance(hold, Hold):
                self.begin(hold, self.trackers[kernel])
            else:
                assert hold.opens_at > self.clock.now
                assert hold.reason

    def arrive(self, call: Call, share: float) -> None:
        amounts = call.hold.amounts
        call.spent = Usage(
            int(amounts["input_tokens"] * share), int(amounts["output_tokens"] * share)
        )
        total = float(call.spent.total_tokens)
        call.seen = self.server.take({"requests": 1.0, "tokens": total}, self.true_time)

    @precondition(lambda self: self.open_calls(arrived=False))
    @rule(most=st.integers(1, 5), share=st.sampled_from([1.0, 0.5, 0.0]))
    def reach_the_server(self, most: int, share: float) -> None:
        for call in self.open_calls(arrived=False)[:most]:
            self.arrive(call, share)

    @precondition(lambda self: self.open_calls(arrived=True))
    @rule(data=st.data(), headers=st.booleans())
    def settle(self, data: st.DataObject, headers: bool) -> None:
        call = data.draw(st.sampled_from(self.open_calls(arrived=True)))
        call.tracker.settle(Settlement(call.hold, call.spent, call.seen if headers else ()))
        self.calls.remove(call)

    @precondition(lambda self: self.open_calls(arrived=False))
    @rule(data=st.data())
    def fail_before_the_server_counted(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.open_calls(arrived=False)))
        refusal = ProviderFailure("429", Remedy.WAIT_FOR_LIMIT, retry_after=2.0)
        call.tracker.fail(call.hold, refusal)
        self.calls.remove(call)

    @precondition(lambda self: self.open_calls(arrived=True))
    @rule(data=st.data())
    def break_after_the_server_counted(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.open_calls(arrived=True)))
        # The failure states a time, because our own estimate has jitter.
        broken = ProviderFailure("connection lost", Remedy.RETRY_LATER, retry_after=1.5)
        call.tracker.fail(call.hold, broken)
        self.calls.remove(call)

    @precondition(lambda self: self.open_calls())
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.open_calls())).crashed = True

    @precondition(lambda self: self.open_calls(arrived=False, crashed=True))
    @rule(data=st.data(), share=st.floats(0, 1))
    def reach_the_server_after_the_crash(self, data: st.DataObject, share: float) -> None:
        self.arrive(data.draw(st.sampled_from(self.open_calls(arrived=False, crashed=True))), share)

    @rule(seconds=st.sampled_from([1 / 16, 0.5, 3.0, 15.0, 52.0, 59.5, 61.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        # No call outlives its timeout; its hold is kept a little longer.
        self.calls = [c for c in self.calls if self.true_time - c.began <= 20.0]

    @precondition(lambda self: not self.calls)
    @rule()
    def wait_for_the_opening(self) -> None:
        """With no call in progress, the announced time is exact."""
        self.clock.now = max(self.clock.now, self.last_hold_ends)
        for _ in range(4):
            state = self.trackers[0].state(self.route, self.short, self.clock.now)
            if state.opens_at <= self.clock.now:
                break
            assert state.opens_at < self.clock.now + self.longest_wait
            self.clock.now = state.opens_at
        hold = self.trackers[0].hold(self.route, self.short)
        assert isinstance(hold, Hold), hold
        self.begin(hold, self.trackers[0])

    @invariant()
    def the_ledger_is_never_ahead_of_the_server(self) -> None:
        """With no call in progress or expired, at least the server's count is used."""
        if self.calls:
            return
        holds = self.trackers[-1].storage.read(f"groq:{self.route.key.account}")
        if not holds.get("models", {}).get("model-a", {}).get("holds"):
            rows = self.trackers[-1].get_usage_summary("groq")["groq"]["groq_key_1"]
            for limit in self.server.limits:
                assert rows[limit.name]["used"] >= self.server.used(limit, self.true_time) - 1e-2


class CalendarLedger(LedgerAgainstServer):
    window = "calendar"


class RollingLedger(LedgerAgainstServer):
    window = "rolling"


class DaysInLosAngeles(LedgerAgainstServer):
    """Calendar days and months in Los Angeles, at the ends of October and of winter."""

    starts = datetime(2026, 10, 31, 9, tzinfo=ZoneInfo("America/Los_Angeles")).timestamp()
    longest_wait = 32 * 86_400.0

    def limits(self) -> list[Limit]:
        zone = "America/Los_Angeles"
        return [
            Limit("requests", "day", 3, "calendar", zone),
            Limit("tokens", "day", 400, "calendar", zone),
            Limit("requests", "month", 12, "calendar", zone),
        ]

    @rule(hours=st.sampled_from([1, 5, 13, 23, 24, 25]))
    def pass_hours(self, hours: int) -> None:
        self.pass_time(hours * 3600.0)


class ShortDayInLosAngeles(DaysInLosAngeles):
    """The day with 23 hours, and the end of March some weeks later."""

    starts = datetime(2026, 3, 7, 9, tzinfo=ZoneInfo("America/Los_Angeles")).timestamp()


class ClockSetBack(LedgerAgainstServer):
    """Once per run, our clock is set back by less than a window; the server's clock continues."""

    @precondition(lambda self: not self.set_back_by)
    @rule(seconds=st.sampled_from([1 / 16, 3.0, 30.0, 55.0]))
    def set_the_clock_back(self, seconds: float) -> None:
        self.clock.now -= seconds
        self.set_back_by = seconds


class ClockSetBackRolling(ClockSetBack):
    window = "rolling"


class FileLedger(LedgerAgainstServer):
    """Two kernels share a ledger in a file."""

    def storages(self) -> list[Storage]:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name, "ledger.json")
        return [JsonFileStorage(path) for _ in range(self.kernels)]

    def teardown(self) -> None:
        self.folder.cleanup()


class RedisLedger(LedgerAgainstServer):
    """Two kernels share a ledger in Redis."""

    def storages(self) -> list[Storage]:
        self.folder = tempfile.TemporaryDirectory()
        self.redis = LedgerServer(Path(self.folder.name))
        self.redis.start()
        return [self.redis.storage() for _ in range(self.kernels)]

    def teardown(self) -> None:
        self.redis.stop()
        self.folder.cleanup()


class HiddenRate(RuleBasedStateMachine):
    """Two kernels, a route that has never answered, and a real rate far below the published one."""

    window = "bucket"

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(NOON + 7.3)
        published = Limit("requests", "minute", 30, self.window)  # type: ignore[arg-type]
        self.server = ExactServer([replace(published, amount=5)])
        self.configuration = custom_configuration([published], clock=self.clock)
        self.route = a_route(self.configuration)
        storage = MemoryStorage()
        self.trackers = [QuotaTracker(storage, self.configuration) for _ in range(2)]
        self.calls: list[Call] = []
        self.refusals = 0
        # Calls refused before the first answer, or before the first one after a refusal.
        self.is_proven, self.closed_at = False, -1.0

    @rule(kernels=st.lists(st.integers(0, 1), min_size=1, max_size=8))
    def ask(self, kernels: list[int]) -> None:
        """Each call that gets a hold reaches the server immediately."""
        (limit,) = self.server.limits
        for kernel in kernels:
            hold = self.trackers[kernel].hold(self.route, ask())
            if isinstance(hold, RouteState):
                continue
            if not self.is_proven:
                trials = [call for call in self.calls if call.began > self.closed_at]
                assert all(self.clock.now - call.began >= 10 for call in trials), "two at a time"
            call = Call(hold, self.trackers[kernel], self.clock.now)
            if self.server.used(limit, self.clock.now) + 1 <= limit.amount + 1e-3:
                self.server.take({"requests": 1.0}, self.clock.now)
                call.spent = Usage(5, 5)
            self.calls.append(call)

    def end(self, call: Call) -> None:
        self.calls.remove(call)
        if call.crashed:
            return
        if call.spent:
            call.tracker.settle(Settlement(call.hold, call.spent))
            self.is_proven = self.is_proven or call.began > self.closed_at
            return
        (limit,) = self.server.limits
        self.refusals += 1
        assert self.refusals <= 1, "refused twice by one limit"
        over = self.server.used(limit, self.clock.now) + 1 - limit.amount
        wait = max(0.0, over) / limit.amount * 60 if limit.window == "bucket" else None
        seen = [Observation(limit.name, limit.amount, 0, None, "error")]
        refusal = ProviderFailure(
            "429", Remedy.WAIT_FOR_LIMIT, retry_after=wait, limit=limit.name, observations=seen
        )
        call.tracker.fail(call.hold, refusal)
        self.is_proven, self.closed_at = False, self.clock.now

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.calls)))

    @precondition(lambda self: any(call.spent for call in self.calls))
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([call for call in self.calls if call.spent])).crashed = True

    @rule(seconds=st.sampled_from([1 / 16, 0.3, 0.5, 3.0, 11.0, 20.0, 61.0]))
    def pass_time(self, seconds: float) -> None:
        """A refusal arrives within half a second, and no call outlives its timeout."""
        for call in [call for call in self.calls if not call.spent]:
            self.end(call)
        self.clock.now += seconds
        self.calls = [c for c in self.calls if self.clock.now - c.began <= 60.0]


class HiddenCalendarRate(HiddenRate):
    window = "calendar"


class HiddenRollingRate(HiddenRate):
    window = "rolling"


# Each run draws different examples.
_thorough = settings(max_examples=40, stateful_step_count=40)
_brief = settings(max_examples=10, stateful_step_count=40)

TestBucketLedger = LedgerAgainstServer.TestCase
TestBucketLedger.settings = _thorough
TestCalendarLedger = CalendarLedger.TestCase
TestCalendarLedger.settings = _thorough
TestDaysInLosAngeles = DaysInLosAngeles.TestCase
TestDaysInLosAngeles.settings = _thorough
TestShortDayInLosAngeles = ShortDayInLosAngeles.TestCase
TestShortDayInLosAngeles.settings = _thorough
TestClockSetBack = ClockSetBack.TestCase
TestClockSetBack.settings = _thorough
TestClockSetBackRolling = ClockSetBackRolling.TestCase
TestClockSetBackRolling.settings = _thorough
TestRollingLedger = RollingLedger.TestCase
TestRollingLedger.settings = _thorough
TestFileLedger = FileLedger.TestCase
TestFileLedger.settings = _brief
TestRedisLedger = RedisLedger.TestCase
TestRedisLedger.settings = _brief
TestHiddenRate = HiddenRate.TestCase
TestHiddenRate.settings = _thorough
TestHiddenCalendarRate = HiddenCalendarRate.TestCase
TestHiddenCalendarRate.settings = _thorough
TestHiddenRollingRate = HiddenRollingRate.TestCase
TestHiddenRollingRate.settings = _thorough
