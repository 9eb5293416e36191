"""What `openai_client()` adds to `generate`, and many concurrent streams.

`make bench` only prints it. Calls take turns against a sandbox in another process, so that a busy
machine slows both down equally.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import httpx
from overhead import CALLS, PROMPT, STREAMS, compare, configured, in_turns, sandbox

import arche_magic  # after the path, which `overhead` sets
from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.config import use_configuration

AT_ONCE = 50
MESSAGES: list[Any] = [{"role": "user", "content": PROMPT}]


def calls(reply_after: str, rounds: int) -> None:
    """One plain call: with `generate`, with only the transport, and with the client.

    The official client needs its own time above the transport, as it does above a network.
    """
    provider, client = get_llm_provider(), arche_magic.openai_client()
    http_client = httpx.Client(transport=arche_magic.openai_transport(), timeout=None)

    def generate() -> float:
        provider.generate(PROMPT)
        return 0.0

    def transport() -> float:
        body = {"model": "auto", "messages": MESSAGES}
        http_client.post("http://any/v1/chat/completions", json=body).json()
        return 0.0

    def complete() -> float:
        client.chat.completions.create(model="auto", messages=MESSAGES)
        return 0.0

    times = in_turns(rounds, generate=generate, transport=transport, complete=complete)
    print(f"replies {reply_after}; 'SDK alone' is `generate` here")
    compare("transport and handler", "<= 1.15", times["generate"], times["transport"])
    compare("official client on top", "<= 1.15", times["generate"], times["complete"])


def first_tokens() -> None:
    """Seconds to the first text of a stream, with `stream` and with the client."""
    provider, client = get_llm_provider(), arche_magic.openai_client()

    def stream() -> float:
        began = time.perf_counter()
        pieces = provider.stream(PROMPT)
        next(pieces)
        first = time.perf_counter() - began
        for _ in pieces:
            pass
        return first

    def complete() -> float:
        began, first = time.perf_counter(), 0.0
        for chunk in client.chat.completions.create(model="auto", messages=MESSAGES, stream=True):
            if not first and chunk.choices[0].delta.content:
                first = time.perf_counter() - began
        return first

    times = in_turns(STREAMS, stream=stream, complete=complete)
    title = "first streamed token; 'SDK alone' is `stream` here; CPU: whole stream"
    compare(title, "no target", times["stream"], times["complete"])


async def streams() -> None:
    """Many concurrent streams, each read to its end."""
    client = arche_magic.async_openai_client()

    async def read() -> str:
        stream = await client.chat.completions.create(model="auto", messages=MESSAGES, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    began = time.perf_counter()
    text = await read()
    alone = time.perf_counter() - began
    began = time.perf_counter()
    texts = await asyncio.gather(*(read() for _ in range(AT_ONCE)))
    seconds = time.perf_counter() - began
    whole = sum(other == text for other in texts)
    print(f"{AT_ONCE} streams at once, each reply after 0.5 s: {whole} arrived whole (target: all)")
    print(f"  one alone  {alone:7.2f} s\n  all        {seconds:7.2f} s")


def main() -> None:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{os.cpu_count()} cores, load {load:.1f} at the start; medians\n")
    with tempfile.TemporaryDirectory() as folder, sandbox() as variables:
        use_configuration(configured(variables, Path(folder)))
        calls("at once", CALLS)
        first_tokens()
    with tempfile.TemporaryDirectory() as folder, sandbox(latency=0.1) as variables:
        use_configuration(configured(variables, Path(folder)))
        calls("after 0.1 s", CALLS // 8)
    with tempfile.TemporaryDirectory() as folder, sandbox(latency=0.5) as variables:
        use_configuration(configured(variables, Path(folder)))
        asyncio.run(streams())


if __name__ == "__main__":
    main()
