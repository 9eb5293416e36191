"""The official async client in this process: concurrent requests, and cancelling."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from typing import TYPE_CHECKING, Any

import openai
import pytest
from cancelling import cancelled, timed_out
from http_libraries import LIBRARIES
from promptness import in_time
from provider_parts import run_script

import arche_magic
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.config import get_configuration

if TYPE_CHECKING:
    from pathlib import Path

    from provider_parts import Start

    from arche_magic.sandbox import Sandbox

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
PLENTY = {"groq": dict.fromkeys(
    ("requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day"), 10_000_000
)}  # fmt: skip


def outcomes() -> list[str]:
    return [attempt.outcome for attempt in attempt_log(get_configuration().store).session()]


def test_the_async_client_gets_replies_streams_and_models(sandbox: Sandbox) -> None:
    """They equal those of the synchronous client."""

    async def main() -> None:
        async with arche_magic.async_openai_client(tag="async") as client:
            completion: Any = await client.chat.completions.create(model="auto", messages=HELLO)
            assert "You asked: “Hello”" in completion.choices[0].message.content
            assert completion.arche["attempts"][0]["tag"] == "async"
            stream = await client.chat.completions.create(
                model="mistral", messages=HELLO, stream=True
            )
            chunks = [chunk async for chunk in stream]
            assert "You asked" in "".join(c.choices[0].delta.content or "" for c in chunks)
            assert chunks[-1].choices[0].finish_reason == "stop"
            assert (await client.models.retrieve("auto")).id == "auto"
            with pytest.raises(openai.NotFoundError, match="unknown model 'nothing'"):
                await client.chat.completions.create(model="nothing", messages=HELLO)

    asyncio.run(main())


def test_the_async_client_accepts_httpx_and_httpx2(
    sandbox: Sandbox,
) -> None:
    """Libraries that create the client themselves may use either."""

    async def main(library: Any) -> str:
        transport = arche_magic.openai_transport()
        async with library.AsyncClient(transport=transport) as http_client:
            client = openai.AsyncOpenAI(api_key="unused", http_client=http_client, max_retries=0)
            stream = await client.chat.completions.create(model="auto", messages=HELLO, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    for library in LIBRARIES:
        assert "You asked: “Hello”" in asyncio.run(main(library))


def test_fifty_concurrent_streams_lose_no_chunk(start: Start) -> None:
    """Each text arrives complete and in order, much faster than one at a time."""

    def words(prompt: str) -> str:
        return " ".join(f"{prompt}-{number}" for number in range(60))

    sandbox = start(
        keys={"groq": 1}, limits=PLENTY, reply=lambda _, messages: words(messages[-1]["content"])
    )
    sandbox.seconds_per_chunk = 0.02

    async def text(client: openai.AsyncOpenAI, prompt: str) -> str:
        messages: list[Any] = [{"role": "user", "content": prompt}]
        stream = await client.chat.completions.create(model="auto", messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def main() -> None:
        client = arche_magic.async_openai_client()
        began = time.monotonic()
        assert await text(client, "first") == words("first")
        alone = time.monotonic() - began
        began = time.monotonic()
        prompts = [f"number{number}" for number in range(50)]
        texts = await asyncio.gather(*(text(client, prompt) for prompt in prompts))
        assert texts == [words(prompt) for prompt in prompts]
        assert time.monotonic() - began < 25 * alone

    asyncio.run(main())
    assert outcomes() == ["served"] * 51


@pytest.mark.parametrize("way", [cancelled, timed_out])
@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_call_uses_no_other_provider(start: Start, way: Any, stream: bool) -> None:
    """When the cancellation returns, its connection is closed and its call is counted."""
    sandbox = start(keys={"groq": 1, "mistral": 1})
    reported: list[object] = []
    ended: list[float] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
        client = arche_magic.async_openai_client()
        await client.chat.completions.create(model="auto", messages=HELLO)
        sandbox.latency = 30
        began = time.monotonic()
        request = client.chat.completions.create(model="auto", messages=HELLO, stream=stream)
        try:
            await way(request, lambda: len(sandbox.requests) == 2)
        finally:
            ended.append(time.monotonic() - began)
            assert outcomes() == ["served", "interrupted"]

    with pytest.raises((asyncio.CancelledError, TimeoutError)):
        asyncio.run(main())
    in_time("an interrupt", ended[0])
    gc.collect()
    assert reported == []
    assert len(sandbox.requests) == 2


def test_closing_a_stream_early_ends_the_call(sandbox: Sandbox) -> None:
    """The thread stops reading, and the call is counted before `close` returns."""
    sandbox.seconds_per_chunk = 0.2

    async def main() -> None:
        client = arche_magic.async_openai_client()
        async with await client.chat.completions.create(
            model="auto", messages=HELLO, stream=True
        ) as stream:
            async for _ in stream:
                break
        assert outcomes() == ["interrupted"]

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
def test_a_forked_child_has_its_own_threads(start: Start, tmp_path: Path) -> None:
    """A child process can send requests after its parent has."""
    code = """
import asyncio, os, arche_magic
async def ask():
    client = arche_magic.async_openai_client()
    await client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "Hello"}]
    )
asyncio.run(ask())
child = os.fork()
if not child:
    asyncio.run(asyncio.wait_for(ask(), 20))
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    out, _ = run_script(code, tmp_path, start().environment())
    assert out.strip() == "0"


def test_an_event_loop_that_ends_stops_its_streams(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """An unclosed stream neither continues nor delays the end, and nothing is printed."""
    sandbox.seconds_per_chunk = 0.2
    open_streams: list[Any] = []

    async def main() -> None:
        client = arche_magic.async_openai_client()
        stream = await client.chat.completions.create(model="auto", messages=HELLO, stream=True)
        async for _ in stream:
            break
        open_streams.append(stream)

    asyncio.run(main())
    assert outcomes() == ["interrupted"]
    assert caplog.records == []


def test_a_timeout_of_the_client_applies_to_an_async_request(sandbox: Sandbox) -> None:
    """The error is the official one."""

    async def main() -> None:
        client = arche_magic.async_openai_client()
        await client.chat.completions.create(model="auto", messages=HELLO)
        sandbox.latency = 30
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.5).chat.completions.create(
                model="auto", messages=HELLO
            )

    asyncio.run(main())


def test_a_stream_that_breaks_raises_an_error(start: Start) -> None:
    """The synchronous client does the same."""
    start(keys={"groq": 1, "mistral": 1}).fail("groq", "cut_stream")

    async def main() -> None:
        client = arche_magic.async_openai_client()
        stream = await client.chat.completions.create(model="auto", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="broke off"):
            async for _ in stream:
                pass

    asyncio.run(main())


def test_an_event_loop_may_end_with_the_reply(sandbox: Sandbox) -> None:
    """Libraries run a loop until their own task is done; we leave no tasks in it."""
    client = arche_magic.async_openai_client()
    loop = asyncio.new_event_loop()
    for _ in range(20):
        loop.run_until_complete(client.chat.completions.create(model="auto", messages=HELLO))
        assert asyncio.all_tasks(loop) == set()
    loop.close()
