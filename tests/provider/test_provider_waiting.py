"""Waiting instead of failing or paying."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from promptness import in_time
from provider_parts import MODELS, NOON, Clock, FastClock, Start, asked, run_script, server_count

from arche_magic.llm_providers import NoRouteAvailable, get_llm_provider
from arche_magic.llm_providers.catalog import parse_limits
from arche_magic.llm_providers.events import Piece, Waiting
from arche_magic.llm_providers.options import build_request
from arche_magic.llm_providers.quota_tracker import get_quota_tracker


def test_a_request_waits_until_a_route_opens(start: Start, clock: Clock) -> None:
    """The only refusal states the time; after that, nothing is refused."""
    sandbox = start(keys={"groq": 1}, clock=clock, limits={"groq": {"requests_per_minute": 2}})
    provider = get_llm_provider()
    replies = [provider.generate(f"Prompt {n}", patience=100) for n in range(3)]
    assert [len(reply.attempts) for reply in replies] == [1, 1, 2]
    assert replies[-1].attempts[-1].waited_s == pytest.approx(30, abs=2)
    assert replies[-1].seconds == pytest.approx(30, abs=2)
    assert server_count(sandbox, "refused") == 1


def test_a_stated_wait_of_two_seconds_is_kept(start: Start, clock: Clock) -> None:
    """There is no immediate error, and no longer default wait."""
    sandbox = start(keys={"groq": 2}, clock=clock, limits={"groq": {"requests_per_minute": 30}})
    provider = get_llm_provider()
    for number in range(60):
        provider.generate(f"{number}", max_tokens=5, patience=0)
    before = clock.now
    assert provider.generate("Hello", max_tokens=5)
    assert clock.now - before == pytest.approx(2.0, abs=0.1)
    assert server_count(sandbox, "refused") == 0


def test_waiting_uses_almost_no_processor_time(start: Start, clock: Clock) -> None:
    """Sleeps of half a second, after each of which the ledger is read once."""
    start(keys={"groq": 1}, clock=clock, limits={"groq": {"requests_per_minute": 2}})
    provider = get_llm_provider()
    for number in range(4):
        provider.generate(f"Prompt {number}", patience=100)
    assert clock.slept > 40
    assert len(clock.naps) <= clock.slept / 0.5 + 6
    assert min(clock.naps) > 0


def test_waiting_for_another_call_sleeps_too(start: Start) -> None:
    """All others wait for the first call of a route, without using the processor."""
    start(keys={"groq": 1}, settings={"store": "memory://loads what is loaded once"})
    get_llm_provider("groq").generate("Hello")
    sandbox = start(keys={"groq": 1}, settings={"store": "memory://knows nothing of the route"})
    provider = get_llm_provider("groq")
    sandbox.latency = 2.0
    worked = time.process_time()
    with ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(provider.generate, f"Prompt {number}") for number in range(12)]
        while not sandbox.requests:
            time.sleep(0.01)
        sandbox.latency = 0.0  # for those that wait for the first one
        replies = [call.result() for call in calls]
    assert len(replies) == 12
    assert time.process_time() - worked < 1.0


def test_no_patience_means_no_wait(start: Start, clock: Clock) -> None:
    """A patience that is shorter than the wait means the same."""
    start(keys={"groq": 1}, clock=clock, limits={"groq": {"requests_per_minute": 2}})
    provider = get_llm_provider()
    for number in range(2):
        provider.generate(f"Prompt {number}")
    for patience in (0, 20):
        with pytest.raises(NoRouteAvailable, match="opens in 30 s"):
            provider.generate("Prompt", patience=patience)
    assert clock.naps == []


def test_patience_applies_to_the_whole_request(start: Start, clock: Clock) -> None:
    """A route that refuses repeatedly does not make it wait forever."""
    sandbox = start(keys={"groq": 1}, clock=clock)
    sandbox.fail("groq", "rate_limit_minute", times=None)
    with pytest.raises(NoRouteAvailable):
        get_llm_provider().generate("Hello", patience=60)
    assert clock.slept <= 60
    assert len(sandbox.requests) <= 3


def test_the_timeout_ends_the_wait(start: Start, clock: Clock) -> None:
    """The patience of the request does not matter."""
    sandbox = start(keys={"groq": 1}, clock=clock, limits={"groq": {"requests_per_minute": 1}})
    provider = get_llm_provider()
    provider.generate("One")
    with pytest.raises(NoRouteAvailable):
        provider.generate("Two", patience=1000, timeout=10)
    assert clock.slept <= 10
    assert provider.generate("Two", patience=1000, timeout=100)
    assert asked(sandbox).count("groq") <= 3


def test_a_stream_reports_that_it_waits(start: Start, clock: Clock) -> None:
    """A notebook can therefore show the seconds."""
    start(keys={"groq": 1}, clock=clock, limits={"groq": {"requests_per_minute": 2}})
    provider = get_llm_provider()
    for number in range(2):
        provider.generate(f"Prompt {number}")
    events = list(provider.events("Three", patience=60))
    waits = [event.seconds for event in events if isinstance(event, Waiting)]
    assert waits == sorted(waits, reverse=True)
    assert waits[0] == pytest.approx(30, abs=2)
    assert isinstance(events[-1], Piece)


def test_groqs_daily_limit_refills_continuously(start: Start, clock: Clock) -> None:
    """A spent day does not wait for midnight: 1,000 a day are one every 86.4 s."""
    start(keys={"groq": 1}, clock=clock, left={"groq": {"requests_per_day": 1}})
    provider = get_llm_provider()
    provider.generate("One")
    assert provider.generate("Two", patience=100).attempts[-1].waited_s == pytest.approx(86, abs=2)


def test_googles_day_ends_at_midnight_pacific(start: Start, clock: Clock) -> None:
    """Its refusal states a delay in seconds, which is ignored."""
    sandbox = start(keys={"google": 1}, clock=clock, left={"google": {"requests_per_day": 1}})
    provider = get_llm_provider()
    provider.generate("One")
    with pytest.raises(NoRouteAvailable) as caught:
        provider.generate("Two", patience=3600)
    assert caught.value.next_available_at is not None
    # Noon UTC is 4 a.m. there in November.
    assert caught.value.next_available_at.timestamp() - clock.now == pytest.approx(20 * 3600, abs=2)
    assert server_count(sandbox, "refused") == 1
    clock.now += 20 * 3600 + 1
    assert provider.generate("Three", patience=0)


def test_threads_never_exceed_the_known_limits(start: Start) -> None:
    """Eight threads send 160 prompts.

    Nothing is refused, and the ledger's count equals the server's.
    """
    clock = FastClock(speed=60)
    known = {"google": parse_limits({"requests_per_minute": 10}, "calendar")}
    sandbox = start(
        keys={"groq": 2, "mistral": 1, "google": 1},
        clock=clock,
        settings={"limits": known},
    )
    provider = get_llm_provider()

    def ask(number: int) -> int:
        reply = provider.generate(f"Prompt {number}", patience=1e6, timeout=1e6)
        return reply.usage.total_tokens

    with ThreadPoolExecutor(8) as pool:
        tokens = sum(pool.map(ask, range(160)))
    assert [r.status for r in sandbox.requests if r.status != 200] == []
    assert server_count(sandbox, "requests") == 160
    assert tokens == server_count(sandbox, "input_tokens") + server_count(sandbox, "output_tokens")
    summary, theirs = get_quota_tracker().get_usage_summary(), sandbox.quota()
    month = theirs["mistral_key_1"][MODELS["mistral"]]["tokens_per_month"]["used"]
    assert summary["mistral"]["mistral_key_1"]["tokens_per_month"]["used"] == month
    for key in ("groq_key_1", "groq_key_2"):
        ours = summary["groq"][key]["tokens_per_day"]["used"]
        count = sandbox.usage()[key][MODELS["groq"]]
        spent = count["input_tokens"] + count["output_tokens"]
        # 200,000 tokens a day refill at 2.3 per second.
        assert spent - 2.4 * (clock.time() - NOON) < ours <= spent
    stats = provider.get_stats()
    assert (stats["total_calls"], stats["errors"]) == (160, 0)
    assert sum(stats["provider_calls"].values()) == 160


class StillClock(Clock):
    """A clock that moves only when the test moves it."""

    def sleep(self, seconds: float) -> None:
        time.sleep(0.01)


def test_threads_are_answered_in_the_order_of_their_arrival(start: Start) -> None:
    """Each waits for its turn, whichever thread is faster when a route opens."""
    clock = StillClock()
    known = {"groq": parse_limits({"requests_per_minute": 6}, "bucket")}
    sandbox = start(keys={"groq": 1}, clock=clock, settings={"limits": known})
    provider = get_llm_provider()
    for number in range(6):
        provider.generate(f"{number}")

    def ask(number: int, waits: threading.Event) -> None:
        options = {"patience": 1e6, "timeout": 1e6, "on_wait": lambda _: waits.set()}
        provider.generate(f"{number}", **options)

    threads = []
    for number in range(6, 14):
        waits = threading.Event()
        threads.append(threading.Thread(target=ask, args=(number, waits), daemon=True))
        threads[-1].start()
        assert waits.wait(30)
    for thread in threads:
        # A place for one request. Two at once could reach the server in any order.
        clock.now += 10.1
        thread.join(30)
        assert not thread.is_alive()
    prompts = [int(request.body["messages"][-1]["content"]) for request in sandbox.requests]
    assert prompts == list(range(14))
    assert {request.status for request in sandbox.requests} == {200}


def test_a_thread_in_line_fails_when_its_time_is_up(start: Start) -> None:
    """The first one takes the only place in time; the second fails no later than its timeout."""
    known = {"groq": parse_limits({"requests_per_minute": 20}, "bucket")}
    limits = {"groq": {"requests_per_minute": 20}}
    start(keys={"groq": 1}, limits=limits, settings={"limits": known})
    provider = get_llm_provider()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: provider.generate("Hello", patience=0, max_tokens=1), range(20)))
    waits = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(provider.generate, "One", patience=9, on_wait=lambda _: waits.set())
        assert waits.wait(5)
        began = time.monotonic()
        with pytest.raises(NoRouteAvailable):
            provider.generate("Two", patience=9, timeout=1.2)
        in_time("a deadline", time.monotonic() - began - 1.2)
        assert first.result(10)


WAITING_THREADS = """
import threading, time
from arche_magic.llm_providers import get_llm_provider

