"""Use of the limits, and the cost of the ledger: `python tests/bench/quota.py` prints both.

The calls use the sandbox's own counts: `refused` are its 429s, and what it accepted above a limit
was oversold. For runs that would take minutes, the clock is sped up. Redis is started if it is
installed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, LLMProviderError, Reply
from arche_magic.llm_providers.attempt_file import read_lines
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.catalog import parse_limits, published_providers
from arche_magic.llm_providers.config import Configuration, label_keys, load_configuration
from arche_magic.llm_providers.options import build_request
from arche_magic.llm_providers.quota_tracker import (
    Hold,
    QuotaTracker,
    Settlement,
    get_quota_tracker,
)
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.types import Limit, Observation, Timeouts, Usage
from arche_magic.notebook.frames import recorded_attempts_frame
from arche_magic.sandbox import Sandbox

sys.path.insert(0, str(Path(__file__).parents[1]))

from clocks import FastClock  # the path
from redis_server import RedisServer  # as above

MODELS = {"groq": "openai/gpt-oss-120b", "mistral": "mistral-small-latest"}
GEMINI_PER_MINUTE = {"requests_per_minute": 15}
MANY_ATTEMPTS = 1_000_000
HUGE = {
    "requests_per_minute": 1e9, "requests_per_day": 1e9, "tokens_per_minute": 1e9,
    "tokens_per_day": 1e9,
}  # fmt: skip


def configured(
    sandbox: Sandbox, clock: FastClock, store: str, limits: Mapping[str, tuple[Limit, ...]]
) -> Configuration:
    configuration = load_configuration(sandbox.environment())
    return replace(
        configuration,
        store=store,
        clock=clock,
        patience=3600.0,
        timeouts=Timeouts(total=3600.0),
        limits=limits,
    )


def ask_many(
    configuration: Configuration, prompts: int, threads: int
) -> tuple[float, list[Reply | LLMProviderError]]:
    """Seconds of the configuration's clock, and the outcome of each prompt."""
    provider = IntelligentLLMOrchestrator(configuration=configuration)

    def ask(number: int) -> Reply | LLMProviderError:
        try:
            return provider.generate(f"Prompt number {number}.", max_tokens=20)
        except LLMProviderError as error:
            return error

    started = configuration.clock.time()
    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(ask, range(prompts)))
    return configuration.clock.time() - started, results


def refused(sandbox: Sandbox) -> dict[str, int]:
    return {
        key: sum(count["refused"] for count in models.values())
        for key, models in sandbox.usage().items()
    }


def best_makespan(prompts: int, started: float) -> float:
    """Shortest time in seconds in which 3 Groq keys, Mistral and Gemini can accept all prompts."""
    for tenth in range(36_000):
        elapsed = tenth / 10
        minutes_turned = int((started + elapsed) // 60) - int(started // 60)
        admitted = 3 * (30 + elapsed * 0.5) + 60 * (1 + elapsed // 60) + 15 * (1 + minutes_turned)
        if admitted >= prompts:
            return elapsed
    raise AssertionError("never")


# --- use of the limits


def known_limits(scale: float) -> None:
    clock = FastClock(scale, time.time())
    limits = {"google": parse_limits(GEMINI_PER_MINUTE, "calendar", "America/Los_Angeles")}
    with Sandbox(clock=clock.time, limits={"google": GEMINI_PER_MINUTE}) as sandbox:
        configuration = configured(sandbox, clock, "memory://known", limits)
        started = clock.time()
        seconds, results = ask_many(configuration, 300, 8)
        best = best_makespan(300, started)
        failed = sum(not isinstance(result, Reply) for result in results)
        paid = sum(isinstance(r, Reply) and r.provider == "openai" for r in results)
        print(
            f"known limits, 300 prompts, 8 threads: failed {failed}, refused "
            f"{sum(refused(sandbox).values())}, paid {paid}, makespan {seconds:.1f} s = "
            f"{seconds / best:.2f} x the best possible ({best:.1f} s)"
        )


def unknown_limits(scale: float, threads: int) -> None:
    """The server's limits are lower than the published ones that the ledger starts with."""
    clock = FastClock(scale, time.time())
    limits = {
        "groq": {"requests_per_minute": 10},
        "mistral": {"requests_per_minute": 20},
        "google": {"requests_per_minute": 5},
    }
    with Sandbox(clock=clock.time, limits=limits) as sandbox:
        configuration = configured(sandbox, clock, f"memory://unknown-{threads}", {})
        seconds, results = ask_many(configuration, 120, threads)
        failed = sum(not isinstance(result, Reply) for result in results)
        print(
            f"unknown limits, 120 prompts, {threads} threads: failed {failed}, refused per key "
            f"{refused(sandbox)}, makespan {seconds:.1f} s"
        )


def dead_keys() -> None:
    """Five keys, four without quota for the day; then a restarted kernel, and two together."""
    left = {f"groq_key_{number}": {"requests_per_day": 0} for number in range(1, 5)}
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder, "outputs", "ledger.json"))
        clock = FastClock(1.0, time.time())
        with Sandbox(keys={"groq": 5}, left=left) as sandbox:
            configuration = configured(sandbox, clock, store, {})
            # No more than the one good key allows in a minute, so that nothing waits.
            _, first = ask_many(configuration, 12, 8)
            answered = sum(isinstance(result, Reply) for result in first)
            context = multiprocessing.get_context("spawn")
            for kernels in (1, 2):
                with context.Pool(kernels) as pool:
                    answers = [(sandbox.environment(), store)] * kernels
                    answered += sum(pool.starmap(restarted, answers))
            calls = Counter(request.key for request in sandbox.requests)
            calls.pop("groq_key_5", None)
            print(f"5 keys, 4 spent, 8 threads, 30 prompts, 3 more kernels: answered {answered}, "
                  f"calls to spent keys {dict(calls)}")  # fmt: skip


