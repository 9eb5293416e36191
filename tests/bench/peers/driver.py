"""One task in a peer's environment: `python driver.py PEER TASK PROMPTS THREADS`.

Prints a line of JSON. It imports nothing of ours: it runs where arche_magic is not installed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from statistics import median

Ask = Callable[[str], str]


def start(build: Callable[[], Ask]) -> dict[str, float]:
    """Seconds from an empty process to the first answer."""
    began = time.perf_counter()
    ask = build()
    built = time.perf_counter()
    assert ask("Hello.")
    return {"import_s": built - began, "answer_s": time.perf_counter() - began}


def overhead(build: Callable[[], Ask], prompts: int) -> dict[str, float]:
    """A call through the peer, and one with only the OpenAI SDK, in turns; medians."""
    from openai import OpenAI

    ask = build()
    client = OpenAI(
        api_key=os.environ.get("GROQ_API_KEY") or os.environ["GROQ_API_KEY_1"],
        base_url=os.environ["GROQ_BASE_URL"] + "/openai/v1",
        max_retries=0,
    )

    def raw(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        model = "openai/gpt-oss-120b"
        reply = client.chat.completions.create(model=model, messages=messages)  # type: ignore[arg-type]
        return reply.choices[0].message.content or ""

    times: dict[str, list[float]] = {"raw": [], "peer": []}
    for number in range(prompts + 20):
        for name, call in (("raw", raw), ("peer", ask)):
            began = time.perf_counter()
            assert call(f"Prompt number {number}.")
            if number >= 20:
                times[name].append(time.perf_counter() - began)
    ratios = (peer / one for one, peer in zip(times["raw"], times["peer"], strict=True))
    return {
        "ratio": median(ratios),
        "added_ms": 1000 * (median(times["peer"]) - median(times["raw"])),
    }


def many(build: Callable[[], Ask], prompts: int, threads: int) -> dict[str, float]:
    """How many of many prompts fail, and the seconds until the last answer."""
    ask = build()

    def answered(number: int) -> bool:
        try:
            return bool(ask(f"Prompt number {number}."))
        except Exception:  # noqa: BLE001  # each peer fails in its own way
            return False

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        failed = sum(not done for done in pool.map(answered, range(prompts)))
    return {"failed": failed, "seconds": time.perf_counter() - began}


def main() -> None:
    peer, task, prompts, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

    def build() -> Ask:
        ask: Ask = import_module(peer).build()
        return ask

    result = {
        "start": lambda: start(build),
        "overhead": lambda: overhead(build, prompts),
        "many": lambda: many(build, prompts, threads),
    }[task]()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
