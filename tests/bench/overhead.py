"""What the package adds to a provider's own SDK: `make bench` only prints it.

`--routes 1,50,200,500` only measures a plain call, with these numbers of keys for one provider.

Raw and wrapped calls take turns against a sandbox in another process, so that a busy machine slows
both down equally. CPU time is that of this process only, and is more reliable than wall time there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from sandbox_process import sandbox_process  # noqa: E402  # after the path

from arche_magic.llm_providers import IntelligentLLMOrchestrator  # noqa: E402  # as above
from arche_magic.llm_providers.catalog import parse_limits  # noqa: E402  # as above
from arche_magic.llm_providers.config import Configuration, load_configuration  # noqa: E402
from arche_magic.llm_providers.options import build_request  # noqa: E402

MODEL = "openai/gpt-oss-120b"
PROMPT = "Why is the sky blue? Answer in one paragraph."
LIMITS = ("requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day")
PLENTY = 1_000_000_000
CALLS, STREAMS, HOLDS, STARTS = 400, 150, 400, 7


@contextmanager
def sandbox(latency: float = 0.0, keys: int = 1) -> Iterator[dict[str, str]]:
    """The variables of a sandbox in another process whose limits are never reached.

    Its replies take `latency` seconds; it accepts this number of Groq keys.
    """
    arguments = ["--keys", f"groq={keys}", "--latency", str(latency)]
    for name in LIMITS:
        arguments += ["--limit", f"groq.{name}={PLENTY}"]
    with sandbox_process(*arguments) as variables:
        yield variables


def configured(
    variables: dict[str, str], folder: Path, requests_per_day: int = PLENTY
) -> Configuration:
    """Only Groq, with limits raised like the server's, and a ledger file in `folder`."""
    configuration = load_configuration(variables, folder)
    amounts = dict.fromkeys(LIMITS, PLENTY) | {"requests_per_day": requests_per_day}
    limits = parse_limits(amounts, "bucket")
    return replace(configuration, limits={"groq": limits})


def raw_client(variables: dict[str, str]) -> Any:
    """Groq's own SDK with the same settings as ours."""
    import groq
    import httpx

    return groq.Groq(
        api_key=variables.get("GROQ_API_KEY") or variables["GROQ_API_KEY_1"],
        base_url=variables["GROQ_BASE_URL"],
        max_retries=0,
        http_client=httpx.Client(
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        ),
    )


def in_turns(rounds: int, **calls: Callable[[], float]) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each call, taking turns in every round.

    A call that returns more than 0 returns its own wall time, such as that of a first token.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for round_ in range(rounds + 20):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            own = call()
            row = (own or time.perf_counter() - wall, time.process_time() - cpu)
            # The first rounds import, connect and warm up caches.
            if round_ >= 20:
                times[name].append(row)
    return times


def middle(rows: list[tuple[float, float]]) -> tuple[float, float]:
    """Median wall and CPU time, in milliseconds."""
    return 1000 * median(row[0] for row in rows), 1000 * median(row[1] for row in rows)


def compare(title: str, target: str, raw: list[Any], ours: list[Any]) -> None:
    """Print one comparison, with the median of the ratios of adjacent calls."""
    wall = median(b[0] / a[0] for a, b in zip(raw, ours, strict=True))
    cpu = median(b[1] / a[1] for a, b in zip(raw, ours, strict=True) if a[1])
    (raw_wall, raw_cpu), (our_wall, our_cpu) = middle(raw), middle(ours)
    print(f"{title} (target {target})")
    print(f"  SDK alone  {raw_wall:7.2f} ms wall  {raw_cpu:7.2f} ms CPU")
    print(f"  ours       {our_wall:7.2f} ms wall  {our_cpu:7.2f} ms CPU")
    print(f"  ratio      {wall:7.2f}          {cpu:7.2f}   (+{our_wall - raw_wall:.2f} ms wall)")


def plain_calls(client: Any, provider: IntelligentLLMOrchestrator) -> dict[str, list[Any]]:
    """Wall and CPU seconds of plain calls, raw and through the package, in turns."""
    messages = [{"role": "user", "content": PROMPT}]

    def raw() -> float:
        client.chat.completions.create(model=MODEL, messages=messages)
        return 0.0

    def ours() -> float:
        provider.generate(PROMPT)
        return 0.0

    return in_turns(CALLS, raw=raw, ours=ours)


def calls(variables: dict[str, str], configuration: Configuration) -> None:
    """One plain call, raw and through the package with the ledger on disk."""
    client = raw_client(variables)
    provider = IntelligentLLMOrchestrator(configuration=configuration)
    times = plain_calls(client, provider)
    compare("generate, ledger and attempts on disk", "<= 1.5", times["raw"], times["ours"])