def restarted(environment: Mapping[str, str], store: str) -> int:
    clock = FastClock(1.0, time.time())
    configuration = replace(
        load_configuration(environment), store=store, clock=clock, timeouts=Timeouts(total=300.0)
    )
    _, results = ask_many(configuration, 6, 2)
    return sum(isinstance(result, Reply) for result in results)


def outage(scale: float) -> None:
    """Eight threads with a provider that is down for a while: the number of failed calls."""
    clock = FastClock(scale, time.time())
    with Sandbox(keys={"mistral": 1}, clock=clock.time) as sandbox:
        configuration = configured(sandbox, clock, "memory://outage", {})
        ask_many(configuration, 1, 1)
        began = clock.time()
        sandbox.fail("mistral", "overloaded", times=14)
        _, results = ask_many(configuration, 40, 8)
        failed = [r.at - began for r in sandbox.requests if r.status == 503]
        together = sum(moment < failed[0] + 0.7 for moment in failed)
        print(
            f"an outage, 40 prompts, 8 threads: answered "
            f"{sum(isinstance(result, Reply) for result in results)}, calls under way when it "
            f"began {together}, then one at {', '.join(f'{m:.0f} s' for m in failed[together:])}"
        )


def many_processes(name: str, store: str) -> None:
    """8 processes with 25 threads each on one account: 400 requests wanted, 200 allowed."""
    limit = {"requests_per_day": 200, "requests_per_minute": None, "tokens_per_minute": None}
    with Sandbox(keys={"groq": 1}, limits={"groq": limit}) as sandbox:
        context = multiprocessing.get_context("spawn")
        with context.Pool(8) as pool:
            jobs = [pool.apply_async(one_process, (sandbox.environment(), store)) for _ in range(8)]
            served = sum(job.get(timeout=300) for job in jobs)
        count = sandbox.usage()["groq_key_1"][MODELS["groq"]]
        configuration = replace(load_configuration(sandbox.environment()), store=store)
        tracker = get_quota_tracker(configuration)
        (ours,) = [row for row in tracker.standings("groq") if row.limit == "requests_per_day"]
        print(
            f"8 processes x 25 threads, {name}: served {served}, server admitted "
            f"{count['requests']}, refused {count['refused']}, ledger says {ours.used:.1f}"
        )


def one_process(environment: Mapping[str, str], store: str) -> int:
    limits = {"groq": parse_limits({**HUGE, "requests_per_day": 200}, "bucket")}
    configuration = replace(load_configuration(environment), store=store, limits=limits, patience=0)
    _, results = ask_many(configuration, 50, 25)
    return sum(isinstance(result, Reply) for result in results)


# --- costs of the ledger