provider = get_llm_provider("groq")
try:
    provider.generate("learn that the day is spent", patience=0)
except Exception:
    pass
waits = [threading.Event() for _ in range(40)]
for waiting in waits:
    ask = dict(patience=1e3, timeout=1e3, on_wait=lambda _, waiting=waiting: waiting.set())
    threading.Thread(target=provider.generate, args=("hi",), kwargs=ask, daemon=True).start()
assert all(waiting.wait(10) for waiting in waits)
cpu, wall = time.process_time(), time.monotonic()
time.sleep(3)
print((time.process_time() - cpu) / (time.monotonic() - wall))
"""


def test_many_waiting_threads_use_little_processor_time(start: Start, tmp_path: Path) -> None:
    """Forty waiting threads with a ledger file use less than a tenth of one processor."""
    sandbox = start(keys={"groq": 3}, left={"groq": {"requests_per_day": 0}})
    out, _ = run_script(WAITING_THREADS, tmp_path, sandbox.environment())
    assert float(out) < 0.1


def test_on_wait_reports_the_wait(start: Start, clock: Clock) -> None:
    """It gets the route and the seconds, twice a second, for plain and streamed replies."""
    start(keys={"groq": 1}, clock=clock, limits={"groq": {"requests_per_minute": 2}})
    provider = get_llm_provider()
    for number in range(2):
        provider.generate(f"Prompt {number}")
    for ask in (provider.generate, lambda *a, **o: list(provider.stream(*a, **o))):
        events: list[Waiting] = []
        assert ask("Hello", patience=60, on_wait=events.append)
        assert {str(event.route) for event in events} == {"groq · key 1 · gpt-oss-120b"}
        seconds = [event.seconds for event in events]
        assert seconds[0] == pytest.approx(30, abs=2)
        steps = [one - other for one, other in itertools.pairwise(seconds)]
        assert all(0 < step <= 0.51 for step in steps)


def test_a_request_waits_for_earlier_ones_even_if_a_route_is_open(
    start: Start, clock: Clock
) -> None:
    """It waits for no time that is known, and nothing is wrong with the route."""
    start(keys={"groq": 1}, clock=clock, limits={"groq": {"requests_per_minute": 2}})
    provider = get_llm_provider()
    for number in range(2):
        provider.generate(f"Prompt {number}")
    requests = [build_request(text, provider.configuration, patience=60) for text in ("A", "B")]
    earlier, later = map(provider.events_of, requests)
    first = next(event for event in earlier if isinstance(event, Waiting))
    assert first.seconds == pytest.approx(30, abs=2)
    clock.now += 60
    second = next(later)
    assert isinstance(second, Waiting)
    assert (second.seconds, second.why) == (0, "")
    earlier.close()
    assert any(isinstance(event, Piece) for event in later)