def calls_with_routes(count: int, per_day: int) -> None:
    """A plain call with this number of keys, each with its own account.

    With plenty of requests a day, the first key takes every call. With fewer, each call changes the
    headroom, so that after each key has answered, all take turns.
    """
    with tempfile.TemporaryDirectory() as folder, sandbox(keys=count) as variables:
        configuration = configured(variables, Path(folder), per_day)
        client = raw_client(variables)
        provider = IntelligentLLMOrchestrator(configuration=configuration)
        for _ in range(count):
            provider.generate(PROMPT)
        times = plain_calls(client, provider)
        size = Path(configuration.store).stat().st_size
    ratio = median(b[0] / a[0] for a, b in zip(times["raw"], times["ours"], strict=True))
    cpu = median(b[1] / a[1] for a, b in zip(times["raw"], times["ours"], strict=True) if a[1])
    (raw_wall, _), (wall, _) = middle(times["raw"]), middle(times["ours"])
    turns = "first answers" if per_day == PLENTY else "all take turns"
    print(
        f"  {count:4} routes, {turns:14}  SDK {raw_wall:5.2f}  ours {wall:5.2f}"
        f"  ratio {ratio:4.2f}  (CPU {cpu:4.2f})  ledger {size / 1000:4.0f} kB"
    )


def numbers_of_routes(counts: list[int]) -> None:
    """Each in a process of its own, because thousands of clients slow down whatever comes later."""
    print(
        "generate by the number of routes, ledger and attempts on disk (target: 1.35 with one,\n"
        "and with 500 at most 1.5 times the time of one); ms wall, and the ratio to the SDK alone",
        flush=True,
    )
    for arguments in product(counts, (PLENTY, 10_000)):
        process = get_context("spawn").Process(target=calls_with_routes, args=arguments)
        process.start()
        process.join()


def first_tokens(variables: dict[str, str], configuration: Configuration) -> None:
    """Seconds from the call to the first text of a stream, raw and through the package."""
    client = raw_client(variables)
    provider = IntelligentLLMOrchestrator(configuration=configuration)
    messages = [{"role": "user", "content": PROMPT}]

    def raw() -> float:
        began, first = time.perf_counter(), 0.0
        for chunk in client.chat.completions.create(model=MODEL, messages=messages, stream=True):
            if not first and chunk.choices and chunk.choices[0].delta.content:
                first = time.perf_counter() - began
        return first

    def ours() -> float:
        began = time.perf_counter()
        stream = provider.stream(PROMPT)
        next(stream)
        first = time.perf_counter() - began
        for _ in stream:
            pass
        return first

    times = in_turns(STREAMS, raw=raw, ours=ours)
    compare("first streamed token; CPU: whole stream", "+3 ms", times["raw"], times["ours"])


def hold_and_settle(configuration: Configuration) -> None:
    """Only the ledger's part of a call."""
    from arche_magic.llm_providers.quota_tracker import Hold, Settlement, get_quota_tracker
    from arche_magic.llm_providers.types import Usage

    tracker = get_quota_tracker(configuration)
    route = configuration.routes()[0]
    request = build_request(PROMPT, configuration)

    def once() -> float:
        hold = tracker.hold(route, request)
        assert isinstance(hold, Hold)
        tracker.settle(Settlement(hold, Usage(20, 100)))
        return 0.0

    wall, cpu = middle(in_turns(HOLDS, once=once)["once"])
    print(f"hold and settle, on disk\n  ours       {wall:7.2f} ms wall  {cpu:7.2f} ms CPU")


def imports() -> None:
    """Seconds of an import in a new process, without the start of the process."""
    code = (
        "import time; wall, cpu = time.perf_counter(), time.process_time(); import {}; "
        "print(time.perf_counter() - wall, time.process_time() - cpu)"
    )
    print("import in a fresh process")
    for module in ("arche_magic", "arche_magic.llm_providers"):
        rows = []
        for _ in range(STARTS):
            command = [sys.executable, "-c", code.format(module)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            wall, cpu = map(float, done.stdout.split())
            rows.append((wall, cpu))
        wall, cpu = middle(rows)
        print(f"  {module:25} {wall:6.1f} ms wall  {cpu:6.1f} ms CPU")


def load_extension() -> None:
    """Seconds of `%load_ext arche_magic` in a new kernel."""
    from jupyter_client.manager import start_new_kernel

    code = (
        "import time; wall, cpu = time.perf_counter(), time.process_time()\n"
        "get_ipython().run_line_magic('load_ext', 'arche_magic')\n"
        "print(time.perf_counter() - wall, time.process_time() - cpu)"
    )
    rows = []
    for _ in range(3):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        manager, client = start_new_kernel(kernel_name="python3", env=environment)
        try:
            printed: list[str] = []

            def note(message: Any, printed: list[str] = printed) -> None:
                printed.append(message["content"].get("text", ""))

            client.execute_interactive(code, output_hook=note, timeout=60)
            wall, cpu = map(float, "".join(printed).split()[-2:])
            rows.append((wall, cpu))
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    wall, cpu = middle(rows)
    print("%load_ext arche_magic in a fresh kernel (target < 50 ms)")
    print(f"  ours       {wall:7.1f} ms wall  {cpu:7.1f} ms CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", help="numbers of keys, such as 1,50,200,500")
    options = parser.parse_args()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{os.cpu_count()} cores, load {load:.1f} at the start; medians\n")
    if options.routes:
        numbers_of_routes([int(count) for count in options.routes.split(",")])
        return
    with tempfile.TemporaryDirectory() as folder, sandbox() as variables:
        configuration = configured(variables, Path(folder))
        calls(variables, configuration)
        first_tokens(variables, configuration)
        hold_and_settle(configuration)
    numbers_of_routes([1, 500])
    imports()
    load_extension()


if __name__ == "__main__":
    main()
