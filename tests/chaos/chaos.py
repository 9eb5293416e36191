"""Prompts under failures: every route fails in every way, and no prompt may be lost.

`make chaos` runs the long form, and every test run includes the short form `test_chaos.py`. The
providers are a sandbox in another process. Its clock and the engine's can run faster than real
time.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from clocks import FastClock  # noqa: E402  # the path
from sandbox_process import sandbox_process  # noqa: E402  # as above

from arche_magic.llm_providers import IntelligentLLMOrchestrator, Reply  # noqa: E402  # as above
from arche_magic.llm_providers.attempt_file import attempts_of, read_lines  # noqa: E402  # as above
from arche_magic.llm_providers.catalog import parse_limits  # noqa: E402  # as above
from arche_magic.llm_providers.config import Configuration, load_configuration  # noqa: E402
from arche_magic.llm_providers.events import Discarded, Piece  # noqa: E402  # as above
from arche_magic.llm_providers.reply import Attempt  # noqa: E402  # as above
from arche_magic.llm_providers.types import Timeouts  # noqa: E402  # as above
from arche_magic.sandbox.replies import make_reply  # noqa: E402  # as above
from arche_magic.sandbox.types import Call, Message  # noqa: E402  # as above

KEYS = {"groq": 3, "mistral": 2, "google": 2, "openai": 2}
THREADS = 16
SHARE = 0.25
# All temporary kinds, including limits per day, because the clocks run fast.
KINDS = (
    "rate_limit_minute", "rate_limit_day", "server_error", "overloaded", "plain_text_error",
    "echo_key", "reset", "stall", "stall_stream", "cut_stream", "broken_connection",
    "malformed_body", "malformed_event", "stream_error", "empty_reply", "unrelated_json",
)  # fmt: skip
# OpenAI never filters: a prompt that all models filter has no reply, and would count as lost.
FILTERING = ("groq", "mistral", "google")
FILTERED_SHARE = SHARE / (1 + len(KINDS))
PLENTY = 10**9
LIMITS = (
    "requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day",
    "tokens_per_month", "input_tokens_per_minute",
)  # fmt: skip
ENDLESS = 1e7


@dataclass
class Providers:
    """A sandbox in its own process, controlled over HTTP."""

    variables: dict[str, str]
    seed: int

    def __post_init__(self) -> None:
        base = self.variables["GROQ_BASE_URL"].removesuffix("/groq")
        self._http = httpx.Client(base_url=f"{base}/_sandbox/", trust_env=False, timeout=60)

    def get(self, name: str) -> Any:
        return self._http.get(name).json()

    def tell(self, name: str, **body: Any) -> None:
        self._http.post(name, json=body).raise_for_status()

    def text(self, provider: str, model: str, prompt: str) -> str:
        """The model's reply to the prompt, computed without the server."""
        call = Call(provider, model, (Message("user", prompt),))
        return make_reply(call, self.seed).text


def set_on_fire(server: Providers) -> None:
    """Make a quarter of all requests fail at random."""
    for name in FILTERING:
        server.tell("fail_randomly", target=name, share=FILTERED_SHARE, kinds=["content_filter"])
    server.tell("fail_randomly", share=SHARE - FILTERED_SHARE, kinds=KINDS)


@contextmanager
def providers(scale: float, seed: int = 7) -> Iterator[Providers]:
    """Start the sandbox, with limits that are never reached."""
    arguments = [f"--time-scale={scale}", f"--seed={seed}"]
    for name, count in KEYS.items():
        arguments += ["--keys", f"{name}={count}"]
        for limit in LIMITS:
            arguments += ["--limit", f"{name}.{limit}={PLENTY}"]
    with sandbox_process(*arguments) as variables:
        yield Providers(variables, seed)


def configured(server: Providers, folder: Path, timeouts: Timeouts) -> Configuration:
    """All routes of the sandbox, with its clock and a ledger in a folder."""
    clock = server.get("clock")
    configuration = load_configuration(server.variables, folder)
    plenty = dict.fromkeys(LIMITS, PLENTY)
    return replace(
        configuration,
        clock=FastClock(clock["scale"], clock["now"]),
        limits={name: parse_limits(plenty, configuration.providers[name].window) for name in KEYS},
        timeouts=timeouts,
    )


@dataclass
class Result:
    """The result of a run, which is good if there are no complaints."""

    seconds: float
    replies: int
    complaints: list[str]
    failures: Counter[str] = field(default_factory=Counter)


