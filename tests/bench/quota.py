"""How well limits are spent: `python tests/bench/quota.py` prints a row per situation.

Everything runs against the sandbox, whose own count is the truth: `refused` are its 429s,
`oversold` what it counted above a limit. Time is scaled where a run would take minutes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, LLMProviderError, Reply
from arche_magic.llm_providers.catalog import parse_limits
from arche_magic.llm_providers.config import Configuration, load_configuration
from arche_magic.llm_providers.parameters import build_request
from arche_magic.llm_providers.quota_tracker import Hold, get_quota_tracker
from arche_magic.llm_providers.types import Limit, Usage
from arche_magic.sandbox import Sandbox

MODELS = {"groq": "openai/gpt-oss-120b", "mistral": "mistral-small-latest"}
GEMINI_PER_MINUTE = {"requests_per_minute": 15}


@dataclass(frozen=True)
class ScaledClock:
    """Real time run faster, shared by the engine and the sandbox."""

    scale: float
    origin: float

    def time(self) -> float:
        return self.origin + (time.time() - self.origin) * self.scale

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / self.scale)


def configured(
    sandbox: Sandbox, clock: ScaledClock, store: str, limits: Mapping[str, tuple[Limit, ...]]
) -> Configuration:
    configuration = load_configuration(sandbox.environment())
    return replace(
        configuration, store=store, clock=clock, patience=3600.0, timeout=3600.0, limits=limits
    )


def ask_many(
    configuration: Configuration, prompts: int, threads: int
) -> tuple[float, list[Reply | LLMProviderError]]:
    """Seconds of the configuration's clock, and what came of each prompt."""
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
    """Seconds in which 3 Groq keys, Mistral and Gemini could admit all prompts, at best."""
    for tenth in range(36_000):
        elapsed = tenth / 10
        minutes_turned = int((started + elapsed) // 60) - int(started // 60)
        admitted = 3 * (30 + elapsed * 0.5) + 60 * (1 + elapsed // 60) + 15 * (1 + minutes_turned)
        if admitted >= prompts:
            return elapsed
    raise AssertionError("never")


def known_limits(scale: float) -> None:
    clock = ScaledClock(scale, time.time())
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


def unknown_limits(scale: float) -> None:
    """The server's limits are lower than the published ones, which is all the ledger knows."""
    clock = ScaledClock(scale, time.time())
    limits = {
        "groq": {"requests_per_minute": 10},
        "mistral": {"requests_per_minute": 20},
        "google": {"requests_per_minute": 5},
    }
    with Sandbox(clock=clock.time, limits=limits) as sandbox:
        configuration = configured(sandbox, clock, "memory://unknown", {})
        seconds, results = ask_many(configuration, 120, 1)
        failed = sum(not isinstance(result, Reply) for result in results)
        print(
            f"unknown limits, 120 prompts, 1 thread: failed {failed}, refused per key "
            f"{refused(sandbox)}, makespan {seconds:.1f} s"
        )


def dead_keys() -> None:
    """Five keys, four of them without quota for the day; then again after a restart."""
    left = {f"groq_key_{number}": {"requests_per_day": 0} for number in range(1, 5)}
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder, "outputs", "ledger.json"))
        clock = ScaledClock(1.0, time.time())
        with Sandbox(keys={"groq": 5}, left=left) as sandbox:
            configuration = configured(sandbox, clock, store, {})
            _, first = ask_many(configuration, 20, 4)
            context = multiprocessing.get_context("spawn")
            with context.Pool(1) as pool:
                answered = pool.apply(restarted, (sandbox.environment(), store))
            calls = {
                record: count
                for record, count in Counter(r.key for r in sandbox.requests).items()
                if record != "groq_key_5"
            }
            served = sum(isinstance(result, Reply) for result in first) + answered
            print(f"5 keys, 4 spent, 30 prompts: answered {served}, calls to spent keys {calls}")


def restarted(environment: Mapping[str, str], store: str) -> int:
    clock = ScaledClock(1.0, time.time())
    configuration = replace(
        load_configuration(environment), store=store, clock=clock, timeout=300.0
    )
    _, results = ask_many(configuration, 10, 2)
    return sum(isinstance(result, Reply) for result in results)


def many_processes(name: str, store: str) -> None:
    """8 processes x 25 threads on one account: 400 requests wanted, 200 allowed."""
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
    limits = {
        "groq": parse_limits(
            {"requests_per_day": 200, "requests_per_minute": 1e9, "tokens_per_minute": 1e9,
             "tokens_per_day": 1e9},
            "bucket",
        )
    }  # fmt: skip
    configuration = replace(
        load_configuration(environment), store=store, limits=limits, timeout=120.0, patience=0.0
    )
    _, results = ask_many(configuration, 50, 25)
    return sum(isinstance(result, Reply) for result in results)


def hold_and_settle(name: str, store: str) -> None:
    """Hold and settle alone, while four processes do the same."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        medians = pool.map(time_holds, [store] * 4)
    print(f"hold + settle, 4 processes, {name}: median {statistics.median(medians):.2f} ms")


def time_holds(store: str) -> float:
    environment = {"GROQ_API_KEY": "gsk_made_up_for_a_benchmark"}
    huge = parse_limits(
        {"requests_per_minute": 1e9, "requests_per_day": 1e9, "tokens_per_minute": 1e9,
         "tokens_per_day": 1e9}, "bucket",
    )  # fmt: skip
    configuration = replace(load_configuration(environment), store=store, limits={"groq": huge})
    tracker = get_quota_tracker(configuration)
    (route,) = configuration.routes()
    request = build_request("A prompt of usual length, as people write them.", configuration)
    seconds = []
    for _ in range(300):
        started = time.perf_counter()
        hold = tracker.hold(route, request)
        assert isinstance(hold, Hold)
        tracker.settle(hold, Usage(20, 100))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=3.0, help="how much faster time runs")
    parser.add_argument("--redis", help="also run the shared ones on this redis:// URL")
    options = parser.parse_args()
    situations: list[Callable[[], Any]] = [
        lambda: known_limits(options.scale),
        lambda: unknown_limits(options.scale),
        dead_keys,
    ]
    for situation in situations:
        situation()
    with tempfile.TemporaryDirectory() as folder:
        stores = {"JSON file": str(Path(folder, "outputs", "ledger.json"))}
        if options.redis:
            stores["Redis"] = options.redis
        for name, store in stores.items():
            many_processes(name, store)
            hold_and_settle(name, store)


if __name__ == "__main__":
    main()