def hold_and_settle(name: str, store: str, processes: int) -> float:
    """Milliseconds of hold and settle, while all processes do only this for one account."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(processes) as pool:
        barrier = manager.Barrier(processes)
        timed = pool.starmap(time_holds, [(store, barrier)] * processes, chunksize=1)
    seconds = sorted(second for each in timed for second in each)
    median = 1000 * statistics.median(seconds)
    late = 1000 * seconds[int(0.95 * len(seconds))]
    print(
        f"hold + settle, {processes} processes, {name}: median {median:.2f} ms, "
        f"95 % below {late:.1f} ms"
    )
    return median


def time_holds(store: str, barrier: Any = None, pairs: int = 400) -> list[float]:
    tracker, route, request = holder(store)
    if barrier:
        barrier.wait(60)
    seconds = []
    for _ in range(pairs):
        started = time.perf_counter()
        hold = tracker.hold(route, request)
        while not isinstance(hold, Hold):
            # Calls wait for the very first answer.
            hold = tracker.hold(route, request)
        tracker.settle(Settlement(hold, Usage(20, 100)))
        seconds.append(time.perf_counter() - started)
    return seconds


def holder(store: str) -> tuple[QuotaTracker, Any, Any]:
    environment = {"GROQ_API_KEY": "gsk_made_up_for_a_benchmark"}
    limits = {"groq": parse_limits(HUGE, "bucket")}
    configuration = replace(load_configuration(environment), store=store, limits=limits)
    (route,) = configuration.routes()
    request = build_request("A prompt of usual length, as people write them.", configuration)
    return get_quota_tracker(configuration), route, request


def large_ledger() -> None:
    """50 keys with 10 models each, all of which were answered once."""
    provider = published_providers()["groq"]
    table = next(iter(provider.limits.values()))
    models = tuple(f"vendor/model-{number}" for number in range(10))
    provider = replace(provider, models=models, limits=dict.fromkeys(models, table))
    with tempfile.TemporaryDirectory() as folder:
        configuration = Configuration(
            providers={"groq": provider},
            keys=label_keys("groq", [f"gsk_made_up_{number}" for number in range(50)]),
            store=str(Path(folder, "ledger.json")),
        )
        tracker = get_quota_tracker(configuration)
        request = build_request("A prompt of usual length, as people write them.", configuration)
        seen = [
            Observation("requests_per_day", 1000, 999, 86.4),
            Observation("tokens_per_minute", 8000, 7890, 0.8),
        ]
        seconds = []
        for route in configuration.routes():
            started = time.perf_counter()
            hold = tracker.hold(route, request)
            assert isinstance(hold, Hold)
            tracker.settle(Settlement(hold, Usage(30, 80), seen))
            seconds.append(time.perf_counter() - started)
        size = Path(configuration.store).stat().st_size
        late = 1000 * statistics.median(seconds[-50:])
        print(f"a ledger of 50 keys x 10 models: {size / 1000:.0f} kB, hold + settle {late:.2f} ms")


def many_attempts() -> None:
    """The same figures without attempts, and with a million recorded attempts."""
    with tempfile.TemporaryDirectory() as folder:
        stores = [str(Path(folder, name, "ledger.json")) for name in ("new", "old")]
        for store in stores:
            Path(store).parent.mkdir()
        attempt = Attempt("groq", "groq_key_1", MODELS["groq"], "served", at=time.time())
        line = json.dumps(attempt.to_dict()) + "\n"
        with Path(stores[1]).with_name("llm_calls.jsonl").open("w") as file:
            for _ in range(MANY_ATTEMPTS // 1000):
                file.write(line * 1000)
        figures = []
        for store in stores:
            command = [sys.executable, __file__, "--start", store]
            figures.append(json.loads(subprocess.check_output(command)))
        new, old = figures
        for what, unit in (("start", "s"), ("hold + settle", "ms"), ("memory", "MB")):
            print(
                f"after {MANY_ATTEMPTS:,} attempts, {what}: {old[what]:.3g} {unit} = "
                f"{old[what] / new[what]:.2f} x that of a new ledger"
            )
        print(f"after {MANY_ATTEMPTS:,} attempts, reading the last hour: {old['last hour']:.2f} s")
        frame_of_attempts(Path(stores[1]).with_name("llm_calls.jsonl"))


def frame_of_attempts(path: Path) -> None:
    """All attempts as a DataFrame, compared with pyarrow's reader alone."""
    import pyarrow.json

    def seconds_of(work: Callable[[], Any]) -> tuple[float, float]:
        began, worked = time.perf_counter(), time.process_time()
        work()
        return time.perf_counter() - began, time.process_time() - worked

    ours = seconds_of(lambda: recorded_attempts_frame(read_lines(path)))
    theirs = seconds_of(lambda: pyarrow.json.read_json(path))
    print(
        f"the frame of {MANY_ATTEMPTS:,} attempts: {ours[0]:.1f} s ({ours[1]:.1f} s of the "
        f"processor); pyarrow's reader alone {theirs[0]:.1f} s ({theirs[1]:.1f} s)"
    )


def start(store: str) -> dict[str, float]:
    """The time of a new process until its first hold, and for reading the history."""
    began = time.perf_counter()
    tracker, route, request = holder(store)
    hold = tracker.hold(route, request)
    assert isinstance(hold, Hold)
    tracker.settle(Settlement(hold, Usage(20, 100)))
    log = attempt_log(store)
    log.append([Attempt("groq", "groq_key_1", route.model, "served", at=time.time())])
    ready = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    pairs = time_holds(store)
    began = time.perf_counter()
    log.since(time.time() - 3600)
    return {
        "start": ready,
        "memory": memory,
        "hold + settle": 1000 * statistics.median(pairs),
        "last hour": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=3.0, help="how much faster time runs")
    parser.add_argument("--redis", help="use this redis:// URL, which is written to")
    parser.add_argument("--start", metavar="STORE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        print(json.dumps(start(options.start)))
        return
    situations: list[Callable[[], Any]] = [
        # In real time, because threads and windows do not scale alike.
        lambda: known_limits(1.0),
        lambda: unknown_limits(options.scale, 1),
        lambda: unknown_limits(options.scale, 8),
        dead_keys,
        lambda: outage(options.scale),
        large_ledger,
        many_attempts,
    ]
    for situation in situations:
        situation()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stores = {"JSON file": str(folder / "outputs" / "ledger.json")}
        if options.redis:
            stores["Redis"] = options.redis
        elif shutil.which("redis-server"):
            stores["Redis"] = stack.enter_context(RedisServer(folder)).url
        for name, store in stores.items():
            many_processes(name, store)
            for processes in (1, 4):
                hold_and_settle(name, store, processes)


if __name__ == "__main__":
    main()