def run(
    server: Providers, configuration: Configuration, prompts: int, threads: int = THREADS
) -> Result:
    """Send many prompts, some of them streamed, and compare replies with the expected ones."""
    llm = IntelligentLLMOrchestrator(configuration=configuration)
    complaints: list[str] = []
    failures: Counter[str] = Counter()

    def ask(number: int) -> bool:
        prompt = f"Prompt {number}: {'word ' * (number % 30)}"
        options = {"patience": ENDLESS, "timeout": ENDLESS, "fallback_on_filter": True}
        try:
            if number % 2:
                reply, shown = generated(llm, prompt, options)
            else:
                reply, shown = streamed(llm, prompt, options)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a complaint
            complaints.append(f"{prompt!r} was lost: {type(error).__name__}: {error}")
            return False
        whole = server.text(reply.provider, reply.model, prompt)
        if not shown == str(reply) == whole:
            complaints.append(f"{prompt!r} is not its reply: {shown[:200]!r}")
        served = [attempt for attempt in reply.attempts if attempt.outcome == "served"]
        if len(served) != 1 or served[0] is not reply.attempts[-1]:
            complaints.append(f"{prompt!r} was served {len(served)} times")
        failures.update(a.error or "" for a in reply.attempts if a.outcome == "failed")
        return True

    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        replies = sum(pool.map(ask, range(prompts)))
    return Result(time.monotonic() - began, replies, complaints, failures)


def generated(
    llm: IntelligentLLMOrchestrator, prompt: str, options: dict[str, Any]
) -> tuple[Reply, str]:
    """A reply without streaming."""
    reply = llm.generate(prompt, **options)
    return reply, str(reply)


def streamed(
    llm: IntelligentLLMOrchestrator, prompt: str, options: dict[str, Any]
) -> tuple[Reply, str]:
    """A streamed reply, as the text that a cell shows at the end."""
    events, shown = llm.events(prompt, **options), ""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value, shown
        if isinstance(event, Piece):
            shown += event.text
        elif isinstance(event, Discarded):
            shown = ""


def check_counts(server: Providers, configuration: Configuration) -> list[str]:
    """Compare the ledger, the attempts and the server's count, account by account.

    The ledger must equal the sum of the attempts. It must also equal the server's count, except for
    failed requests that the server did not count, and for estimates of calls that broke off.
    """
    complaints = []
    path = Path(configuration.store)
    recorded = charged(path)
    attempts: dict[tuple[str, str], list[Attempt]] = {}
    for attempt in attempts_of(read_lines(path.with_name("llm_calls.jsonl"))):
        if attempt.outcome != "skipped":
            attempts.setdefault((attempt.key, attempt.model), []).append(attempt)
    uncounted: Counter[tuple[str, str]] = Counter()
    for request in server.get("requests"):
        if request["status"] == 0 or request["status"] >= 500:
            uncounted[request["key"], request["model"]] += 1
    counts = {
        (key, model): count
        for key, models in server.get("usage").items()
        for model, count in models.items()
    }
    for place in sorted({*counts, *attempts}):
        ours, count = recorded.get(place, Counter()), counts.get(place, Counter())
        sent = [a for a in attempts.get(place, ()) if a.outcome != "refused"]
        for metric in ("input_tokens", "output_tokens"):
            noted = sum(getattr(attempt, metric) for attempt in sent)
            if round(ours[metric]) != noted:
                complaints.append(f"{place}: ledger {ours[metric]} and attempts {noted} {metric}")
            # The cost of a call that broke off is estimated from similar calls.
            guessed = sum(getattr(a, metric) for a in sent if a.outcome == "failed")
            if ours[metric] + guessed / 2 < count[metric]:
                complaints.append(f"{place}: {ours[metric]} {metric} of {count[metric]} recorded")
            if not any(a.outcome == "failed" for a in sent) and ours[metric] != count[metric]:
                complaints.append(f"{place}: {ours[metric]} {metric}, server {count[metric]}")
        counted = count["requests"] + uncounted[place]
        if not ours["requests"] == counted == len(sent):
            complaints.append(
                f"{place}: {ours['requests']:g} requests in the ledger, {len(sent)} attempts, "
                f"{count['requests']} counted by the server and {uncounted[place]} not"
            )
    return complaints


def charged(path: Path) -> dict[tuple[str, str], Counter[str]]:
    """All amounts that the ledger ever counted, by key label and model; see docs/ledger.md.

    If the account of a key became known during the run, the amounts are in two documents.
    """
    totals: dict[tuple[str, str], Counter[str]] = {}
    for document in json.loads(path.read_text())["documents"].values():
        for model, entry in document.get("models", {}).items():
            amounts = entry.get("charged", {})
            for key in document.get("keys", {}).values():
                totals.setdefault((key["label"], model), Counter()).update(amounts)
    return totals


@contextmanager
def world(scale: float, timeouts: Timeouts) -> Iterator[tuple[Providers, Configuration]]:
    """A sandbox and a new ledger for it."""
    with providers(scale) as server, tempfile.TemporaryDirectory() as folder:
        yield server, configured(server, Path(folder), timeouts)


# Short timeouts if servers stall. Otherwise long ones, so that a slow machine is not too late.
SHORT_TIMEOUTS = Timeouts(first_token=3.0, silence=3.0, answer=3.0)
LONG_TIMEOUTS = Timeouts()


# So fast that a day takes a minute, so that sometimes all routes have reached their daily limit.
SCALE = 2000.0


def clean_and_under_fire(prompts: int, scale: float = SCALE) -> tuple[Result, Result]:
    """Send the same prompts twice: without failures, and with a quarter of failing calls."""
    results = []
    for on_fire in (False, True):
        with world(scale, SHORT_TIMEOUTS if on_fire else LONG_TIMEOUTS) as (server, configuration):
            if on_fire:
                set_on_fire(server)
            result = run(server, configuration, prompts)
            result.complaints += check_counts(server, configuration)
            results.append(result)
    return results[0], results[1]


def outage(seconds: float, scale: float, threads: int = THREADS) -> tuple[Result, list[float]]:
    """Take all routes down while prompts wait. Also returns the times of all calls."""
    with world(scale, LONG_TIMEOUTS) as (server, configuration):
        llm = IntelligentLLMOrchestrator(configuration=configuration)
        llm.generate("The first call builds the client.", patience=ENDLESS)
        before = len(server.get("requests"))
        server.tell("fail", target="*", kind="overloaded", seconds=seconds)
        result = run(server, configuration, 2 * threads, threads)
        tries = server.get("requests")[before:]
        began = tries[0]["at"]
        return result, [t["at"] - began for t in tries if t["status"] == 503]


@dataclass
class Footprint:
    """The resources that the process uses."""

    megabytes: float
    files: int
    threads: int

    @classmethod
    def now(cls) -> Footprint:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # its own entry goes either way
        return cls(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, files, threading.active_count())


def soak(
    seconds: float,
    report: Callable[[str], None],
    *,
    prompts_per_round: int = 500,
    fewest_rounds: int = 1,
    scale: float = SCALE,
) -> tuple[int, list[str], list[Footprint]]:
    """Run at full speed with failures. Returns prompts, complaints and footprints."""
    footprints, complaints, prompts = [], [], 0
    with world(scale, SHORT_TIMEOUTS) as (server, configuration):
        set_on_fire(server)
        ends = time.monotonic() + seconds
        while len(footprints) < fewest_rounds or time.monotonic() < ends:
            result = run(server, configuration, prompts_per_round)
            complaints += result.complaints
            prompts += result.replies
            footprints.append(Footprint.now())
            if len(footprints) % 10 == 1:
                report(f"{prompts:7,} prompts  {footprints[-1]}")
        return prompts, complaints, footprints


def growth(footprints: list[Footprint]) -> list[str]:
    """The growth between the first and the last third of a soak, after warming up."""
    third = max(1, len(footprints) // 3)
    early, late = footprints[third // 2 : third + 1], footprints[-third:]
    complaints = []
    for name, slack in (("megabytes", 15.0), ("files", 8), ("threads", 4)):
        first = max(getattr(footprint, name) for footprint in early)
        last = min(getattr(footprint, name) for footprint in late)
        if last > first + slack:
            complaints.append(f"{name} grew from {first:g} to {last:g}")
    return complaints


def main() -> int:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--outage-seconds", type=float, default=20.0)
    parser.add_argument("--soak-minutes", type=float, default=30.0)
    chosen = parser.parse_args()
    complaints: list[str] = []

    clean, fire = clean_and_under_fire(chosen.prompts)
    for name, result in (("clean", clean), ("25 % failures", fire)):
        rate = result.replies / result.seconds
        print(f"{name:14} {result.replies:,} replies in {result.seconds:.1f} s ({rate:.0f}/s)")
    print(f"extra time     {fire.seconds / clean.seconds - 1:.0%}")
    print(f"failures met   {sum(fire.failures.values()):,} of {len(fire.failures)} kinds")
    complaints += clean.complaints + fire.complaints

    result, tries = outage(chosen.outage_seconds, scale=1.0)
    print(f"outage         {result.replies} prompts answered after {result.seconds:.1f} s, "
          f"{len(tries)} tries meanwhile")  # fmt: skip
    complaints += result.complaints

    if chosen.soak_minutes:
        prompts, lost, footprints = soak(60 * chosen.soak_minutes, print)
        print(f"soak           {prompts:,} prompts, {footprints[0]} to {footprints[-1]}")
        complaints += lost + growth(footprints)

    for complaint in complaints[:20]:
        print("COMPLAINT", complaint)
    print("nothing lost" if not complaints else f"{len(complaints)} complaints")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
